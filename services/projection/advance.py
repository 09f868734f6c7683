"""`advance`: the one mechanism that brings a view up to the log.

It is the projector's step, the cold read and `min_version`; `rebuild` is its way where there is no view to go
on from, and what a replay does. A view is only ever changed by compare-and-set on (version, last hash), so
any number of advances on one thread, in any processes, leave the same view.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import Final, ParamSpec, TypeVar
from uuid import UUID

from schema.events.envelope import Recorded, micros
from services.core.page import FoldIndex
from services.core.thread import ThreadState
from services.errors import Unavailable
from services.eventlog.keys import Keyring
from services.eventlog.log import EventLog
from services.projection.fold import CHUNK, OFF_LOOP, Folded, Texts, evolve_all, fold, resume, subjects
from services.readmodel.records import Changes, Head, Outcome
from services.readmodel.views import Build, Views

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")

WRITE: Final = 500
"""Comments written to a build at once."""

_TRIES: Final = 20
"""How often an advance gives way to other writers of the same view before it gives up."""


class Projector:
    """Builds views and keeps them up to the log."""

    def __init__(self, log: EventLog, keyring: Keyring, views: Views) -> None:
        self.log = log
        self.views = views
        self._texts = Texts(log, keyring)
        self._rebuilding: dict[UUID, asyncio.Task[Head | None]] = {}
        self.rebuilds = 0
        """How many views this process has built whole: cold reads and replays."""
        self.projected = 0
        """How many events this process has brought into views."""

    async def advance(self, stream_id: UUID, to: int | None = None) -> Head | None:
        """Bring the thread's view up to version `to`, or up to the log's end; its head.

        None for a thread without events. A parked view stays as it is. Raises PoisonEvent, UnknownEventType,
        Unavailable where other writers always were first.
        """
        for _ in range(_TRIES):
            head = await self.views.head(stream_id)
            if head is None:
                return await self.rebuild_once(stream_id)
            if head.stale or (to is not None and head.version >= to):
                return head
            events = await self.log.events_after(stream_id, head.version - 1, CHUNK + 1)
            if not events or events[0].version != head.version or events[0].hash != head.hash:
                _log.warning("the view of %s tells another story than the log: rebuilding", stream_id)
                return await self.rebuild_once(stream_id)
            if len(events) == 1:
                return head
            await self._step(stream_id, head, events[1:])
        raise Unavailable(f"the view of {stream_id} is busy")

    async def _step(self, stream_id: UUID, head: Head, events: list[Recorded]) -> Outcome:
        ids, parents_asked = subjects(events)
        touched = await self.views.touch(stream_id, head, ids, parents_asked)
        if touched is None:
            return Outcome.MOVED
        thread = head.thread(stream_id)
        parents, known = resume(thread, touched)
        folded = await _off_loop(len(events), fold, thread, parents, events)
        nodes = await self._texts.nodes(
            stream_id,
            list(folded.touched.values()),
            events={event.version: event for event in events},
            known=known,
        )
        changes = _changes(folded, nodes)
        outcome = await self.views.apply(stream_id, head, Head.of(thread, head.build), changes)
        if outcome is Outcome.APPLIED:
            self.projected += len(events)
        return outcome

    async def rebuild_once(self, stream_id: UUID) -> Head | None:
        """As `rebuild`; callers of one process that ask at the same time share one."""
        running = self._rebuilding.get(stream_id)
        if running is None:
            running = asyncio.create_task(self.rebuild(stream_id))
            self._rebuilding[stream_id] = running
            running.add_done_callback(lambda _: self._rebuilding.pop(stream_id, None))
        return await asyncio.shield(running)

    async def rebuild(self, stream_id: UUID) -> Head | None:
        """Build the thread's view anew from the log, beside the one that serves, and switch to it.

        The head of the view that serves in the end; None for a thread without events. Raises PoisonEvent,
        UnknownEventType.
        """
        before = await self.views.head(stream_id)
        thread = ThreadState(stream_id)
        events = await self.structure(thread)
        if thread.version == 0:
            if before is not None:
                await self.views.drop(stream_id)
            return None
        index = await _off_loop(len(thread.comments), FoldIndex, thread, {})
        build = self.views.build(stream_id)
        try:
            await self._write(build, index, events)
            outcome = await build.switch(before, head := Head.of(thread, build.token))
        except BaseException:
            await build.discard()
            raise
        if outcome is Outcome.APPLIED:
            self.rebuilds += 1
            self.projected += head.version
            return head
        return await self.views.head(stream_id) or await self.rebuild(stream_id)

    async def _write(self, build: Build, index: FoldIndex, events: dict[int, Recorded]) -> None:
        comments = iter(index.comments.values())
        while chunk := list(islice(comments, WRITE)):
            nodes = await self._texts.nodes(index.thread.stream_id, chunk, events=events, known={})
            await build.write(
                Changes(
                    nodes=nodes,
                    added=[(c.parent, c.posted, micros(c.created_at), c.id) for c in chunk],
                    descendants={
                        c.posted: index.descendants[c.posted] for c in chunk if c.posted in index.descendants
                    },
                )
            )

    async def structure(self, thread: ThreadState, to: int | None = None) -> dict[int, Recorded]:
        """Fold the thread's stream, from where `thread` stands up to `to` or the end, onto `thread`.

        The events of a short stream are given back by version, so that they need not be read again for
        their texts; those of a long one are not kept.
        """
        kept: dict[int, Recorded] = {}
        async for events in self.log.pages(thread.stream_id, thread.version, to=to, size=CHUNK):
            await _off_loop(len(events), evolve_all, thread, events)
            if thread.version <= CHUNK:
                kept = {event.version: event for event in events}
            else:
                kept.clear()
        return kept

    async def index(self, stream_id: UUID, to: int | None = None) -> FoldIndex:
        """The thread folded in memory, with all its nodes: what a view at version `to` must hold."""
        thread = ThreadState(stream_id)
        events = await self.structure(thread, to)
        nodes: dict[int, bytes] = {}
        comments = iter(thread.comments.values())
        while chunk := list(islice(comments, WRITE)):
            nodes |= await self._texts.nodes(stream_id, chunk, events=events, known={})
        return await _off_loop(len(thread.comments), FoldIndex, thread, nodes)


def _changes(folded: Folded, nodes: dict[int, bytes]) -> Changes:
    return Changes(
        nodes=nodes,
        added=[(c.parent, c.posted, micros(c.created_at), c.id) for c in folded.added],
        descendants=folded.descendants,
    )


async def _off_loop(size: int, function: Callable[_P, _R], *arguments: _P.args, **named: _P.kwargs) -> _R:
    """Call at once where there is little to do, else in a thread: the event loop serves readers."""
    if size <= OFF_LOOP:
        return function(*arguments, **named)
    return await asyncio.to_thread(function, *arguments, **named)
