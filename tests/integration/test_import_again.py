"""Importing again: nothing is added twice, whatever became of the thread or of the first run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from schema.events.envelope import EPOCH
from services.core.addresses import event_id_at, thread_stream_id
from services.core.commands import Actor, Command, DeleteComment, EditComment, PostComment
from services.ops.importers.jsonl import read_jsonl
from services.ops.importers.records import Record, Report
from services.ops.importers.run import CHUNK, WINDOW, Step, author_hmac, run_import
from services.wiring import Resources
from tests.imports import (
    KEY,
    LINK,
    ROOT,
    chain,
    counted,
    environment,
    events,
    everything,
    export,
    import_jsonl,
    import_wxr,
    item,
    line,
    opened,
    seen,
    settings_for,
    wp_comment,
    writing,
)


@pytest.fixture
async def found(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Resources]:
    """What an import stands on, with the sites `a` and `b`."""
    async with opened(settings_for(database_url, redis_url, broker_url)) as resources:
        yield resources


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
    assert await found.verifier.thread(stream_id) == []
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
    assert await found.verifier.thread(thread_stream_id("a", KEY)) == []
    assert counted(await import_jsonl(found, file.read_bytes())) == (0, 0, count, 0)


async def test_more_comments_than_are_under_way_at_once_keep_their_order(
    two_lane_database_url: str, redis_url: str, broker_url: str
) -> None:
    count = 2 * WINDOW + CHUNK + 1
    settings = settings_for(two_lane_database_url, redis_url, broker_url)
    async with opened(settings.model_copy(update={"max_batch": 7})) as found:
        for key in ("x", "y", "z"):
            assert counted(await import_jsonl(found, chain(count), key=key)) == (count, 0, 0, 0)

            sources = [
                int(json.loads(event.data)["imported"]["source_id"]) for event in await events(found, key=key)
            ]
            assert sources == list(range(count))


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
