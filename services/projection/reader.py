"""Reading a thread: from its view, brought up to the log where the reader asks for it.

Where Redis is away, the thread is folded in memory instead: slower, never wrong, and marked stale.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from redis.exceptions import RedisError

from schema.events.registry import UPCASTERS
from services.core.markup import render
from services.core.page import FoldIndex, PageRequest, Picked, Selection
from services.errors import CommentNotFound, ParentNotFound, ThreadParked, Unavailable, VersionNotReached
from services.eventlog.keys import Keyring
from services.eventlog.log import EventLog
from services.projection.advance import Projector
from services.projection.fold import open_text
from services.readmodel.records import Head
from services.readmodel.views import Views

_log = logging.getLogger(__name__)

_TRIES: Final = 5
"""How often a page whose view vanishes meanwhile is tried again."""

_FOLDS: Final = 2
"""Threads that one process folds in memory at once, where Redis is away."""

EMPTY: Final = Selection(picked=(), roots=0, more=False)


@dataclass(frozen=True, slots=True)
class ThreadPage:
    """A page of a thread. `head` is None for a thread without events."""

    head: Head | None
    selection: Selection
    stale: bool = False


@dataclass(frozen=True, slots=True)
class OneComment:
    """One comment with its path: the last 32 ancestors, root first."""

    head: Head
    picked: Picked
    path: tuple[UUID, ...]
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Revision:
    """One text that a comment has had. `body` and `html` are None where its key is destroyed."""

    revision: int
    body: str | None
    html: str | None
    edited_at: datetime
    edited_by: str | None


class ThreadReader:
    """Answers reads of threads."""

    def __init__(self, log: EventLog, keyring: Keyring, views: Views, projector: Projector) -> None:
        self._log = log
        self._keyring = keyring
        self._views = views
        self._projector = projector
        self._folds = asyncio.Semaphore(_FOLDS)
        self.cold = 0
        """How many reads found no view."""

    async def thread(self, stream_id: UUID, min_version: int | None = None) -> tuple[Head | None, bool]:
        """The thread's head, and whether it is stale. Raises VersionNotReached, ThreadParked."""
        try:
            head = await self._head(stream_id, min_version)
        except RedisError as error:
            index = await self._fold(stream_id, min_version, error)
            return (Head.of(index.thread) if index.thread.version else None), True
        return head, head is not None and head.stale

    async def page(self, stream_id: UUID, request: PageRequest, min_version: int | None = None) -> ThreadPage:
        """A page of the thread.

        Raises ParentNotFound, CursorInvalid, VersionNotReached, ThreadParked.
        """
        try:
            for _ in range(_TRIES):
                if min_version is not None:
                    await self._head(stream_id, min_version)
                answer = await self._views.page(stream_id, request)
                if answer is not None:
                    head, selection = answer
                    if min_version is None or head.version >= min_version or head.stale:
                        return ThreadPage(head, selection, head.stale)
                elif await self._cold(stream_id) is None:
                    return _empty(request)
        except RedisError as error:
            index = await self._fold(stream_id, min_version, error)
            if index.thread.version == 0:
                return _empty(request)
            return ThreadPage(Head.of(index.thread), index.page(request), stale=True)
        raise Unavailable(f"the view of {stream_id} does not stay")

    async def comment(self, stream_id: UUID, comment_id: UUID, min_version: int | None = None) -> OneComment:
        """One comment of the thread. Raises CommentNotFound, VersionNotReached, ThreadParked."""
        try:
            for _ in range(_TRIES):
                if min_version is not None:
                    await self._head(stream_id, min_version)
                one = await self._views.comment(stream_id, comment_id)
                if one is not None:
                    if one.picked is not None:
                        return OneComment(one.head, one.picked, one.path, one.head.stale)
                    if not await self._behind(stream_id, one.head):
                        raise CommentNotFound(comment_id)
                elif await self._cold(stream_id) is None:
                    raise CommentNotFound(comment_id)
        except RedisError as error:
            index = await self._fold(stream_id, min_version, error)
            found = index.comment(comment_id)
            if found is None:
                raise CommentNotFound(comment_id) from None
            return OneComment(Head.of(index.thread), *found, stale=True)
        raise Unavailable(f"the view of {stream_id} does not stay")

    async def revisions(self, stream_id: UUID, comment_id: UUID) -> list[Revision]:
        """Every text that the comment has had, oldest first. Raises CommentNotFound."""
        versions = await self._log.text_versions(stream_id, comment_id)
        if not versions:
            raise CommentNotFound(comment_id)
        events = await self._log.events_at(stream_id, versions)
        events.sort(key=lambda event: event.version)
        keys = await self._keyring.by_id(event.key_id for event in events if event.key_id is not None)
        revisions = []
        for event in events:
            text = open_text(event, keys)
            body = None if text is None else text["body"]
            payload = UPCASTERS.payload(event.type, event.schema_version, event.data)
            revisions.append(
                Revision(
                    revision=payload.get("revision", 1),
                    body=body,
                    html=None if body is None else render(body),
                    edited_at=event.recorded_at,
                    edited_by=payload.get("by", "author"),
                )
            )
        return revisions

    async def _head(self, stream_id: UUID, min_version: int | None) -> Head | None:
        head = await self._views.head(stream_id)
        if head is None:
            head = await self._cold(stream_id)
        if min_version is None or (head is not None and head.version >= min_version):
            return head
        if head is None or not head.stale:
            head = await self._projector.advance(stream_id, min_version)
        reached = 0 if head is None else head.version
        if head is not None and reached < min_version and head.stale:
            raise ThreadParked(stream_id, reached)
        if reached < min_version:
            raise VersionNotReached(min_version, reached)
        return head

    async def _cold(self, stream_id: UUID) -> Head | None:
        """Build the view that a read missed; None for a thread without events."""
        if await self._log.head(stream_id) is None:
            return None
        self.cold += 1
        return await self._projector.advance(stream_id)

    async def _behind(self, stream_id: UUID, head: Head) -> bool:
        """Whether the view was behind the log; it is brought up to it."""
        if head.stale:
            return False
        moved = await self._projector.advance(stream_id)
        return moved is not None and moved.version > head.version

    async def _fold(self, stream_id: UUID, min_version: int | None, error: RedisError) -> FoldIndex:
        _log.warning("Redis does not answer (%s): folding %s in memory", error, stream_id)
        async with self._folds:
            index = await self._projector.index(stream_id)
        if min_version is not None and index.thread.version < min_version:
            raise VersionNotReached(min_version, index.thread.version)
        return index


def _empty(request: PageRequest) -> ThreadPage:
    if request.parent_id is not None:
        raise ParentNotFound(request.parent_id)
    return ThreadPage(None, EMPTY)
