"""Fills a log with threads that look like threads, through the appender, as a process of its own.

`python -m services.ops.bench.fill` takes a `Filling` as JSON on its standard input, and writes a `Filled` as
JSON. A process of its own, so that what it holds does not count as the memory of what is measured later.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final, TypedDict
from uuid import UUID

import orjson
import uvloop

from services.core.addresses import new_event_id, thread_stream_id
from services.core.commands import (
    Actor,
    Command,
    DeleteComment,
    Description,
    EditComment,
    PostComment,
    ReportComment,
)
from services.eventlog.appenders import Appenders
from services.eventlog.keys import AuthorKey
from services.ops.bench import prose
from services.settings import Settings
from services.wiring import resources

SITE: Final = "bench"
_AUTHORS: Final = 500
_UNDER_WAY: Final = 1000
_SIZES: Final = (1, 1, 2, 3, 5, 8, 12, 20, 35, 60, 100, 180, 300, 550, 1000, 1800)
"""Events of the threads, again and again: few are large, and these hold most of the events."""


class Filling(TypedDict):
    """What to fill: about `events` events in all, one thread of which has `large`."""

    database_url: str
    redis_url: str
    master_key: str
    events: int
    large: int
    seed: int


class Filled(TypedDict):
    """What was added; `large` is the stream of the largest thread."""

    events: int
    threads: int
    large: str
    seconds: float


@dataclass(slots=True)
class _Open:
    """A comment that the filler may still reply to, edit, report or delete."""

    id: UUID
    author: int
    revision: int = 1
    reported: bool = False


def sizes(events: int, large: int) -> list[int]:
    """How many events each thread gets: `large` first, then the usual mixture, `events` in all."""
    planned = [min(events, large)]
    left = events - planned[0]
    while left > 0:
        size = min(left, _SIZES[-1 - (len(planned) - 1) % len(_SIZES)])
        planned.append(size)
        left -= size
    return planned


def thread_key(number: int) -> str:
    """The key of the thread with this number."""
    return f"articles/{number}"


class _Thread:
    """Makes the commands of one thread, each valid after those before it."""

    def __init__(self, number: int, random: Random, keys: list[AuthorKey]) -> None:
        self._key = thread_key(number)
        self._random = random
        self._keys = keys
        self.stream_id = thread_stream_id(SITE, self._key)
        self._open: list[_Open] = []
        self._time = time.time_ns() // 1_000_000

    def commands(self, events: int) -> Iterator[Command]:
        """Commands that add `events` events: 88 of 100 post, 6 edit, 3 delete, 3 report."""
        first = self._post(None, describe=events > 1)
        yield first
        for _ in range(events - (2 if events > 1 else 1)):
            kind = self._random.random()
            if kind < 0.88 or not self._open:
                parent = (
                    self._random.choice(self._open) if self._open and self._random.random() < 0.7 else None
                )
                yield self._post(parent)
            elif kind < 0.94:
                yield self._edit(self._random.choice(self._open))
            elif kind < 0.97 or (reported := self._random.choice(self._open)).reported:
                yield self._delete(self._open.pop(self._random.randrange(len(self._open))))
            else:
                yield self._report(reported)

    def _id(self) -> UUID:
        return new_event_id(self._time, os.urandom(10))

    def _post(self, parent: _Open | None, *, describe: bool = False) -> PostComment:
        author, comment_id = self._random.randrange(len(self._keys)), self._id()
        text = {"body": prose.body(self._random), "name": f"Author {author}"}
        self._open.append(_Open(comment_id, author))
        if len(self._open) > 5_000:
            self._open.pop(self._random.randrange(len(self._open)))
        return PostComment(
            site=SITE,
            stream_id=self.stream_id,
            event_id=comment_id,
            actor=Actor(f"u-{author}"),
            key=self._key,
            text=self._keys[author].sealed(comment_id, self.stream_id, text),
            parent_id=None if parent is None else parent.id,
            describe=Description(self._key.title(), f"https://bench.example/{self._key}")
            if describe
            else None,
        )

    def _edit(self, comment: _Open) -> EditComment:
        event_id = self._id()
        body = {"body": prose.body(self._random)}
        comment.revision += 1
        return EditComment(
            site=SITE,
            stream_id=self.stream_id,
            event_id=event_id,
            actor=Actor(f"u-{comment.author}"),
            key=self._key,
            comment_id=comment.id,
            revision=comment.revision - 1,
            text=self._keys[comment.author].sealed(event_id, self.stream_id, body),
        )

    def _delete(self, comment: _Open) -> DeleteComment:
        return DeleteComment(
            site=SITE,
            stream_id=self.stream_id,
            event_id=self._id(),
            actor=Actor(f"u-{comment.author}"),
            key=self._key,
            comment_id=comment.id,
        )

    def _report(self, comment: _Open) -> ReportComment:
        comment.reported = True
        return ReportComment(
            site=SITE,
            stream_id=self.stream_id,
            event_id=self._id(),
            actor=Actor(f"u-{(comment.author + 1) % len(self._keys)}"),
            key=self._key,
            comment_id=comment.id,
            reason="spam",
        )


async def submit_all(appenders: Appenders, commands: Iterable[Command]) -> None:
    """Append what all these commands decide, some thousand of them under way at once, in their order."""
    slots = asyncio.Semaphore(_UNDER_WAY)

    async def submit(command: Command) -> None:
        try:
            await appenders.submit(command)
        finally:
            slots.release()

    async with asyncio.TaskGroup() as tasks:
        for command in commands:
            # Tasks start in the order they are made in, so a thread's commands queue in theirs.
            await slots.acquire()
            tasks.create_task(submit(command))


async def fill(filling: Filling) -> Filled:
    """Add what is asked for."""
    settings = Settings.load(
        database_url=filling["database_url"],
        redis_url=filling["redis_url"],
        master_key=filling["master_key"],
    )
    random = Random(filling["seed"])  # noqa: S311 - texts, not secrets
    planned = sizes(filling["events"], filling["large"])
    started = time.perf_counter()
    async with resources(settings) as here:
        await here.sites.add(SITE, os.urandom(32))
        keys = [await here.keyring.for_author(SITE, f"u-{number}") for number in range(_AUTHORS)]
        appenders = Appenders(settings.database_url, here.lanes, max_batch=1000)
        await appenders.start()
        try:
            await submit_all(
                appenders,
                (
                    command
                    for number, size in enumerate(planned)
                    for command in _Thread(number, random, keys).commands(size)
                ),
            )
        finally:
            await appenders.stop()
        added = sum((await here.log.lanes()).values())
    return Filled(
        events=added,
        threads=len(planned),
        large=str(thread_stream_id(SITE, thread_key(0))),
        seconds=time.perf_counter() - started,
    )


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(fill(orjson.loads(sys.stdin.buffer.read())))))
