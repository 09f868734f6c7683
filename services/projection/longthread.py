"""A long thread folded into columns: its structure in some 60 bytes a comment (services/core/structure.py).

As objects, a million comments take more than half a gigabyte. What the columns do not have, the ids, authors
and texts, is in the events that posted and edited the comments.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from schema.events.envelope import EPOCH, Recorded
from services.core.segments import HELD, MARKS, STATE, TREE
from services.core.steps import Unfoldable, fold, read_payloads
from services.core.structure import Structure
from services.core.thread import CommentState
from services.errors import PoisonEvent, UnknownEventType
from services.eventlog.log import EventLog
from services.eventlog.state import Row
from services.projection.ahead import ahead
from services.projection.fold import CHUNK, Texts
from services.readmodel.records import Changes, Head

LONG: Final = 20_000
"""Threads of more events than this are folded into columns, and their events are not kept between the fold of
their structure and of their texts."""


class LongThread:
    """A stream's structure up to version `to`, or to its end; `poison` is the event before which the fold had
    to stop, if there is one."""

    def __init__(self, log: EventLog, stream_id: UUID) -> None:
        self._log = log
        self._stream_id = stream_id
        self._thread = Structure(orders=False)
        self._recorded_at = EPOCH
        self.poison: PoisonEvent | None = None

    async def fold(self, to: int | None = None) -> None:
        """Fold from the beginning."""
        self._thread = Structure(orders=False)
        async for events in ahead(self._log.pages(self._stream_id, to=to, size=CHUNK)):
            await self.take(events)
            if self.poison is not None:
                return

    async def take(self, events: list[Recorded]) -> None:
        """Fold the events that come next, away from the event loop."""
        self.poison = await asyncio.to_thread(_fold, self._thread, events)
        if self.poison is None:
            self._recorded_at = events[-1].recorded_at

    @property
    def head(self) -> Head:
        """What a view of this fold stands for."""
        thread = self._thread
        return Head(
            version=thread.version,
            hash=thread.last_hash,
            site=thread.site,
            key=thread.key,
            title=thread.title,
            url=thread.url,
            described_by=thread.described_by,
            closed=thread.closed,
            visible=thread.visible,
        )

    @property
    def row(self) -> Row:
        """The stream as the decision state keeps it."""
        head = self.head
        return (
            head.site,
            head.key,
            head.version,
            head.hash,
            self._recorded_at,
            head.closed,
            head.visible,
            head.described_by,
            head.title,
            head.url,
            None,
        )

    async def changes(self, texts: Texts, size: int) -> AsyncIterator[Changes]:
        """What a build is written from, `size` comments at a time. Raises PoisonEvent where a text does not
        open."""
        thread = self._thread
        below = await asyncio.to_thread(_descendants, thread)
        for first in range(0, thread.size, size):
            comments = [thread.comment(one) for one in range(first, min(first + size, thread.size))]
            versions = {version for one in comments for version in (one.posted, one.text_version)}
            found = await self._log.events_at(self._stream_id, sorted(versions))
            events = {event.version: event for event in found}
            counts: dict[int, int] = {}
            for ordinal, comment in enumerate(comments, first):
                comment.id = events[comment.posted].event_id
                if comment.state is not CommentState.ERASED:
                    comment.author_id = events[comment.posted].actor_id
                if below[ordinal]:
                    counts[comment.posted] = below[ordinal]
            nodes = await texts.nodes(self._stream_id, comments, events=events, known={})
            yield Changes.of(comments, nodes, counts)


def _fold(thread: Structure, events: list[Recorded]) -> PoisonEvent | None:
    payloads, stopped = read_payloads(events)
    try:
        fold(thread, events, payloads)
    except Unfoldable as error:
        stopped = error
    if stopped is None:
        return None
    event = events[stopped.version - events[0].version]
    kind = UnknownEventType if stopped.unknown else PoisonEvent
    return kind(event.stream_id, event.version, event.event_id, stopped.reason)


def _descendants(thread: Structure) -> array[int]:
    """How many comments lie below each, by ordinal; held ones are not counted."""
    tree, states = thread.new[TREE][0], thread.new[MARKS][STATE]
    below = array("I", bytes(4 * thread.size))
    for ordinal in range(thread.size - 1, -1, -1):
        if parent := tree[ordinal]:
            below[parent - 1] += below[ordinal] + (states[ordinal] != HELD)
    return below
