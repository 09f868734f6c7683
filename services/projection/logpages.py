"""Pages and comments of a thread from the log alone, without a view.

What `as_of` shows, what readers of a long thread are given while its view is built, and what there is to read
while Redis is away. A thread is its last snapshot and the events behind it, folded together in memory: of the
snapshot a page loads the segments that it touches, of the log the events that hold its texts. Readers who ask
for the same thread share all of that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from schema.events.envelope import Recorded
from services.core.page import PageRequest, Picked, Selection
from services.core.picking import Drafted, Picker
from services.core.segments import EMPTY, SEGMENT, Columns, Key, Missing
from services.core.snapshot import SnapshotBroken, decode
from services.core.steps import Unfoldable, fold, read_payloads
from services.core.structure import Step, Structure
from services.core.thread import Comment, CommentState
from services.errors import (
    CommentNotFound,
    ParentNotFound,
    ThreadParked,
    Unavailable,
    VersionNotReached,
)
from services.eventlog.keys import Keyring
from services.eventlog.log import EventLog
from services.eventlog.snapshots import LAST, Snapshots
from services.projection.fold import OFF_LOOP, Texts
from services.projection.slots import Slots
from services.readmodel.records import Head

_log = logging.getLogger(__name__)

_R = TypeVar("_R")

CHUNK: Final = 5_000
"""Events read and folded together."""

KEPT: Final = 32
"""Threads that stay in memory between two readers."""

KEPT_BYTES: Final = 64 << 20
"""What they take together, about, beside the one that was asked for last."""

RENEWED: Final = 10_000
"""Folded on by so many events, a thread in memory is put on a later snapshot, if there is one."""

_SEGMENT_BYTES: Final = 8 * SEGMENT
_COMMENT_BYTES: Final = 150
_TRIES: Final = 5
_FOLDS: Final = 4
"""Threads folded at the same time; as many more that take long, apart."""

_WAITING: Final = 200
"""How many wait for that at most; more are refused."""

_PAST: Final = 2
"""Folds up to a version of the past at the same time. Each is used by few, and may take half a second."""

_PAST_WAITING: Final = 20
_QUEUE: Final = "the queue of threads to fold"

_NOTHING: Final = Selection(picked=(), roots=0, more=False)


class _Gone(Exception):
    """What is kept of a thread is not in the log any more, or its snapshot not in the database."""


@dataclass(slots=True)
class _Thread:
    """A thread in memory. Who folds it or picks from it holds `lock`."""

    structure: Structure
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    stopped: Unfoldable | None = None
    renewed: int = 0
    """The version at which a later snapshot was last looked for."""

    @property
    def weight(self) -> int:
        """About how many bytes it takes."""
        structure = self.structure
        loaded = len(structure.segments) * _SEGMENT_BYTES
        return loaded + (structure.size - structure.base.size) * _COMMENT_BYTES


class LogPages:
    """Reads threads from the log."""

    def __init__(self, log: EventLog, keyring: Keyring, snapshots: Snapshots) -> None:
        self._log = log
        self._texts = Texts(log, keyring)
        self._snapshots = snapshots
        self._threads: OrderedDict[tuple[UUID, int | None], _Thread] = OrderedDict()
        self._asking: dict[tuple[UUID, PageRequest, int | None], asyncio.Task[tuple[Head, Selection]]] = {}
        # Apart, so that the many short ones do not wait for the few that take seconds, and those who read a
        # thread as it is do not wait for those who read what it was.
        self._slots = Slots(_QUEUE, _FOLDS, _WAITING)
        self._long_slots = Slots(_QUEUE, _FOLDS, _WAITING)
        self._past_slots = Slots(_QUEUE, _PAST, _PAST_WAITING)

    async def head(self, stream_id: UUID, to: int | None = None) -> Head | None:
        """The thread's head at version `to`, or now; None for a thread without events.

        `stale` where an event cannot be folded: it is the head before that one. Raises VersionNotReached,
        ThreadParked where that event is not after `to`.
        """
        if to == 0:
            return None
        head, _ = await self._asked(stream_id, to, lambda _: None)
        return head if head.version else None

    async def page(
        self, stream_id: UUID, request: PageRequest, to: int | None = None
    ) -> tuple[Head | None, Selection]:
        """A page of the thread as it was at version `to`, or as it is; the head is None where it is empty.

        Who asks for the same at the same moment is given the same. Raises as `head`, ParentNotFound,
        CommentNotFound where the comment in focus is none, CursorInvalid; Overloaded, Unavailable.
        """
        asked = (stream_id, request, to)
        running = self._asking.get(asked)
        if running is None:
            running = asyncio.create_task(self._page(stream_id, request, to))
            self._asking[asked] = running
            running.add_done_callback(lambda done: self._answered(asked, done))
        head, selection = await asyncio.shield(running)
        return (head, selection) if head.version else (None, selection)

    def _answered(
        self, asked: tuple[UUID, PageRequest, int | None], done: asyncio.Task[tuple[Head, Selection]]
    ) -> None:
        del self._asking[asked]
        if not done.cancelled():
            done.exception()  # those who asked may all have gone

    async def comment(
        self, stream_id: UUID, comment_id: UUID, to: int | None = None
    ) -> tuple[Head, Picked, tuple[UUID, ...]]:
        """One comment, and its last 32 ancestors, root first. Raises as `head`, CommentNotFound."""
        posted = None if to == 0 else await self._snapshots.posted(stream_id, comment_id)
        if posted is None:
            raise CommentNotFound(comment_id)
        try:
            head, (drafted, above) = await self._asked(stream_id, to, lambda picker: picker.comment(posted))
        except LookupError:
            raise CommentNotFound(comment_id) from None
        [picked] = await self._rendered(stream_id, [drafted])
        return head, picked, await self._ids(stream_id, above)

    async def version_at(self, stream_id: UUID, when: datetime) -> int:
        """The last version of the thread that was recorded at this time or before; 0 where there is none."""
        return await self._snapshots.version_at(stream_id, when)

    async def states(self, comment_ids: Iterable[UUID]) -> dict[UUID, CommentState]:
        """The states that these comments have now."""
        found = await self._snapshots.states(comment_ids)
        return {comment_id: CommentState(state) for comment_id, state in found.items()}

    async def _page(self, stream_id: UUID, request: PageRequest, to: int | None) -> tuple[Head, Selection]:
        named = request.parent_id if request.focus is None else request.focus
        posted = None if named is None or to == 0 else await self._snapshots.posted(stream_id, named)
        if named is not None and posted is None:
            raise _not_there(request, named)
        if to == 0:
            return _NOWHERE, _NOTHING
        try:
            head, draft = await self._asked(stream_id, to, lambda picker: picker.page(request, posted))
        except LookupError:
            assert named is not None
            raise _not_there(request, named) from None
        return head, Selection(
            picked=tuple(await self._rendered(stream_id, draft.drafted)),
            roots=draft.roots,
            more=draft.more,
            parent=draft.parent,
            ancestors=await self._ids(stream_id, draft.ancestors),
            pathed=draft.pathed,
        )

    async def _asked(self, stream_id: UUID, to: int | None, ask: Callable[[Picker], _R]) -> tuple[Head, _R]:
        """What `ask` picks from the thread at version `to`, and its head."""
        for _ in range(_TRIES):
            try:
                thread = await self._thread(stream_id, to)
                async with thread.lock:
                    await self._advance(thread, stream_id, to)
                    head = _head_of(thread)
                    if to is not None and head.version < to:
                        if thread.stopped is not None:
                            raise ThreadParked(stream_id, head.version)
                        raise VersionNotReached(to, head.version)
                    found = await self._pick(thread, stream_id, ask)
                    self._bound()
                    return head, found
            except SnapshotBroken as error:
                _log.warning("a snapshot of %s is removed: %s", stream_id, error)
                await self._snapshots.remove(stream_id, await self._snapshots.versions(stream_id))
                self._forget(stream_id)
            except _Gone:
                self._forget(stream_id)
        raise Unavailable(f"thread {stream_id} cannot be read from the log")

    async def _pick(self, thread: _Thread, stream_id: UUID, ask: Callable[[Picker], _R]) -> _R:
        structure = thread.structure
        picker = Picker(structure)
        while True:
            try:
                # Where much came since the snapshot, much is counted and ordered.
                if structure.size - structure.base.size > OFF_LOOP:
                    return await _in_thread(ask, picker)
                return ask(picker)
            except Missing as error:
                await self._load(thread, stream_id, error.keys)

    # --- threads in memory ------------------------------------------------------------------------------

    async def _thread(self, stream_id: UUID, to: int | None) -> _Thread:
        name = (stream_id, to)
        kept = self._threads.get(name)
        if kept is None or kept.structure.version > kept.renewed + RENEWED:
            base = await self._snapshots.at(stream_id, LAST if to is None else to)
            # Another reader may have been here meanwhile.
            kept = self._threads.get(name)
            if kept is None or (base is not None and base.version > kept.structure.base.version):
                kept = self._threads[name] = _Thread(Structure(base or EMPTY))
            kept.renewed = max(kept.structure.version, kept.structure.base.version)
        self._threads.move_to_end(name)
        return kept

    def _forget(self, stream_id: UUID) -> None:
        for name in [name for name in self._threads if name[0] == stream_id]:
            del self._threads[name]

    def _bound(self) -> None:
        weight = sum(thread.weight for thread in self._threads.values())
        while len(self._threads) > 1 and (len(self._threads) > KEPT or weight > KEPT_BYTES):
            _, dropped = self._threads.popitem(last=False)
            weight -= dropped.weight

    async def _advance(self, thread: _Thread, stream_id: UUID, to: int | None) -> None:
        """Fold what the log has by now, up to `to`. Raises _Gone where it has another story."""
        structure = thread.structure
        if to is not None:
            if structure.version == to:
                await self._fold_on(thread, stream_id, to, 1)  # it may be another log's by now
                return
            async with self._past_slots.held():
                while not await self._fold_on(thread, stream_id, to, CHUNK):
                    pass
            return
        # What stopped it may be gone by now.
        limit = CHUNK if thread.stopped is None else 1
        if structure.version == structure.base.version:
            async with self._slots.held():
                is_done = await self._fold_on(thread, stream_id, LAST, limit)
        else:
            is_done = await self._fold_on(thread, stream_id, LAST, limit)
        if not is_done:
            async with self._long_slots.held():
                while not await self._fold_on(thread, stream_id, LAST, CHUNK):
                    pass

    async def _fold_on(self, thread: _Thread, stream_id: UUID, end: int, limit: int) -> bool:
        """Fold at most `limit` events; whether there are no more. Raises _Gone, SnapshotBroken."""
        structure = thread.structure
        # The event at the present version comes along, to see that it is the same.
        after = structure.version
        steps = await self._snapshots.steps(stream_id, after - 1, end, limit + 1)
        if after:
            if not steps or steps[0].version != after or steps[0].hash != structure.last_hash:
                raise SnapshotBroken("another story") if structure.base.version == after else _Gone
            steps = steps[1:]
        await self._fold(thread, stream_id, steps)
        return len(steps) < limit or thread.stopped is not None

    async def _fold(self, thread: _Thread, stream_id: UUID, steps: list[Step]) -> None:
        structure = thread.structure
        payloads, stopped = await _off_loop(len(steps), read_payloads, steps)
        while payloads:
            if missing := structure.lacks(payloads):
                await self._load(thread, stream_id, missing)
            before = structure.version
            try:
                await _off_loop(len(payloads), fold, structure, steps, payloads)
                break
            except Missing as error:
                done = structure.version - before
                steps, payloads = steps[done:], payloads[done:]
                await self._load(thread, stream_id, error.keys)
            except Unfoldable as error:
                stopped = error
                break
        if stopped is not None:
            _log.warning("%s is read as it was before version %d: %s", stream_id, stopped.version, stopped)
        thread.stopped = stopped

    async def _load(self, thread: _Thread, stream_id: UUID, keys: Iterable[Key]) -> None:
        wanted = set(keys)
        version = thread.structure.base.version
        found = await self._snapshots.segments(stream_id, version, wanted)
        if lost := wanted - found.keys():
            if version not in await self._snapshots.versions(stream_id):
                raise _Gone  # a later one has taken its place
            raise SnapshotBroken(f"it lacks {min(lost)}")
        decoded = await _off_loop(len(found) * 10, _decoded, found)
        try:
            for key, columns in decoded.items():
                thread.structure.load(key, columns)
        except (ValueError, IndexError) as error:
            raise SnapshotBroken(str(error)) from error

    # --- texts ------------------------------------------------------------------------------------------

    async def _rendered(self, stream_id: UUID, drafted: Iterable[Drafted]) -> list[Picked]:
        """With ids, authors and texts, from the events that posted and edited the comments."""
        page = list(drafted)
        if not page:
            return []
        versions = {one.comment.posted for one in page} | {one.comment.text_version for one in page}
        events = {e.version: e for e in await self._log.events_at(stream_id, sorted(versions))}
        comments = [_named(one.comment, events) for one in page]
        nodes = await self._texts.nodes(stream_id, comments, events=events, known={})
        return [
            Picked(c.posted, one.parent, nodes[c.posted], one.children, one.descendants, one.shown, one.score)
            for c, one in zip(comments, page, strict=True)
        ]

    async def _ids(self, stream_id: UUID, versions: tuple[int, ...]) -> tuple[UUID, ...]:
        if not versions:
            return ()
        ids = await self._snapshots.ids(stream_id, versions)
        return tuple(ids[version] for version in versions)


_NOWHERE: Final = Head(version=0, hash=b"")


def _named(comment: Comment, events: dict[int, Recorded]) -> Comment:
    posting = events[comment.posted]
    comment.id = posting.event_id
    comment.author_id = None if comment.state is CommentState.ERASED else posting.actor_id
    return comment


def _decoded(found: dict[Key, bytes]) -> dict[Key, Columns]:
    return {key: decode(key[0], data) for key, data in found.items()}


def _head_of(thread: _Thread) -> Head:
    structure = thread.structure
    return Head(
        version=structure.version,
        hash=structure.last_hash,
        site=structure.site,
        key=structure.key,
        title=structure.title,
        url=structure.url,
        described_by=structure.described_by,
        closed=structure.closed,
        visible=structure.visible,
        stale=thread.stopped is not None,
    )


def _not_there(request: PageRequest, named: UUID) -> ParentNotFound | CommentNotFound:
    return ParentNotFound(named) if request.focus is None else CommentNotFound(named)


async def _off_loop(size: int, function: Callable[..., _R], *arguments: object) -> _R:
    if size <= OFF_LOOP:
        return function(*arguments)
    return await _in_thread(function, *arguments)


async def _in_thread(function: Callable[..., _R], *arguments: object) -> _R:
    """Call in a thread. Who is cancelled meanwhile stays until it is done, for nothing stops a thread: what
    it works on must not be another's before."""
    working = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # nobody is left to be told
        raise
