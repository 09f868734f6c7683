"""Importing: a file's comments come out of the log as the tree that they were, nothing lost in silence."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest
import redis

from schema.events.envelope import EPOCH
from services.core.addresses import event_id_at, site_stream_id, thread_stream_id
from services.core.commands import Actor, ChangeSettings, ChangeThread, DeleteComment
from services.core.markup import render
from services.errors import SiteNotFound
from services.ops.importers.jsonl import read_jsonl
from services.ops.importers.records import ImportRefused
from services.ops.importers.run import CHUNK, Step, author_hmac, run_import
from services.pokes import PROJECT_ACTOR, QUEUES, queue_key
from services.wiring import Resources
from tests.imports import (
    KEY,
    ROOT,
    Seen,
    chain,
    counted,
    events,
    everything,
    export,
    import_jsonl,
    import_wxr,
    item,
    line,
    opened,
    page,
    plain,
    seen,
    settings_for,
    walk,
    wp_comment,
    writing,
)

DATA = ROOT.parent / "shared" / "data"
SEED_KEY = "2015/09/talk-therapy-linked-to-changes-in-brain-activity"


@pytest.fixture
async def found(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Resources]:
    """What an import stands on, with the sites `a` and `b`."""
    async with opened(settings_for(database_url, redis_url, broker_url)) as resources:
        yield resources


def seed(name: str) -> bytes:
    """A file of the shared data: not part of the project, so it may be absent, but not in CI."""
    path = DATA / name
    if not path.exists():
        reason = f"{name} is not beside the project"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path.read_bytes()


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
    assert await found.verifier.thread(thread_stream_id("a", SEED_KEY)) == []
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
    (first,) = await events(found)

    def about(what: bytes) -> dict[str, Any]:
        return {
            "site": "a",
            "stream_id": thread_stream_id("a", KEY),
            "event_id": event_id_at(EPOCH, what),
            "actor": Actor("u-9", moderator=True),
            "key": KEY,
        }

    async with writing(found) as appenders:
        await appenders.submit(DeleteComment(**about(b"removal"), comment_id=first.event_id))
        await appenders.submit(ChangeThread(**about(b"closing"), describe={}, closed=True))

    assert counted(await import_jsonl(found, line(1) + line(2, 1, minute=1))) == (1, 0, 1, 0)
    assert (await page(found))["thread"]["state"] == "closed"


async def test_an_author_who_is_erased_during_an_import_is_skipped(found: Resources) -> None:
    await import_jsonl(found, line(1))
    await found.pool.execute("update author_keys set destroyed_at = now(), wrapped = null")

    report = await import_jsonl(found, line(2))

    assert dict(report.skipped.counts) == {"its author was erased during the import": 1}


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
