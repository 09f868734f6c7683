"""`advance`: the one mechanism that brings a view up to the log.

It is the projector's step, the cold read and `min_version`; `rebuild` is its way where there is no view to go
on from, and what a replay does. A view is only ever changed by compare-and-set on (version, last hash), so
any number of advances on one thread, in any processes, leave the same view.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final, ParamSpec, TypeVar
from uuid import UUID

from schema.events.envelope import Recorded
from services.core.page import FoldIndex, PageRequest, Picked, Selection
from services.core.thread import Comment, ThreadState
from services.errors import PoisonEvent, Unavailable
from services.eventlog.keys import Keyring
from services.eventlog.log import EventLog
from services.projection.ahead import ahead
from services.projection.fold import (
    CHUNK,
    OFF_LOOP,
    Folded,
    Texts,
    at_once,
    evolve_all,
    fold,
    resume,
    subjects,
)
from services.projection.longthread import LONG, LongThread
from services.projection.slots import Slots
from services.projection.whole import Whole
from services.readmodel.records import Changes, Head, Outcome
from services.readmodel.views import Build, Views

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")

WRITE: Final = 500
"""Comments written to a build at once."""

SHORT: Final = 2_000
"""Threads of up to so many events are folded on the event loop, in slices; readers build their views."""

_TRIES: Final = 20
"""How often an advance gives way to other writers of the same view before it gives up."""

_FOLDS: Final = 4
"""Whole threads that one process folds at once."""

_WAITING: Final = 200
"""Folds that wait for their turn; more are refused."""


class Projector:
    """Builds views and keeps them up to the log."""

    def __init__(
        self, log: EventLog, keyring: Keyring, views: Views, *, primary: EventLog | None = None
    ) -> None:
        """`primary`: the log as it is now, where `log` may be behind it."""
        self.log = log
        self._primary = primary or log
        self.views = views
        self.keyring = keyring
        self._texts = Texts(log, keyring)
        self._slots = Slots("the queue of threads to fold", _FOLDS, _WAITING)
        self._rebuilding: dict[UUID, asyncio.Task[Head | None]] = {}
        self.rebuilds = 0
        """How many views this process has built whole: cold reads and replays."""
        self.projected = 0
        """How many events this process has brought into views."""
        self.grown: Callable[[UUID, int], None] = lambda _stream_id, _version: None
        """Told of long threads that have moved and have no view, which nobody missed: an import's, say."""

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
        if last is None:
            return None
        if last[0] > SHORT and not await self.views.leases.wanted(stream_id):
            self.grown(stream_id, last[0])
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
                chunk = at_once(events[1:])
                moved = await self._step(stream_id, head, chunk)
                if moved is None:
                    break
                if len(chunk) == len(events) - 1 < CHUNK:
                    return moved
                head = moved
        raise Unavailable(f"the view of {stream_id} is busy")

    async def _step(
        self, stream_id: UUID, head: Head, events: list[Recorded], build: Build | None = None
    ) -> Head | None:
        """Fold `events` onto the view at `head`, or onto the `build` beside it; None where another writer was
        first, or swept the build away."""
        beside = build is not None
        ids, parents_asked = subjects(events)
        touched = await self.views.touch(stream_id, head, ids, parents_asked, beside=beside)
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
        changes = _changes(folded, nodes, folded.descendants)
        outcome = await self.views.apply(stream_id, head, new, changes, beside=beside)
        if outcome is not Outcome.APPLIED:
            return None
        if build is not None:
            await build.grown(len(folded.added))
        else:
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

    async def rebuild(self, stream_id: UUID, whole: Whole | LongThread | None = None) -> Head | None:
        """Build the thread's view anew from the log, beside the one that serves, and switch to it.

        `whole` is the thread folded already, if it is. The head of the new view; None for a thread without
        events. Raises PoisonEvent and UnknownEventType, once the view of what comes before that event serves,
        marked stale.
        """
        async with self._slots.held():
            if whole is None:
                last = await self.log.head(stream_id)
                if last is not None and last[0] > LONG:
                    whole = LongThread(self.log, stream_id)
                    await whole.fold()
            if isinstance(whole, LongThread):
                return await self._rebuild_long(stream_id, whole)
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

    async def _rebuild_long(self, stream_id: UUID, thread: LongThread) -> Head:
        """As `rebuild`, of a thread that is too long to be held in memory as objects."""
        poison = thread.poison
        for _ in range(_TRIES):
            build = self.views.build(stream_id)
            try:
                async for changes in ahead(thread.changes(self._texts, WRITE)):
                    await build.write(changes)
                head = await self._switch(build, thread.head, stale=poison is not None)
                break
            except PoisonEvent as error:
                await build.discard()
                await thread.fold(to=error.version - 1)
                poison = error
            except BaseException:
                await build.discard()
                raise
        else:
            raise poison or Unavailable(f"the view of {stream_id} cannot be built")
        if poison is not None:
            raise poison
        return head

    async def _build(self, whole: Whole) -> Head | None:
        stream_id = whole.thread.stream_id
        if whole.thread.version == 0:
            await self.views.drop(stream_id)
            return None
        build = self.views.build(stream_id)
        try:
            await build.fill(whole.index, self._nodes(whole.index, whole.events))
            return await self._switch(build, Head.of(whole.thread), stale=whole.poison is not None)
        except BaseException:
            await build.discard()
            raise

    async def _switch(self, build: Build, head: Head, *, stale: bool) -> Head:
        """Bring the build, written as `head` has the thread, up to the log, unless that is to be stale, and
        make it the view, though others move the one that serves."""
        for _ in range(_TRIES):
            before = await self.views.head(build.stream_id)
            if not stale:
                head = await self._catch_up(build, head)
            await self.views.recency.built(build.stream_id)
            new = replace(head, build=build.token, stale=stale)
            outcome = await build.switch(before, new)
            if outcome is Outcome.APPLIED:
                self.rebuilds += 1
                self.projected += new.version
                return new
            if outcome is Outcome.ABSENT:
                break
        raise Unavailable(f"the view of {build.stream_id} is busy")

    async def _catch_up(self, build: Build, head: Head) -> Head:
        """Bring the build from `head` up to the log as it is now, as a view is brought up."""
        while events := await self._primary.events_after(build.stream_id, head.version, CHUNK):
            if not head.build:
                head = await build.stand(head)
            moved = await self._step(build.stream_id, head, at_once(events), build)
            if moved is None:
                raise Unavailable(f"the build of {build.stream_id} is gone")
            head = moved
        return head

    async def _nodes(
        self, index: FoldIndex, events: Mapping[int, Recorded]
    ) -> AsyncIterator[dict[int, bytes]]:
        """The nodes of a folded thread, by posting version, some at a time, with these events at hand.

        In slices of a millisecond, as the fold; raises PoisonEvent where a text does not open.
        """
        comments = iter(index.comments.values())
        while chunk := list(islice(comments, OFF_LOOP)):
            made = {c.posted: raw for c in chunk if (raw := index.node(c.posted))}
            missing = [comment for comment in chunk if comment.posted not in made]
            yield made | await self._texts.nodes(index.thread.stream_id, missing, events=events, known={})
            await asyncio.sleep(0)

    async def all_nodes(self, index: FoldIndex, events: Mapping[int, Recorded]) -> dict[int, bytes]:
        """The nodes of a folded thread, by posting version. Raises PoisonEvent where a text does not open."""
        nodes: dict[int, bytes] = {}
        async for some in self._nodes(index, events):
            nodes |= some
        return nodes

    async def structure(self, thread: ThreadState, to: int | None = None) -> dict[int, Recorded]:
        """Fold the thread's stream, from where `thread` stands up to `to` or the end, onto `thread`.

        The events of a short stream are given back by version, so that they need not be read again for
        their texts; those of a long one are not kept. Raises PoisonEvent, UnknownEventType; `thread` then
        stands before that event.
        """
        kept: dict[int, Recorded] = {}
        if to is not None and thread.version >= to:
            return kept
        async for events in ahead(self.log.pages(thread.stream_id, thread.version, to=to, size=CHUNK)):
            # In slices of a fraction of a millisecond, between which others have their turn. In a thread of
            # its own the same work took a fifth longer, and cost those others more: each time that they want
            # the interpreter back they wait for as long as a thread may keep it, 5 ms.
            for begin in range(0, len(events), OFF_LOOP):
                evolve_all(thread, events[begin : begin + OFF_LOOP])
                await asyncio.sleep(0)
            if thread.version <= LONG:
                kept.update(zip(range(events[0].version, thread.version + 1), events, strict=True))
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

    async def nodes(
        self, stream_id: UUID, comments: Sequence[Comment], events: Mapping[int, Recorded]
    ) -> dict[int, bytes]:
        """The nodes of these comments, by posting version, with these events at hand.

        Raises PoisonEvent where a text does not open.
        """
        return await self._texts.nodes(stream_id, comments, events=events, known={})

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
        async with self._slots.held():
            return await self._whole(stream_id, to)

    async def page(self, whole: Whole, request: PageRequest) -> Selection:
        """A page of a thread folded in memory; only the texts on it are opened and rendered.

        Raises ParentNotFound, CursorInvalid, and PoisonEvent where one of its texts does not open.
        """
        async with whole.reading:
            selection = whole.pages.get(request)
            if selection is None:
                selection = whole.index.page(request)
                selection = replace(selection, picked=tuple(await self._rendered(whole, selection.picked)))
                whole.keep(request, selection)
            return selection

    async def comment(self, whole: Whole, comment_id: UUID) -> tuple[Picked, tuple[UUID, ...]] | None:
        """One comment of a thread folded in memory, and its path; None where there is no such comment.

        Raises PoisonEvent where its text does not open.
        """
        async with whole.reading:
            found = whole.index.comment(comment_id)
            if found is None:
                return None
            [picked] = await self._rendered(whole, (found[0],))
            return picked, found[1]

    async def _rendered(self, whole: Whole, picked: Sequence[Picked]) -> list[Picked]:
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


def _changes(folded: Folded, nodes: dict[int, bytes], descendants: dict[int, int]) -> Changes:
    older = folded.touched.keys() - {comment.posted for comment in folded.added}
    return Changes.of(folded.touched.values(), nodes, descendants, older=older, voted=folded.voted)


async def _off_loop(size: int, function: Callable[_P, _R], *arguments: _P.args, **named: _P.kwargs) -> _R:
    """Call at once where there is little to do, else in a thread: the event loop serves readers."""
    if size <= OFF_LOOP:
        return function(*arguments, **named)
    return await asyncio.to_thread(function, *arguments, **named)
