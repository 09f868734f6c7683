"""`advance`: the one mechanism that brings a view up to the log.

It is the projector's step, the cold read and `min_version`; `rebuild` is its way where there is no view to go
on from, and what a replay does. A view is only ever changed by compare-and-set on (version, last hash), so
any number of advances on one thread, in any processes, leave the same view.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from typing import Final, ParamSpec, TypeVar
from uuid import UUID

from schema.events.envelope import Recorded
from services.core.page import FoldIndex, PageRequest, Picked, Selection
from services.core.thread import ThreadState
from services.errors import Overloaded, PoisonEvent, Unavailable
from services.eventlog.keys import Keyring
from services.eventlog.log import EventLog
from services.projection.fold import CHUNK, OFF_LOOP, Folded, Texts, evolve_all, fold, resume, subjects
from services.projection.whole import Whole
from services.readmodel.records import Changes, Head, Outcome
from services.readmodel.views import Build, Views

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")

WRITE: Final = 500
"""Comments written to a build at once."""

TEXTS: Final = 1 << 20
"""Bytes of sealed text that one step brings into a view, at most, beside a single longer one."""

SHORT: Final = 2_000
"""Threads of up to so many events are folded on the event loop, in slices; readers build their views."""

KEPT: Final = 20_000
"""The events of streams up to this length are kept between the fold of their structure and of their texts."""

_TRIES: Final = 20
"""How often an advance gives way to other writers of the same view before it gives up."""

_FOLDS: Final = 4
"""Whole threads that one process folds at once."""

_WAITING: Final = 200
"""Folds that wait for their turn; more are refused."""


class Projector:
    """Builds views and keeps them up to the log."""

    def __init__(self, log: EventLog, keyring: Keyring, views: Views) -> None:
        self.log = log
        self.views = views
        self._texts = Texts(log, keyring)
        self._slots = asyncio.Semaphore(_FOLDS)
        self._waiting = 0
        self._rebuilding: dict[UUID, asyncio.Task[Head | None]] = {}
        self.rebuilds = 0
        """How many views this process has built whole: cold reads and replays."""
        self.projected = 0
        """How many events this process has brought into views."""

    async def advance(self, stream_id: UUID, to: int | None = None) -> Head | None:
        """Bring the thread's view up to version `to`, or up to the log's end as it is now; its head.

        Where there is none it is built. None for a thread without events. A parked view stays as it is.
        Raises PoisonEvent, UnknownEventType; Unavailable where other writers always were first, Overloaded
        where too many views are being built.
        """
        head = await self.bring_up(stream_id, to)
        return await self.rebuild_once(stream_id) if head is None else head

    async def follow(self, stream_id: UUID) -> Head | None:
        """The projector's step for a message: as `advance`, but where there is no view, one process builds it
        and the others leave it to that one; that of a long thread is built where a reader missed it.

        None where there is no view to bring up.
        """
        head = await self.bring_up(stream_id)
        if head is not None:
            return head
        last = await self.log.head(stream_id)
        if last is None or (last[0] > SHORT and not await self.views.leases.wanted(stream_id)):
            return None
        async with self.views.leases.held(stream_id) as mine:
            if not mine:
                return None
            if await self.views.head(stream_id) is None:
                await self.rebuild_once(stream_id)
        # Whoever came for a later event meanwhile has left it to this process.
        return await self.bring_up(stream_id)

    async def bring_up(self, stream_id: UUID, to: int | None = None) -> Head | None:
        """As `advance`, but builds nothing: None where there is no view."""
        for _ in range(_TRIES):
            head = await self.views.head(stream_id)
            if head is None:
                return None
            while True:
                if head.stale or (to is not None and head.version >= to):
                    return head
                events = await self.log.events_after(stream_id, head.version - 1, CHUNK + 1)
                if not events or events[0].version != head.version or events[0].hash != head.hash:
                    _log.warning("the view of %s tells another story than the log: rebuilding", stream_id)
                    return await self.rebuild_once(stream_id)
                if len(events) == 1:
                    return head
                chunk = _at_once(events[1:])
                moved = await self._step(stream_id, head, chunk)
                if moved is None:
                    break
                if len(chunk) == len(events) - 1 < CHUNK:
                    return moved
                head = moved
        raise Unavailable(f"the view of {stream_id} is busy")

    async def _step(self, stream_id: UUID, head: Head, events: list[Recorded]) -> Head | None:
        """Fold `events` onto the view at `head`; None where another writer was first."""
        ids, parents_asked = subjects(events)
        touched = await self.views.touch(stream_id, head, ids, parents_asked)
        if touched is None:
            return None
        thread = head.thread(stream_id)
        parents, known = resume(thread, touched)
        folded = await _off_loop(len(events), fold, thread, parents, events)
        nodes = await self._texts.nodes(
            stream_id,
            list(folded.touched.values()),
            events={event.version: event for event in events},
            known=known,
        )
        new = Head.of(thread, head.build)
        outcome = await self.views.apply(stream_id, head, new, _changes(folded, nodes, folded.descendants))
        if outcome is not Outcome.APPLIED:
            return None
        self.projected += len(events)
        return new

    async def rebuild_once(self, stream_id: UUID) -> Head | None:
        """As `rebuild`; callers of one process that ask at the same time share one."""
        running = self._rebuilding.get(stream_id)
        if running is None:
            running = asyncio.create_task(self.rebuild(stream_id))
            self._rebuilding[stream_id] = running
            running.add_done_callback(lambda _: self._rebuilding.pop(stream_id, None))
        return await asyncio.shield(running)

    async def rebuild(self, stream_id: UUID, whole: Whole | None = None) -> Head | None:
        """Build the thread's view anew from the log, beside the one that serves, and switch to it.

        `whole` is the thread folded already, if it is. The head of the new view; None for a thread without
        events. Raises PoisonEvent and UnknownEventType, once the view of what comes before that event serves,
        marked stale.
        """
        async with self._slot():
            if whole is None:
                whole = await self._whole(stream_id, voters=False)
            for _ in range(_TRIES):
                try:
                    head = await self._build(whole)
                    break
                except PoisonEvent as error:  # a text that does not open: serve what comes before it
                    whole = await self._whole(stream_id, to=error.version - 1, voters=False)
                    whole.poison = error
            else:
                raise whole.poison or Unavailable(f"the view of {stream_id} cannot be built")
        if whole.poison is not None:
            raise whole.poison
        return head

    async def _build(self, whole: Whole) -> Head | None:
        stream_id = whole.thread.stream_id
        if whole.thread.version == 0:
            await self.views.drop(stream_id)
            return None
        build = self.views.build(stream_id)
        try:
            await self._write(build, whole.index, whole.events)
            return await self._switch(build, whole)
        except BaseException:
            await build.discard()
            raise

    async def _switch(self, build: Build, whole: Whole) -> Head:
        """Bring the build up to the log and make it the view, though others move the one that serves."""
        for _ in range(_TRIES):
            before = await self.views.head(whole.thread.stream_id)
            await self._catch_up(build, whole)
            head = replace(Head.of(whole.thread, build.token), stale=whole.poison is not None)
            await self.views.recency.built(whole.thread.stream_id)
            outcome = await build.switch(before, head)
            if outcome is Outcome.APPLIED:
                self.rebuilds += 1
                self.projected += head.version
                return head
            if outcome is Outcome.ABSENT:
                break
        raise Unavailable(f"the view of {whole.thread.stream_id} is busy")

    async def _catch_up(self, build: Build, whole: Whole) -> None:
        """Write what came since the fold into the build."""
        if whole.poison is not None:
            return
        thread, index = whole.thread, whole.index
        parents: dict[int, int] | None = None
        async for events in self.log.pages(thread.stream_id, thread.version, size=CHUNK):
            if parents is None:
                async with whole.reading:
                    whole.move()
                parents = {comment.posted: comment.parent for comment in index.comments.values()}
            folded = await _off_loop(len(events), fold, thread, parents, events)
            for comment in folded.added:
                index.comments[comment.posted] = comment
            for posted, more in folded.descendants.items():
                index.descendants[posted] = index.descendants.get(posted, 0) + more
            nodes = await self._texts.nodes(
                thread.stream_id,
                list(folded.touched.values()),
                events={event.version: event for event in events},
                known={},
            )
            counts = {posted: index.descendants[posted] for posted in folded.descendants}
            await build.write(_changes(folded, nodes, counts))

    async def _write(self, build: Build, index: FoldIndex, events: dict[int, Recorded]) -> None:
        comments = iter(index.comments.values())
        while chunk := list(islice(comments, WRITE)):
            made = {c.posted: raw for c in chunk if (raw := index.node(c.posted))}
            missing = [comment for comment in chunk if comment.posted not in made]
            nodes = made | await self._texts.nodes(index.thread.stream_id, missing, events=events, known={})
            counts = {c.posted: index.descendants[c.posted] for c in chunk if c.posted in index.descendants}
            await build.write(Changes.of(chunk, nodes, counts))

    async def structure(self, thread: ThreadState, to: int | None = None) -> dict[int, Recorded]:
        """Fold the thread's stream, from where `thread` stands up to `to` or the end, onto `thread`.

        The events of a short stream are given back by version, so that they need not be read again for
        their texts; those of a long one are not kept. Raises PoisonEvent, UnknownEventType; `thread` then
        stands before that event.
        """
        kept: dict[int, Recorded] = {}
        if to is not None and thread.version >= to:
            return kept
        async for events in _ahead(self.log.pages(thread.stream_id, thread.version, to=to, size=CHUNK)):
            # In slices of a fraction of a millisecond, between which others have their turn. In a thread of
            # its own the same work took a fifth longer, and cost those others more: each time that they want
            # the interpreter back they wait for as long as a thread may keep it, 5 ms.
            for begin in range(0, len(events), OFF_LOOP):
                evolve_all(thread, events[begin : begin + OFF_LOOP])
                await asyncio.sleep(0)
            if thread.version <= KEPT:
                kept.update((event.version, event) for event in events)
            else:
                kept.clear()
        return kept

    async def _whole(self, stream_id: UUID, to: int | None = None, *, voters: bool = True) -> Whole:
        whole = Whole(stream_id)
        whole.thread.voters = voters
        try:
            whole.events = await self.structure(whole.thread, to)
        except PoisonEvent as error:
            whole.poison = error
        await self.reindex(whole)
        return whole

    async def reindex(self, whole: Whole) -> None:
        """Bring the index up to the fold, which went on without it."""
        if whole.indexed != whole.thread.version:
            whole.nodes.clear()
            if whole.thread.version <= SHORT:
                whole.index = FoldIndex(whole.thread, whole.nodes)
            else:
                whole.index = await asyncio.to_thread(FoldIndex, whole.thread, whole.nodes)
            whole.indexed = whole.thread.version

    async def whole(self, stream_id: UUID, to: int | None = None) -> Whole:
        """The thread folded in memory, its texts neither opened nor rendered. Raises Overloaded."""
        async with self._slot():
            return await self._whole(stream_id, to)

    async def page(self, whole: Whole, request: PageRequest) -> Selection:
        """A page of a thread folded in memory; only the texts on it are opened and rendered.

        Raises Moved, ParentNotFound, CursorInvalid, and PoisonEvent where one of its texts does not open.
        """
        async with whole.reading:
            whole.check()
            selection = whole.pages.get(request)
            if selection is None:
                selection = whole.index.page(request)
                selection = replace(selection, picked=tuple(await self._rendered(whole, selection.picked)))
                whole.keep(request, selection)
            return selection

    async def comment(self, whole: Whole, comment_id: UUID) -> tuple[Picked, tuple[UUID, ...]] | None:
        """One comment of a thread folded in memory, and its path; None where there is no such comment.

        Raises Moved, and PoisonEvent where its text does not open.
        """
        async with whole.reading:
            whole.check()
            found = whole.index.comment(comment_id)
            if found is None:
                return None
            [picked] = await self._rendered(whole, (found[0],))
            return picked, found[1]

    async def _rendered(self, whole: Whole, picked: tuple[Picked, ...]) -> list[Picked]:
        missing = [whole.index.comments[one.posted] for one in picked if one.posted not in whole.nodes]
        whole.nodes |= await self._texts.nodes(whole.thread.stream_id, missing, events=whole.events, known={})
        return [one._replace(raw=whole.nodes[one.posted]) for one in picked]

    async def index(self, stream_id: UUID, to: int | None = None) -> FoldIndex:
        """The thread folded in memory, with all its nodes: what a view at version `to` must hold.

        Raises PoisonEvent, UnknownEventType.
        """
        thread = ThreadState(stream_id, voters=False)
        events = await self.structure(thread, to)
        nodes: dict[int, bytes] = {}
        comments = iter(thread.comments.values())
        while chunk := list(islice(comments, WRITE)):
            nodes |= await self._texts.nodes(stream_id, chunk, events=events, known={})
        return FoldIndex(thread, nodes)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of the few places for whole threads in memory."""
        if self._waiting >= _WAITING:
            raise Overloaded("the queue of threads to fold")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()


async def _ahead(pages: AsyncIterator[list[Recorded]]) -> AsyncIterator[list[Recorded]]:
    """These pages, each of which is read while the one before it is worked on."""
    reading = asyncio.ensure_future(anext(pages, None))
    try:
        while (events := await reading) is not None:
            reading = asyncio.ensure_future(anext(pages, None))
            yield events
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _at_once(events: list[Recorded]) -> list[Recorded]:
    """The first of these events, as far as their texts may be written to Redis in one call."""
    size = 0
    for count, event in enumerate(events):
        size += len(event.sealed or b"")
        if size > TEXTS and count:
            return events[:count]
    return events


def _changes(folded: Folded, nodes: dict[int, bytes], descendants: dict[int, int]) -> Changes:
    older = folded.touched.keys() - {comment.posted for comment in folded.added}
    return Changes.of(folded.touched.values(), nodes, descendants, older=older, voted=folded.voted)


async def _off_loop(size: int, function: Callable[_P, _R], *arguments: _P.args, **named: _P.kwargs) -> _R:
    """Call at once where there is little to do, else in a thread: the event loop serves readers."""
    if size <= OFF_LOOP:
        return function(*arguments, **named)
    return await asyncio.to_thread(function, *arguments, **named)
