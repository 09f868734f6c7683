"""A log that leaves as a file and comes in elsewhere: the same events, and nothing of it lost or told."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard

from services.dev.servers import EmbeddedRedis
from services.ops.exits import Exit
from services.ops.exporters.log import LogExport
from services.ops.importers.logcopy import LogReport, import_log
from services.ops.importers.logfile import LogFile
from services.wiring import Resources, resources
from tests.databases import Databases
from tests.installations import SITE, Installation, key
from tests.logcheck import violations
from tests.processes import ROOT
from tests.talk import talking
from tests.writer import MASTER_KEY, writer

THREAD = "thread/0"
CLI = "from services.ops.cli import main; main()"


@pytest.fixture
def source(database_url: str, redis_url: str, broker_url: str) -> Installation:
    """Where the log comes from: with one lane."""
    return Installation(database_url, redis_url, broker_url, MASTER_KEY)


@pytest.fixture
def target(databases: Databases, emptied_redis: EmbeddedRedis) -> Iterator[Installation]:
    """Where it goes to: with two lanes, another master key, and the site, in which nothing was written."""
    url = databases.take(lanes=2)
    made = Installation(url, emptied_redis.url(2), emptied_redis.url(3), key(7))
    made.run("site", "add", SITE)
    yield made
    databases.give_back(url, lanes=2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "blog.jsonl.zst"


def filled(source: Installation, threads: int = 3, happenings: int = 40) -> Installation:
    for number in range(threads):
        source.talk(f"thread/{number}", happenings, seed=number)
    return source


def export(source: Installation, file: Path, *more: object) -> dict[str, Any]:
    told = source.run("export", "--site", SITE, "-o", file, "--json", *more)
    return dict(json.loads(told.stdout))


def bring(target: Installation, file: Path, *more: object) -> dict[str, Any]:
    return dict(json.loads(target.run("import", "log", file, "--json", *more).stdout))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in unpacked(file).splitlines()]


def unpacked(file: Path) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(file.read_bytes())


def unplaced(file: Path) -> list[dict[str, Any]]:
    """The lines of an export, their places in the lanes aside."""
    places = {"position", "lane"}
    return [{name: value for name, value in line.items() if name not in places} for line in lines(file)]


def texts(installation: Installation, thread: str = THREAD) -> list[str | None]:
    """What a moderator reads in a thread."""
    shown = json.loads(installation.run("thread", "show", SITE, thread, "--moderator", "--json").stdout)
    found, stack = [], list(shown["comments"])
    while stack:
        comment = stack.pop(0)
        found.append(comment["body"])
        stack += comment["replies"]["items"]
    return found


# --- the round trip ---------------------------------------------------------------------------------------


def test_a_log_that_was_moved_is_the_same_log(
    source: Installation, target: Installation, file: Path, tmp_path: Path
) -> None:
    filled(source)
    exported = export(source, file)
    brought = bring(target, file)
    assert brought["added"] == exported["events"] == len(source.events()) > 50
    assert target.events() == source.events()
    assert asyncio.run(violations(target.database_url)) == []
    assert "every hash chain holds" in target.run("verify", "--all", "--chain").stdout
    export(target, tmp_path / "again.zst")
    assert unplaced(tmp_path / "again.zst") == unplaced(file)
    export(source, tmp_path / "twice.zst")
    assert (tmp_path / "twice.zst").read_bytes() == file.read_bytes()


def test_who_was_there_before_is_not_told_of_what_is_imported(
    source: Installation, target: Installation, file: Path
) -> None:
    filled(source, threads=2)
    export(source, file)
    bring(target, file)
    assert target.rows("select * from notifications") == []
    behind = target.rows("""
        select s.key, s.version, n.version from streams s left join notifier_checkpoints n using (stream_id)
        where s.key is not null and n.version is distinct from s.version
        """)
    assert behind == []
    assert target.rows("select * from dead_letters") == []


def test_an_export_goes_to_standard_output_plain_or_packed(
    source: Installation, target: Installation
) -> None:
    filled(source, threads=1, happenings=10)
    plain = source.run("export", "--site", SITE, "--plain").stdout_bytes
    packed = source.run("export", "--site", SITE).stdout_bytes
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed) == plain
    assert [json.loads(line)["version"] for line in plain.splitlines()[1:-1]] == [
        version for _, version, *_ in sorted_by_site(source)
    ]


def sorted_by_site(source: Installation) -> list[tuple[Any, ...]]:
    """The log with the site's own stream first."""
    (own,) = source.rows("select stream_id from sites where site = $1", SITE)[0]
    return sorted(source.events(), key=lambda event: (event[0] != own, event[0], event[1]))


def test_a_thread_comes_alone_and_the_site_behind_it(
    source: Installation, target: Installation, file: Path, tmp_path: Path
) -> None:
    filled(source)
    alone = export(source, tmp_path / "thread.zst", "--thread", THREAD)
    assert (alone["streams"], bring(target, tmp_path / "thread.zst")["added"]) == (1, alone["events"])
    whole = export(source, file)
    brought = bring(target, file)
    assert brought["existing"] == alone["events"]
    assert brought["added"] == whole["events"] - alone["events"]
    again = bring(target, file)
    assert (again["added"], again["existing"]) == (0, whole["events"])
    assert target.events() == source.events()
    assert asyncio.run(violations(target.database_url)) == []


def test_what_came_since_follows_what_is_there_and_nothing_else(
    source: Installation, target: Installation, file: Path, tmp_path: Path
) -> None:
    filled(source)
    export(source, file)
    (since,) = source.rows("select max(recorded_at) + interval '1 microsecond' from events")[0]
    source.talk(THREAD, 20, seed=9)
    source.talk("thread/new", 10, seed=10)
    later = tmp_path / "later.zst"
    exported = export(source, later, "--since", since.isoformat())
    assert exported["events"] < len(source.events())
    refused = target.run("import", "log", later, code=Exit.USAGE).stderr
    assert "what lies between is in another file" in refused
    assert target.events() == []
    bring(target, file)
    assert bring(target, later)["added"] == exported["events"]
    assert target.events() == source.events()
    assert asyncio.run(violations(target.database_url)) == []


def test_an_export_is_one_moment_of_the_log(source: Installation, file: Path) -> None:
    filled(source, threads=2)
    before = len(source.events())
    told: list[bytes] = []

    def put(lines: bytes) -> None:
        """Take what is written; once it has begun, others write to all that is still to come."""
        if not told:
            with ThreadPoolExecutor(1) as elsewhere:
                elsewhere.submit(filled, source, 3, 20).result()
        told.append(lines)

    async def write(parts: Resources) -> int:
        return (await LogExport(SITE).write(parts, parts.log, put, lambda _: None)).events

    assert source.do(write) == before < len(source.events())
    found = [json.loads(line) for line in b"".join(told).splitlines()]
    assert sorted(line["position"] for line in found if "position" in line) == list(range(1, before + 1))


# --- texts and keys ---------------------------------------------------------------------------------------


def test_texts_stay_sealed_without_their_keys_and_open_with_them(
    source: Installation, target: Installation, file: Path, tmp_path: Path
) -> None:
    filled(source, threads=1)
    export(source, file)
    assert b"to all" not in unpacked(file)
    bring(target, file)
    assert set(texts(target)) == {None}
    secret = tmp_path / "transfer.key"
    with_keys = tmp_path / "keys.zst"
    export(source, with_keys, "--with-keys", "--key-file", secret)
    assert secret.stat().st_mode & 0o077 == 0
    assert bring(target, with_keys)["keys_added"] == 0  # nobody gave the key
    brought = bring(target, with_keys, "--key-file", secret)
    assert (brought["added"], brought["keys_added"]) == (0, brought["keys"])
    target.run("replay", "--site", SITE)
    assert texts(target) == texts(source)
    assert any(text and text.startswith("to all") for text in texts(target))


def test_another_transfer_key_opens_nothing_and_nothing_is_written(
    source: Installation, target: Installation, file: Path, tmp_path: Path
) -> None:
    filled(source, threads=1)
    export(source, file, "--with-keys", "--key-file", tmp_path / "one.key")
    (tmp_path / "other.key").write_text(key(9))
    refused = target.run("import", "log", file, "--key-file", tmp_path / "other.key", code=Exit.FAILED)
    assert "is the transfer key the right one?" in refused.stderr
    (tmp_path / "none.key").write_text("no key")
    target.run("import", "log", file, "--key-file", tmp_path / "none.key", code=Exit.USAGE)
    assert target.events() == target.rows("select * from author_keys") == []


def test_what_an_erased_person_wrote_never_comes_out_and_never_comes_back(
    source: Installation, target: Installation, file: Path, tmp_path: Path
) -> None:
    async def write(parts: Resources) -> None:
        async with talking(parts, THREAD) as talk:
            for person in ("ann", "bob"):
                await talk.post(person, f"a secret of {person}")

    source.do(write)
    secret = tmp_path / "transfer.key"
    before = tmp_path / "before.zst"
    export(source, before, "--with-keys", "--key-file", secret)
    source.run("erase", SITE, "ann")
    exported = export(source, file, "--with-keys", "--key-file", secret)
    assert (exported["keys"], exported["erased"]) == (2, 1)
    gone = [line for line in lines(file) if line.get("destroyed_at")]
    assert [(line["author"], line["wrapped"]) for line in gone] == [("ann", None)]
    bring(target, file, "--key-file", secret, "--no-settings")
    assert set(texts(target)) == {None, "a secret of bob"}
    # An older file does not bring her back.
    older = bring(target, before, "--key-file", secret, "--no-settings")
    assert (older["keys_added"], older["keys_erased_here"]) == (0, 1)
    target.run("replay", "--site", SITE)
    assert set(texts(target)) == {None, "a secret of bob"}


def test_a_key_in_the_file_of_erased_keys_is_not_taken(
    source: Installation, target: Installation, file: Path, tmp_path: Path
) -> None:
    filled(source, threads=1)
    secret = tmp_path / "transfer.key"
    export(source, file, "--with-keys", "--key-file", secret)
    (erased,) = source.rows("select key_id from author_keys where author_id = 'ann'")[0]
    listed = tmp_path / "erased-keys"
    listed.write_text(f"{erased} 2026-11-23T05:00:00Z\n")
    target.run("import", "log", file, "--key-file", secret, THREADLOG_ERASED_KEYS_FILE=str(listed))
    assert target.rows("select author_id from author_keys where author_id = 'ann'") == []
    assert len(target.rows("select * from author_keys")) >= 2


def test_an_author_who_has_another_key_here_is_told_of_before_anything_is_written(
    source: Installation, target: Installation, file: Path, tmp_path: Path
) -> None:
    filled(source, threads=1)
    secret = tmp_path / "transfer.key"
    export(source, file, "--with-keys", "--key-file", secret)

    async def somebody_came(parts: Resources) -> None:
        await parts.keyring.for_author(SITE, "ann")

    target.do(somebody_came)
    refused = target.run("import", "log", file, "--key-file", secret, code=Exit.USAGE)
    assert "have another key at blog here: ann" in refused.stderr
    assert target.events() == []


# --- what is refused --------------------------------------------------------------------------------------


def edited(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[bytes], bytes]:
    """A file some of whose lines are others."""

    def edit(data: bytes) -> bytes:
        told = [json.loads(line) for line in data.splitlines()]
        change(told)
        return b"".join(json.dumps(line).encode() + b"\n" for line in told)

    return edit


def moved(told: list[dict[str, Any]]) -> None:
    """Another site's name on what is in the file."""
    told[0]["site"] = "quiz"


BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "line 1: is no export of a log"),
    "something else": (lambda _: b'{"id": "1", "body": "text"}\n', "line 1: is no export of a log"),
    "of a later version": (edited(lambda told: told[0].update(format_version=2)), "upgrade first"),
    "cut within a line": (lambda data: data[: len(data) * 2 // 3], "the file ends within it"),
    "cut between lines": (lambda data: b"".join(data.splitlines(keepends=True)[:-9]), "is cut off: its end"),
    "a line taken out": (edited(lambda told: told.pop(-4)), "is missing"),
    "the last event taken out": (edited(lambda told: told.pop(-2)), "lines are missing"),
    "no JSON": (lambda data: data.replace(b'{"position"', b'{position"', 1), "is no JSON"),
    "another actor": (edited(lambda told: told[-3].update(actor="mallory")), "the hash chain does not hold"),
    "another text": (edited(lambda told: told[-3].update(sealed="AAAA")), "the hash chain does not hold"),
    "a hash that is none": (edited(lambda told: told[-3].update(hash="nothing")), "a member that is none"),
    "a version that is none": (edited(lambda told: told[-3].update(version="7")), "is no number"),
    "no actor at all": (edited(lambda told: told[-3].pop("actor")), "an event without 'actor'"),
    "another site's": (edited(moved), "an event of another site than quiz"),
    "more behind the end": (lambda data: data + data.splitlines(keepends=True)[-1], "more behind the end"),
}


def test_a_damaged_file_is_refused_and_nothing_of_it_is_written(
    source: Installation, target: Installation, tmp_path: Path
) -> None:
    target.run("site", "add", "quiz")
    filled(source, threads=1, happenings=15)
    good = source.run("export", "--site", SITE, "--plain").stdout_bytes
    file = tmp_path / "damaged.jsonl"
    for name, (change, reason) in BAD.items():
        file.write_bytes(change(good))
        refused = target.run("import", "log", file, code=Exit.USAGE).stderr
        assert reason in refused, (name, refused)
        assert "no event of it was written" in refused
    assert target.events() == []
    file.write_bytes(good)
    bring(target, file)
    assert target.events() == source.events()


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_compressed_file_that_is_cut_off_or_damaged_is_refused(
    source: Installation, target: Installation, file: Path, part: float
) -> None:
    filled(source, threads=2)
    export(source, file)
    whole = file.read_bytes()
    place = int(len(whole) * part)
    file.write_bytes(whole[:place])
    target.run("import", "log", file, code=Exit.USAGE)
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    target.run("import", "log", file, code=Exit.USAGE)
    assert target.events() == []
    file.write_bytes(whole)
    bring(target, file)
    assert target.events() == source.events()


def test_a_log_that_tells_another_story_is_refused_as_a_whole(
    source: Installation, target: Installation, file: Path
) -> None:
    filled(source)
    export(source, file)
    target.talk("thread/2", 0)  # which changes the settings
    before = target.events()
    refused = target.run("import", "log", file, code=Exit.USAGE).stderr
    assert "the settings of blog were changed here too" in refused
    target.talk("thread/2", 5)
    before = target.events()
    refused = target.run("import", "log", file, "--no-settings", code=Exit.USAGE).stderr
    assert "the thread thread/2, at version" in refused
    assert "tells another story" in refused
    assert target.events() == before


def test_a_file_is_of_a_site_that_is_there(source: Installation, target: Installation, file: Path) -> None:
    source.run("site", "add", "quiz")
    source.run("export", "--site", "quiz", "-o", file)
    assert "no site 'quiz'" in target.run("import", "log", file, code=Exit.USAGE).stderr
    refused = target.run("import", "log", file, "--site", SITE, code=Exit.USAGE).stderr
    assert "is of the site quiz, not of blog" in refused
    assert "no site 'none'" in source.run("export", "--site", "none", code=Exit.USAGE).stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--with-keys"], "go together"),
        (["--json"], "--json needs -o"),
        (["--since", "yesterday"], "takes a time with its zone"),
        (["--since", "2026-11-23T05:00:00"], "takes a time with its zone"),
        (["--thread", "nothing"], "has no events"),
    ],
    ids=" ".join,
)
def test_what_an_export_does_not_take(source: Installation, arguments: list[str], reason: str) -> None:
    source.run("site", "add", SITE)
    assert reason in source.run("export", "--site", SITE, *arguments, code=Exit.USAGE).stderr


def test_an_export_that_fails_leaves_the_last_one_as_it_was(source: Installation, file: Path) -> None:
    filled(source, threads=1)
    export(source, file)
    before = file.read_bytes()
    source.rows("alter table events rename to gone")
    source.run("export", "--site", SITE, "-o", file, code=Exit.FAILED)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


# --- while the world goes on ------------------------------------------------------------------------------


async def test_others_write_to_the_same_lanes_while_a_log_comes_in(
    source: Installation, target: Installation, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(filled, source, 4, 50)
    await asyncio.to_thread(export, source, file)
    monkeypatch.setattr("services.ops.importers.logcopy.BATCH", 10)
    posted: list[int] = []
    async with writer(target.database_url, 2) as log, resources(target.settings) as parts:
        ended = asyncio.Event()

        async def post(thread: str) -> None:
            while not ended.is_set():
                await log.post(thread, "zoe")
                posted.append(1)

        async def copy() -> LogReport:
            report = LogReport()
            opened = LogFile(file)
            await import_log(
                parts, opened, transfer=None, settings=True, progress=lambda *_: None, report=report
            )
            opened.close()
            return report

        writing = [asyncio.create_task(post(f"of their own {number}")) for number in range(4)]
        report = await copy()
        ended.set()
        await asyncio.gather(*writing)
    assert report.copied.added == report.events > 100
    assert len(posted) > 10
    assert await violations(target.database_url) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_an_import_that_is_killed_is_finished_by_running_it_again(
    source: Installation, target: Installation, file: Path, seed: int
) -> None:
    filled(source, threads=2, happenings=200)
    export(source, file)
    chance, kills = Random(seed), 0
    total = len(source.events())

    def came() -> int:
        return int(target.rows("select count(*) from events")[0][0])

    while came() < total and kills < 2:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import services.ops.importers.logcopy as c; c.BATCH = 5; {CLI}",
                *("import", "log", str(file)),
            ],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", **target.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        least = came() + chance.randint(1, total // 3)
        deadline = time.monotonic() + 60
        while process.poll() is None and came() < least:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        assert asyncio.run(violations(target.database_url)) == []
    brought = bring(target, file)
    assert brought["existing"] > 0
    assert target.events() == source.events()
    assert asyncio.run(violations(target.database_url)) == []


async def test_a_bug_comes_home_an_event_that_no_view_can_apply_is_taken_as_it_is(
    source: Installation, target: Installation, file: Path
) -> None:
    async with writer(source.database_url) as log:
        await asyncio.to_thread(source.run, "site", "add", SITE)
        await log.post("sick", "ann")
        await log.poison("sick")
        await log.post("sick", "bob")
        await log.post("well", "bob")
    await asyncio.to_thread(export, source, file)
    brought = await asyncio.to_thread(bring, target, file)
    assert (brought["added"], brought["unfoldable"]) == (4, 1)
    assert await asyncio.to_thread(target.events) == await asyncio.to_thread(source.events)


async def test_what_a_newer_release_recorded_is_left_to_a_newer_release(
    source: Installation, target: Installation, file: Path
) -> None:
    async with writer(source.database_url) as log:
        await asyncio.to_thread(source.run, "site", "add", SITE)
        await log.post("new", "ann")
        await log.put("new", "CommentSung", {"comment_id": "x"})
    await asyncio.to_thread(export, source, file)
    refused = await asyncio.to_thread(target.run, "import", "log", file, code=Exit.FAILED)
    assert "CommentSung" in refused.stderr
