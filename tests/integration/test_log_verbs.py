"""`threadlog log` and `threadlog thread`: the log and its threads as a person reads them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import psutil
import pytest

from services.errors import CursorInvalid, StreamBroken
from services.eventlog import following
from services.eventlog.following import walk
from services.eventlog.log import EventLog
from services.ops.exits import Exit
from services.wiring import Resources
from tests.faults.test_lane_lock import Racers, is_stopped
from tests.installations import SITE, Installation, key
from tests.processes import ROOT, until
from tests.talk import talking
from tests.writer import MASTER_KEY, writer

THREAD = "on/bees"
_SOCKET: Final = ".s.PGSQL.5432"


@pytest.fixture
def here(database_url: str, redis_url: str, broker_url: str) -> Installation:
    return Installation(database_url, redis_url, broker_url, MASTER_KEY)


@pytest.fixture
def thread(here: Installation) -> str:
    """A thread of six events; its key."""

    async def write(parts: Resources) -> None:
        async with talking(parts, THREAD) as talk:
            first = await talk.post("ann", "a text of ann")
            await talk.post("bob", "a text of bob", to=first)
            await talk.edit(first, "another text of ann")
            await talk.vote(first, 1)
            await talk.delete(first)
            await talk.describe("On bees")

    here.do(write)
    return THREAD


# --- show ---------------------------------------------------------------------------------------------------


def test_sealed_parts_are_opened_on_demand_and_that_is_told(here: Installation, thread: str) -> None:
    shut = here.run("log", "show", SITE, thread)
    assert "a text of" not in shut.stdout
    assert shut.stdout.count("sealed=") == 3
    assert shut.stderr == ""
    opened = here.run("log", "show", SITE, thread, "--open")
    assert 'body="another text of ann"' in opened.stdout
    assert opened.stderr == "sealed parts: 3 opened\n"


def test_what_an_erased_person_wrote_stays_shut_and_says_so(here: Installation, thread: str) -> None:
    here.run("erase", SITE, "ann")
    opened = here.run("log", "show", SITE, thread, "--open")
    assert "text of ann" not in opened.stdout
    assert opened.stdout.count("(no key)") == 2
    assert 'body="a text of bob"' in opened.stdout
    assert opened.stderr == "sealed parts: 2 no key, 1 opened\n"
    told = here.run("log", "show", SITE, thread, "--open", "--json").stdout.splitlines()
    assert [(one["opened"], one["shut"]) for one in map(json.loads, told)][2] == (None, "no key")


def test_without_the_master_key_nothing_is_opened(here: Installation, thread: str) -> None:
    refused = here.run("log", "show", SITE, thread, "--open", code=Exit.USAGE, THREADLOG_MASTER_KEY=key(9))
    assert "THREADLOG_MASTER_KEY" in refused.stderr
    assert "text of" not in refused.output


def test_show_begins_and_ends_where_it_is_told_to(here: Installation, thread: str) -> None:
    shown = here.run("log", "show", SITE, thread, "--after", "2", "--limit", "2", "--json").stdout
    told = [json.loads(line) for line in shown.splitlines()]
    assert [event["version"] for event in told] == [3, 4]
    assert {event["lane"] for event in told} == {0}


def test_tail_names_the_threads(here: Installation, thread: str) -> None:
    lines = here.run("log", "tail", "-n", "2").stdout.splitlines()
    assert [f"  {SITE}/{thread}  " in line or f"{SITE}/{thread}" in line for line in lines] == [True, True]
    told = here.run("log", "tail", "-n", "1", "--json").stdout
    assert {"lane": 0, "site": SITE, "thread": thread}.items() <= json.loads(told).items()


# --- following ----------------------------------------------------------------------------------------------


async def test_following_the_log_skips_nothing_and_notices_a_gap(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PAGE", 2)

    async def follow(cursors: dict[int, int]) -> list[int]:
        return [event.position async for page in walk(EventLog(log.pool), cursors) for event in page]

    async with writer(database_url) as log:
        for number in range(5):
            await log.post(f"{number}", "ann")
        cursors = {0: 1}
        assert await follow(cursors) == [2, 3, 4, 5]
        assert cursors == {0: 5}
        assert await follow(cursors) == []
        with pytest.raises(CursorInvalid, match="was set back"):
            await follow({0: 6})
        await log.pool.execute("update lanes set head = 7")
        await log.pool.execute(
            "insert into events (position, lane, stream_id, version, event_id, type, schema_version, "
            "recorded_at, data, hash) select 7, lane, stream_id, 6, event_id, type, schema_version, "
            "recorded_at, data, hash from events where position = 5"
        )
        with pytest.raises(StreamBroken, match="from position 5 to 7"):
            await follow(cursors)


async def test_what_could_not_be_handled_is_given_again(database_url: str) -> None:
    async with writer(database_url) as log:
        for number in range(3):
            await log.post(f"{number}", "ann")
        cursors = {0: 0}
        async with contextlib.aclosing(walk(EventLog(log.pool), cursors)) as pages:
            assert len(await anext(pages)) == 3
        assert cursors == {0: 0}


@asynccontextmanager
async def tailing(here: Installation, output: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """`log tail --follow` from the log's first event on; what it prints goes to a file."""
    command = ["log", "tail", "--follow", "--json", "-n", "1000000"]
    with output.open("wb") as printed, output.with_suffix(".err").open("wb") as complained:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.ops.cli", *command],
            cwd=ROOT,
            env={**os.environ, **here.environment},
            stdout=printed,
            stderr=complained,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


class Wire:
    """A unix socket before Postgres that can be cut, and mended."""

    def __init__(self, url: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="wire-", dir="/tmp"))
        parts = urlsplit(url)
        self._postgres = f"{parse_qs(parts.query)['host'][0]}/{_SOCKET}"
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path}?host={quote(str(self._folder))}"
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()
        shutil.rmtree(self._folder)

    async def mend(self) -> None:
        """Let clients connect."""
        self._server = await asyncio.start_unix_server(self._serve, self._folder / _SOCKET)

    async def cut(self) -> None:
        """End every connection, and refuse new ones."""
        self._server.close()
        (self._folder / _SOCKET).unlink(missing_ok=True)
        for end in list(self._open):
            end.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._postgres)
        both = {writer, up_writer}
        self._open |= both
        await asyncio.gather(_carry(reader, up_writer), _carry(up_reader, writer))
        self._open -= both


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def printed(output: Path) -> Iterator[tuple[str, int]]:
    """Stream and version of each event printed; a last line may be half there."""
    for line in output.read_bytes().split(b"\n")[:-1]:
        event: dict[str, Any] = json.loads(line)
        yield event["stream"], event["version"]


@pytest.mark.parametrize("pause", ["loaded", "appended"])
async def test_tail_skips_none_beside_two_lanes_while_a_writer_stops_and_the_database_goes_away(
    two_lane_database_url: str, redis_url: str, broker_url: str, tmp_path: Path, pause: str
) -> None:
    wire = Wire(two_lane_database_url)
    here = Installation(wire.url, redis_url, broker_url, MASTER_KEY)
    output = tmp_path / "tail.jsonl"
    racers = Racers(two_lane_database_url, "held")
    async with (
        wire,
        tailing(here, output) as process,
        asyncpg.create_pool(two_lane_database_url, min_size=1, max_size=2) as pool,
    ):
        log = EventLog(pool)

        async def count() -> int:
            assert process.poll() is None, output.with_suffix(".err").read_text()
            return output.read_bytes().count(b"\n")

        async def complaints() -> str:
            return output.with_suffix(".err").read_text()

        try:
            await racers.start("awake")
            await until(count, "it prints", lambda lines: lines > 3)
            await wire.cut()
            frozen = await racers.start("frozen", pause)
            await until(is_stopped(psutil.Process(frozen.pid)), "the writer stopped itself in its batch")
            before = await log.lanes()
            await until(log.lanes, "the other lane goes on", lambda heads: heads[1] > before[1] + 3)
            seen = await count()
            await until(complaints, "it tells that it waits", lambda said: "going on once it does" in said)
            await wire.mend()
            await until(count, "it prints the other lane", lambda lines: lines > seen)
            psutil.Process(frozen.pid).resume()
            after = await log.lanes()
            await until(log.lanes, "both go on", lambda heads: heads[0] > after[0] + 5)
            await wire.cut()
            await racers.finish()
            await wire.mend()
        finally:
            racers.kill()
        rows = await pool.fetch("select stream_id, version from events")
        logged = {(str(row["stream_id"]), row["version"]) for row in rows}
        await until(count, "all of it is printed", lambda lines: lines >= len(logged))
    told = list(printed(output))
    assert [one for one, times in Counter(told).items() if times > 1] == []
    assert set(told) == logged
    last: Counter[str] = Counter()
    for stream, version in told:
        assert version == last[stream] + 1
        last[stream] = version
    assert "the database answers again" in await complaints()


# --- a thread at a time -------------------------------------------------------------------------------------


def tree(here: Installation, *arguments: object) -> list[str]:
    """A thread's tree; the head line without what it is called."""
    head, *lines = here.run("thread", "show", SITE, THREAD, *arguments).stdout.splitlines()
    return [head.partition("(")[2].rstrip(")"), *lines]


def test_a_thread_is_shown_as_it_was_at_each_version(here: Installation, thread: str) -> None:
    assert tree(here, "--as-of", 1) == ["1 comments, open, as of version 1", "• [visible]"]
    assert tree(here, "--as-of", 1, "--moderator")[1:] == ["• Ann: a text of ann"]
    assert tree(here, "--as-of", 2)[1:] == ["• [visible]", "  • Bob: a text of bob"]
    assert tree(here, "--as-of", 3, "--moderator")[1:] == [
        "• Ann (edited): another text of ann",
        "  • Bob: a text of bob",
    ]
    assert tree(here, "--as-of", 4, "--moderator")[1] == "• Ann (edited) +1 -0: another text of ann"
    assert tree(here, "--as-of", 5)[1:] == ["• [deleted]", "  • Bob: a text of bob"]
    assert tree(here, "--as-of", 6) == ["1 comments, open, as of version 6", *tree(here)[1:]]
    told = json.loads(here.run("thread", "show", SITE, thread, "--as-of", 2, "--json").stdout)
    assert (told["as_of"], told["thread"]["version"], len(told["comments"])) == (2, 2, 1)


def test_a_thread_is_shown_as_it_was_at_a_time(here: Installation, thread: str) -> None:
    times = [
        at for (at,) in here.rows("select recorded_at from events where type ~ 'Posted' order by version")
    ]
    assert tree(here, "--as-of", times[0].isoformat())[0].endswith("as of version 1")
    assert tree(here, "--as-of", times[1].isoformat())[0].endswith("as of version 2")
    for when, reason in (
        ("2001-01-01T00:00:00Z", "had no events then"),
        ("0", "had no events then"),
        ("7", "7 is not reached"),
        ("yesterday", "takes a time with its zone"),
    ):
        refused = here.run("thread", "show", SITE, thread, "--as-of", when, code=Exit.USAGE)
        assert reason in refused.stderr


def test_a_deep_thread_is_shown_as_far_as_asked_and_goes_on_below_a_comment(here: Installation) -> None:
    async def write(parts: Resources) -> list[str]:
        async with talking(parts, THREAD) as talk:
            for number in range(100):
                await talk.post("ann", f"number {number}", to=talk.ids[-1] if talk.ids else None)
            return [str(one) for one in talk.ids]

    ids = here.do(write)
    for more in ((), ("--as-of", 100)):
        lines = tree(here, "--depth", 3, *more)[1:]
        assert [line.strip() for line in lines] == [
            *(f"• Ann: number {number}" for number in range(4)),
            f"… 1 more: --below {ids[3]}",
        ]
    assert tree(here, "--depth", 80)[-2].strip() == "• Ann: number 80"
    below = tree(here, "--below", ids[50], "--depth", 80)[1:]
    assert [line.strip() for line in below] == [f"• Ann: number {number}" for number in range(51, 100)]
    # JSON nests as deep as the thread does.
    told = json.loads(here.run("thread", "show", SITE, THREAD, "--depth", 80, "--json").stdout)
    deepest = 0
    while told.get("comments") or told.get("replies", {}).get("items"):
        (told,) = told.get("comments") or told["replies"]["items"]
        deepest += 1
    assert deepest == 81
    assert "no comment" in here.run("thread", "show", SITE, THREAD, "--below", "x", code=Exit.USAGE).stderr
