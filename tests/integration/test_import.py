"""Importing: a file's comments come out of the log as the tree that they were, once, whatever happens."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
from typer.testing import CliRunner

from schema.events.envelope import EPOCH, Recorded
from services.core.addresses import event_id_at, site_stream_id, thread_stream_id
from services.core.commands import Actor, ChangeSettings, Command, DeleteComment, EditComment, PostComment
from services.core.markup import render
from services.core.page import PageRequest
from services.core.pagejson import page_json
from services.errors import SiteNotFound
from services.eventlog.appenders import Appenders
from services.ops.commands.imports import app
from services.ops.exits import UsageRefused
from services.ops.importers.jsonl import read_jsonl
from services.ops.importers.records import ImportRefused, Record, Report
from services.ops.importers.run import CHUNK, WINDOW, Step, author_hmac, run_import
from services.ops.importers.wxr import ThreadKey, read_wxr
from services.pokes import PROJECT_ACTOR, QUEUES, queue_key
from services.settings import Settings
from services.wiring import Resources, resources

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
LINK = "https://site.example/2024/05/on-bees/"
KEY = "2024/05/on-bees"
SEED_KEY = "2015/09/talk-therapy-linked-to-changes-in-brain-activity"
MASTER_KEY = base64.b64encode(bytes(range(32))).decode()


def seed(name: str) -> bytes:
    """A file of the shared data: not part of the project, so it may be absent, but not in CI."""
    path = DATA / name
    if not path.exists():
        reason = f"{name} is not beside the project"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path.read_bytes()


# -- given


def line(number: int | str, parent: int | str | None = None, *, minute: int = 0, **fields: Any) -> bytes:
    values = {
        "id": str(number),
        "parent_id": None if parent is None else str(parent),
        "author": "Ann",
        "created_at": f"2024-05-01T{minute // 60:02}:{minute % 60:02}:00Z",
        "body": f"This is *{number}*.",
    } | fields
    return json.dumps(values).encode() + b"\n"


def chain(count: int) -> bytes:
    """A thread of `count` comments, each third one a root, the others replies to the one before, a minute
    apart."""
    return b"".join(line(n, n - 1 if n % 3 else None, minute=n % 1440) for n in range(count))


def item(*comments: str, link: str = LINK, title: str = "On bees") -> str:
    return (
        f"<item><title>{title}</title><link>{link}</link><wp:post_id>7</wp:post_id>{''.join(comments)}</item>"
    )


def wp_comment(number: int, parent: int = 0, body: str = "Hello.", **fields: str) -> str:
    given = {
        "id": str(number),
        "author": "Ann",
        "author_email": "Ann@Site.Example",
        "date_gmt": "2024-05-01 10:00:00",
        "approved": "1",
        "type": "comment",
        "parent": str(parent),
        "user_id": "0",
        "content": body,
    } | fields
    inner = "".join(
        f"<wp:comment_{name}>{escape(value)}</wp:comment_{name}>" for name, value in given.items()
    )
    return f"<wp:comment>{inner}</wp:comment>"


def export(*items: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0"'
        ' xmlns:wp="http://wordpress.org/export/1.2/"><channel><wp:wxr_version>1.2</wp:wxr_version>'
        f"{''.join(items)}</channel></rss>"
    ).encode()


@pytest.fixture
def settings(database_url: str, redis_url: str, broker_url: str) -> Settings:
    return Settings.load(
        database_url=database_url, redis_url=redis_url, broker_url=broker_url, master_key=MASTER_KEY
    )


@pytest.fixture
async def found(settings: Settings) -> AsyncIterator[Resources]:
    """What an import stands on, with the sites `a` and `b`."""
    async with resources(settings) as opened:
        await opened.sites.add("a", b"s" * 32)
        await opened.sites.add("b", b"s" * 32)
        yield opened


# -- when


async def import_jsonl(found: Resources, data: bytes, site: str = "a", key: str = KEY) -> Report:
    author_id = author_hmac(found.master, site)
    return await run_import(
        found, read_jsonl(BytesIO(data), thread_key=key, author_id=author_id), site, lambda _: None
    )


async def import_wxr(found: Resources, data: bytes, site: str = "a", key: ThreadKey = "path") -> Report:
    author_id = author_hmac(found.master, site)
    return await run_import(found, read_wxr(BytesIO(data), key=key, author_id=author_id), site)


@asynccontextmanager
async def writing(found: Resources) -> AsyncIterator[Appenders]:
    """The appenders of a process that serves beside the import."""
    appenders = Appenders(found.settings.database_url, found.lanes)
    await appenders.start()
    try:
        yield appenders
    finally:
        await appenders.stop()


# -- then


@dataclass(frozen=True)
class Seen:
    """A comment as a reader of the API gets it, by its source id; `path` are the places of its ancestors."""

    depth: int
    author: str | None
    created_at: str
    text: str | None
    state: str


def plain(html: str) -> str:
    """The words alone: an asterisk is emphasis in Markdown, and a character in WordPress."""
    return " ".join(re.sub(r"<[^>]*>|\*", "", html).split())


async def page(found: Resources, site: str = "a", key: str = KEY) -> dict[str, Any]:
    request = PageRequest(limit=500, replies=100, depth=10)
    answer = await found.reader.page(thread_stream_id(site, key), request)
    assert answer.head is not None
    text = page_json(answer.selection, answer.head, cursor=lambda *_: "", comment_url="{url}#{id}")
    decoded: dict[str, Any] = json.loads(text)
    return decoded


def walk(comments: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A page from top to bottom, as it is read."""
    for one in comments:
        yield one
        yield from walk(one["replies"]["items"])


async def seen(found: Resources, site: str = "a", key: str = KEY) -> list[Seen]:
    return [
        Seen(
            one["depth"],
            one["author"] and one["author"]["name"],
            one["created_at"],
            one["html"] and plain(one["html"]),
            one["state"],
        )
        for one in walk((await page(found, site, key))["comments"])
    ]


async def events(found: Resources, site: str = "a", key: str = KEY) -> list[Recorded]:
    return await found.log.events_after(thread_stream_id(site, key), 0, 100_000)


async def everything(found: Resources) -> tuple[int, int, int]:
    """How much the log holds: events, streams that have any, and the sum of the lanes' heads."""
    counts = await found.pool.fetchrow(
        "select (select count(*) from events), (select count(*) from streams where version > 0),"
        " (select sum(head) from lanes)::bigint"
    )
    assert counts is not None
    return counts[0], counts[1], counts[2]


def counted(report: Report) -> tuple[int, int, int, int]:
    return report.added, report.placeholders, report.existing, report.skipped.total


async def test_both_seed_files_come_out_as_the_tree_of_the_page(found: Resources) -> None:
    data = seed("seed_thread.jsonl")
    lines = [json.loads(text) for text in data.splitlines()]

    assert counted(await import_jsonl(found, data, "a", SEED_KEY)) == (18, 1, 0, 0)
    assert counted(await import_wxr(found, seed("seed_thread.wxr.xml"), "b")) == (18, 1, 0, 0)

    expected = [
        Seen(
            one["depth"],
            one["author"],
            one["created_at"].replace("Z", ".000000Z"),
            plain(render(one["body"])),
            "visible",
        )
        for one in lines
    ]
    expected.insert(0, Seen(0, None, "2015-09-01T09:00:00.000000Z", None, "deleted"))
    assert await seen(found, "a", SEED_KEY) == expected
    assert await seen(found, "b", SEED_KEY) == expected
    thread = (await page(found, "b", SEED_KEY))["thread"]
    assert thread["title"] == "Talk Therapy Linked to Changes in Brain Activity"
    assert thread["url"] == f"https://site.example/{SEED_KEY}/"
    assert thread["comments"] == 18


async def test_the_comments_of_the_seed_stand_in_the_order_of_the_page(found: Resources) -> None:
    pasted = " ".join(seed("seed_page.txt").decode().split())
    await import_wxr(found, seed("seed_thread.wxr.xml"))

    bodies = [one["body"] for one in walk((await page(found, "a", SEED_KEY))["comments"]) if one["body"]]

    starts = [pasted.index(" ".join(body.replace("\\", "").split())[:40]) for body in bodies]
    assert len(starts) == 18
    assert starts == sorted(starts)


async def test_times_are_the_original_ones_and_events_are_recorded_now(found: Resources) -> None:
    before = await found.pool.fetchval("select clock_timestamp()")

    await import_jsonl(found, line(1, minute=61))

    (event,) = await events(found)
    assert json.loads(event.data)["imported"] == {
        "created_at": "2024-05-01T01:01:00.000000Z",
        "source_id": "1",
    }
    assert event.recorded_at > before
    assert (await seen(found))[0].created_at == "2024-05-01T01:01:00.000000Z"


async def test_authors_are_a_keyed_hash_or_a_user_number_and_their_texts_are_sealed(
    found: Resources,
) -> None:
    data = export(
        item(
            wp_comment(1, body="A secret"),
            wp_comment(2, author_email="ann@site.example "),
            wp_comment(3, author="Bea"),
            wp_comment(4, user_id="12"),
        )
    )

    await import_wxr(found, data, "a")
    await import_wxr(found, data, "b")

    actors = [event.actor_id for event in await events(found) if event.type == "CommentPosted"]
    elsewhere = [event.actor_id for event in await events(found, "b") if event.type == "CommentPosted"]
    assert actors[0] == actors[1] != actors[2]
    assert actors[3] == elsewhere[3] == "import:12"
    assert actors[0] != elsewhere[0]
    for event in await events(found):
        assert b"secret" not in event.data + (event.sealed or b"")
        assert b"@" not in event.data + (event.actor_id or "").encode()


async def test_a_missing_parent_is_a_deleted_comment_without_an_author(found: Resources) -> None:
    report = await import_jsonl(found, line(2, 1, minute=5) + line(3, 1, minute=3))

    assert counted(report) == (2, 1, 0, 0)
    assert [(one.depth, one.author, one.state, one.created_at[11:16]) for one in await seen(found)] == [
        (0, None, "deleted", "00:03"),
        (1, "Ann", "visible", "00:03"),
        (1, "Ann", "visible", "00:05"),
    ]
    first = (await events(found))[0]
    assert (first.actor_id, first.sealed, first.key_id) == (None, None, None)


async def test_a_later_file_with_an_older_child_finds_the_same_placeholder(found: Resources) -> None:
    await import_jsonl(found, line(3, 1, minute=5))

    report = await import_jsonl(found, line(2, 1, minute=3) + line(3, 1, minute=5))

    assert counted(report) == (1, 0, 2, 0)
    assert [(one.depth, one.state) for one in await seen(found)] == [
        (0, "deleted"),
        (1, "visible"),
        (1, "visible"),
    ]


async def test_a_second_run_adds_nothing(found: Resources) -> None:
    data = export(
        item(wp_comment(1), wp_comment(2, 1), wp_comment(4, 3)), item(wp_comment(9), link=LINK + "2")
    )
    await import_wxr(found, data)
    before = await everything(found)

    report = await import_wxr(found, data)

    assert counted(report) == (0, 0, 5, 0)
    assert await everything(found) == before


async def test_a_second_run_adds_nothing_to_a_thread_that_lived_on(found: Resources) -> None:
    data = line(1) + line(2, 1) + line(3, 2) + line(5, 4)
    await import_jsonl(found, data)
    stream_id = thread_stream_id("a", KEY)
    posted = {json.loads(event.data)["imported"]["source_id"]: event for event in await events(found)}
    actor_id = posted["1"].actor_id
    assert actor_id is not None
    key = await found.keyring.for_author("a", actor_id)
    visitor = await found.keyring.for_author("a", "u-1")

    def about(number: int) -> dict[str, Any]:
        return {
            "site": "a",
            "stream_id": stream_id,
            "event_id": event_id_at(EPOCH, b"live %d" % number),
            "key": KEY,
        }

    def reply(number: int, parent: UUID) -> PostComment:
        fields = about(number)
        text = visitor.sealed(fields["event_id"], stream_id, {"body": "Late to this.", "name": "Uma"})
        return PostComment(**fields, actor=Actor("u-1"), text=text, parent_id=parent)

    moderator = Actor("u-9", moderator=True)
    edit = about(2)
    commands: list[Command] = [
        reply(1, posted["3"].event_id),
        EditComment(
            **edit,
            actor=moderator,
            comment_id=posted["1"].event_id,
            revision=1,
            text=key.sealed(edit["event_id"], stream_id, {"body": "Edited."}),
        ),
        DeleteComment(**about(3), actor=moderator, comment_id=posted["2"].event_id),
    ]
    async with writing(found) as appenders:
        for command in commands:
            assert (await appenders.submit(command)).events
    before, page_before = await everything(found), await seen(found)

    report = await import_jsonl(found, data)

    assert counted(report) == (0, 0, 5, 0)
    assert await everything(found) == before
    assert await seen(found) == page_before
    assert [one.state for one in page_before].count("removed") == 1


async def test_new_comments_of_a_later_file_join_the_old_ones(found: Resources) -> None:
    await import_jsonl(found, line(1) + line(2, 1, minute=1))

    report = await import_jsonl(
        found, line(1) + line(2, 1, minute=1) + line(3, 2, minute=2) + line(4, minute=3)
    )

    assert counted(report) == (2, 0, 2, 0)
    assert [one.depth for one in await seen(found)] == [0, 1, 2, 0]


KILLED = """
import asyncio, os, signal, sys
from services.ops.importers.jsonl import read_jsonl
from services.ops.importers.run import author_hmac, run_import
from services.pokes import PROJECT_ACTOR, QUEUES, queue_key
from services.settings import Settings
from services.wiring import resources

def progress(step):
    if step.phase == "writing" and step.done > 0:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with resources(Settings.load()) as found:
        with open(sys.argv[1], "rb") as stream:
            author_id = author_hmac(found.master, "a")
            records = read_jsonl(stream, thread_key=sys.argv[2], author_id=author_id)
            await run_import(found, records, "a", progress)

asyncio.run(main())
"""


async def test_an_import_that_was_killed_is_finished_by_running_it_again(
    found: Resources, tmp_path: Path
) -> None:
    count = 3 * WINDOW
    file = tmp_path / "thread.jsonl"
    file.write_bytes(chain(count))

    killed = subprocess.run([sys.executable, "-c", KILLED, str(file), KEY], env=environment(found), cwd=ROOT)

    assert killed.returncode == -signal.SIGKILL
    # Nobody waits for the last batch of the dead process; the lane's lock does.
    report = await import_jsonl(found, file.read_bytes())
    assert report.added > 0
    assert report.existing > 0
    assert report.added + report.existing == count
    written = await events(found)
    assert [event.version for event in written] == list(range(1, count + 1))
    assert len({event.event_id for event in written}) == count
    assert counted(await import_jsonl(found, file.read_bytes())) == (0, 0, count, 0)


async def test_more_comments_than_are_under_way_at_once_keep_their_order(
    two_lane_database_url: str, settings: Settings
) -> None:
    count = 2 * WINDOW + CHUNK + 1
    lanes = settings.model_copy(update={"database_url": two_lane_database_url, "max_batch": 7})
    async with resources(lanes) as found:
        await found.sites.add("a", b"s" * 32)

        for key in ("x", "y", "z"):
            assert counted(await import_jsonl(found, chain(count), key=key)) == (count, 0, 0, 0)

            sources = [
                int(json.loads(event.data)["imported"]["source_id"]) for event in await events(found, key=key)
            ]
            assert sources == list(range(count))


BOMB = b"""<?xml version="1.0"?><!DOCTYPE rss [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<rss version="2.0"><channel>&b;</channel></rss>"""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (BOMB, "document type"),
        (export(*(item(wp_comment(n)) for n in range(1, 600)))[:-40], "damaged XML"),
        (export(item(wp_comment(1))).replace(b"Hello.", b"\xff\xfe"), "damaged XML"),
        (export(item(wp_comment(1))).replace(b"UTF-8", b"UTF-16"), "damaged XML"),
        (b"<html><body>Not found</body></html>", "not a WordPress export"),
        (b"", "damaged XML"),
    ],
    ids=["bomb", "truncated", "not-utf8", "wrong-encoding", "html", "empty"],
)
async def test_a_refused_file_writes_nothing(found: Resources, data: bytes, reason: str) -> None:
    before = await everything(found)

    with pytest.raises(ImportRefused, match=reason):
        await import_wxr(found, data)

    assert await everything(found) == before


async def test_what_cannot_be_taken_is_skipped_with_its_reason(found: Resources) -> None:
    data = (
        line(1)
        + line(2, 3)
        + line(3, 2)
        + line(4, 2, minute=1)
        + line(1, body="another")
        + line(5, 5)
        + line(6, body="x" * 100_000)
        + line(7, body="a\0b")
        + b'{"id": "8", "author": "\xff"}\n'
        + b"[" * 10_000
        + b"\n"
        + line(9, minute=2)
    )

    report = await import_jsonl(found, data)

    reasons = report.skipped.counts
    assert reasons["its parents form a circle"] == 3
    assert reasons["another comment has the same id"] == 1
    assert reasons["the line is not UTF-8"] == 1
    assert report.skipped.examples["its parents form a circle"] == ["comment 2", "comment 3", "comment 5"]
    assert counted(report) == (3, 1, 0, 8)
    assert [(one.depth, one.state) for one in await seen(found)] == [
        (0, "visible"),
        (0, "deleted"),
        (1, "visible"),
        (0, "visible"),
    ]


async def test_spam_and_pingbacks_are_skipped_and_a_reply_to_one_hangs_on_a_placeholder(
    found: Resources,
) -> None:
    data = export(
        item(wp_comment(1, approved="spam"), wp_comment(2, type="pingback"), wp_comment(3, 1), wp_comment(4))
    )

    report = await import_wxr(found, data)

    assert dict(report.skipped.counts) == {"spam": 1, "pingback": 1}
    assert counted(report) == (2, 1, 0, 2)


async def test_an_import_goes_into_a_closed_thread_and_below_a_removed_comment(found: Resources) -> None:
    await import_jsonl(found, line(1))
    stream_id, moderator = thread_stream_id("a", KEY), Actor("u-9", moderator=True)
    (first,) = await events(found)
    async with writing(found) as appenders:
        removal = DeleteComment(
            site="a",
            stream_id=stream_id,
            event_id=event_id_at(EPOCH, b"removal"),
            actor=moderator,
            key=KEY,
            comment_id=first.event_id,
        )
        await appenders.submit(removal)

    assert counted(await import_jsonl(found, line(1) + line(2, 1, minute=1))) == (1, 0, 1, 0)


async def test_a_link_outside_the_sites_origins_is_left_out_and_told_of(found: Resources) -> None:
    async with writing(found) as appenders:
        change = ChangeSettings(
            site="a",
            stream_id=site_stream_id("a"),
            event_id=event_id_at(EPOCH, b"settings"),
            actor=Actor(None, moderator=True),
            changes={"origins": ["https://other.example"]},
        )
        await appenders.submit(change)
    found.sites.forget("a")

    report = await import_wxr(found, export(item(wp_comment(1))))

    assert counted(report) == (1, 0, 0, 0)
    assert report.noted.total == 1
    thread = (await page(found))["thread"]
    assert (thread["title"], thread["url"]) == ("On bees", None)


async def test_an_import_into_no_site_is_refused(found: Resources) -> None:
    with pytest.raises(SiteNotFound):
        await import_jsonl(found, line(1), site="c")


async def test_a_comment_that_the_log_refuses_is_skipped_and_so_are_its_replies(found: Resources) -> None:
    """No file leads there: the planner never gives a parent that the log lacks. So the log is changed."""
    await import_jsonl(found, line(1))
    await found.pool.execute("update comments set state = 'held'")

    report = await import_jsonl(
        found, line(1) + line(2, 1, minute=1) + line(3, 2, minute=2) + line(4, minute=3)
    )

    assert counted(report) == (1, 0, 1, 2)
    assert dict(report.skipped.counts) == {"its parent was not taken": 2}


async def test_an_import_that_an_error_ends_tells_what_was_done_and_goes_on_another_time(
    found: Resources,
) -> None:
    report, author_id = Report(), author_hmac(found.master, "a")
    data = chain(2 * WINDOW)

    class Lost(Exception):
        pass

    def progress(step: Step) -> None:
        if step.phase == "writing" and step.done:
            raise Lost

    records: Iterator[Record] = read_jsonl(BytesIO(data), thread_key=KEY, author_id=author_id)
    with pytest.raises(Lost):
        await run_import(found, records, "a", progress, report)

    assert 0 < report.added < 2 * WINDOW
    assert sum(counted(await import_jsonl(found, data))) == 2 * WINDOW


async def test_progress_tells_both_phases(found: Resources) -> None:
    steps: list[Step] = []
    author_id = author_hmac(found.master, "a")
    count = CHUNK + 1
    records = read_jsonl(BytesIO(chain(count)), thread_key=KEY, author_id=author_id)

    await run_import(found, records, "a", steps.append)

    assert [step for step in steps if step.phase == "reading"] == [
        Step("reading", CHUNK, None),
        Step("reading", count, None),
    ]
    assert steps[-1] == Step("writing", count, count)


async def test_threads_that_an_import_moves_are_poked(found: Resources) -> None:
    await import_jsonl(found, line(1))

    with redis.Redis.from_url(found.settings.broker) as broker:
        assert broker.llen(queue_key(QUEUES[PROJECT_ACTOR])) == 1


# -- the verb


def environment(found: Resources) -> dict[str, str]:
    return os.environ | {
        "THREADLOG_DATABASE_URL": found.settings.database_url,
        "THREADLOG_REDIS_URL": found.settings.redis_url,
        "THREADLOG_BROKER_URL": found.settings.broker,
        "THREADLOG_MASTER_KEY": MASTER_KEY,
    }


def invoke(found: Resources, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from services.ops.commands.imports import app; app()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment(found),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


async def test_the_verb_prints_its_report_as_json(found: Resources, tmp_path: Path) -> None:
    file = tmp_path / "export.xml"
    file.write_bytes(export(item(wp_comment(1), wp_comment(3, 2), wp_comment(4, approved="spam"))))

    done = invoke(found, "wxr", str(file), "--site", "a", "--key", "post_id", "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    del report["seconds"]
    assert report == {
        "site": "a",
        "threads": 1,
        "comments": 2,
        "added": 2,
        "existing": 0,
        "placeholders": 1,
        "skipped": {"spam": {"count": 1, "examples": ["comment 4"]}},
        "noted": {},
    }
    assert len(await seen(found, key="7")) == 3


async def test_the_verb_prints_a_table(found: Resources, tmp_path: Path) -> None:
    file = tmp_path / "thread.jsonl"
    file.write_bytes(line(1) + line(1))

    done = invoke(found, "jsonl", str(file), "--site", "a", "--thread", KEY)

    assert done.returncode == 0, done.stderr
    lines = [text.split() for text in done.stdout.splitlines()]
    assert ["added", "1"] in lines
    assert ["1", "another", "comment", "has", "the", "same", "id", "comment", "1"] in lines


async def test_the_verb_refuses_a_damaged_file(
    found: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(found).items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "export.xml"
    file.write_bytes(BOMB)

    done = await asyncio.to_thread(CliRunner().invoke, app, ["wxr", str(file), "--site", "a"])

    assert isinstance(done.exception, UsageRefused)
    assert "nothing of it was written" in str(done.exception)


def test_the_verb_wants_a_file_and_a_good_key(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")

    assert CliRunner().invoke(app, ["wxr", str(tmp_path / "none"), "--site", "a"]).exit_code == 2
    assert CliRunner().invoke(app, ["wxr", str(tmp_path / "f"), "--site", "a", "--key", "x"]).exit_code == 2
