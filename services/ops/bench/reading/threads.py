"""Fills a database with threads of given sizes and shapes, through the appender, as a process of its own.

`python -m services.ops.bench.reading.threads` takes a `Filling` as JSON on its standard input, and writes the
number of comments it added as JSON.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from random import Random
from typing import Final, Literal, TypedDict
from uuid import UUID

import orjson
import uvloop

from services.core.addresses import new_event_id, thread_stream_id
from services.core.commands import Actor, Description, PostComment
from services.eventlog.appenders import Appenders
from services.eventlog.keys import AuthorKey
from services.eventlog.snapshots import Snapshots
from services.ops.bench.fill import submit_all
from services.ops.bench.reading.words import Words
from services.ops.bench.servers import SITE
from services.projection.snapshotting import SnapshotWriter
from services.settings import Settings
from services.wiring import resources

Kind = Literal["talk", "wide", "fans"]
"""Whether the comments of a thread are a talk (3 of 10 are roots, the others answer something recent), all
below its first one, or in fans: each root has 3 replies."""

FAN: Final = 4
"""Comments of a fan."""
_AUTHORS: Final = 500
_RECENT: Final = 2_000


class Shape(TypedDict):
    """One thread: `comments` of them, by the kind."""

    key: str
    comments: int
    kind: Kind


class Filling(TypedDict):
    """What to fill, and with what: the environment of the API, as far as it is needed."""

    database_url: str
    redis_url: str
    master_key: str
    threads: list[Shape]
    seed: int


class Poster:
    """Makes posts to one thread, each valid after those before it."""

    def __init__(self, shape: Shape, words: Words, keys: list[AuthorKey], seed: int) -> None:
        self._shape = shape
        self._words = words
        self._keys = keys
        self._random = Random(f"{seed} {shape['key']}")  # noqa: S311 - texts, not secrets
        self.stream_id = thread_stream_id(SITE, shape["key"])
        self._recent: list[UUID] = []

    def commands(self) -> Iterator[PostComment]:
        """A post for each comment of the thread."""
        for number in range(self._shape["comments"]):
            yield self.post(self._parent(number), described=number == 0)

    def post(self, parent_id: UUID | None, *, described: bool = False) -> PostComment:
        """A post of 300 characters by somebody."""
        author = self._random.randrange(len(self._keys))
        comment_id = new_event_id(time.time_ns() // 1_000_000, os.urandom(10))
        text = {"body": self._words.text(self._random), "name": f"Author {author}"}
        if len(self._recent) < _RECENT:
            self._recent.append(comment_id)
        elif self._shape["kind"] == "talk":
            self._recent[self._random.randrange(_RECENT)] = comment_id
        key = self._shape["key"]
        return PostComment(
            site=SITE,
            stream_id=self.stream_id,
            event_id=comment_id,
            actor=Actor(f"u-{author}"),
            key=key,
            text=self._keys[author].sealed(comment_id, self.stream_id, text),
            parent_id=parent_id,
            describe=Description(key.title(), f"https://bench.example/{key}") if described else None,
        )

    def _parent(self, number: int) -> UUID | None:
        match self._shape["kind"]:
            case "wide":
                return self._recent[0] if number else None
            case "fans":
                if number % FAN == 0:
                    self._recent.clear()
                    return None
                return self._recent[0]
        if not number or self._random.random() < 0.3:
            return None
        return self._recent[int(self._random.random() * len(self._recent))]


async def fill(filling: Filling) -> int:
    """Add all of it; how many comments that were."""
    settings = Settings.load(
        database_url=filling["database_url"],
        redis_url=filling["redis_url"],
        master_key=filling["master_key"],
    )
    words = Words(filling["seed"])
    async with resources(settings) as here:
        keys = [await here.keyring.for_author(SITE, f"u-{number}") for number in range(_AUTHORS)]
        appenders = Appenders(settings.database_url, here.lanes, max_batch=1000)
        await appenders.start()
        try:
            await submit_all(
                appenders,
                (
                    command
                    for shape in filling["threads"]
                    for command in Poster(shape, words, keys, filling["seed"]).commands()
                ),
            )
        finally:
            await appenders.stop()
        await here.pool.execute("vacuum analyze")
        writer = SnapshotWriter(here.log, Snapshots(here.pool))
        for shape in filling["threads"]:  # as the workers do while threads grow
            await writer.bring_up(thread_stream_id(SITE, shape["key"]))
    return sum(shape["comments"] for shape in filling["threads"])


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(fill(orjson.loads(sys.stdin.buffer.read())))))
