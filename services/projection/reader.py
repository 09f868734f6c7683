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

from schema.events.envelope import Recorded
from schema.events.registry import UPCASTERS
from services.core.markup import render
from services.core.page import PageRequest, Picked, Selection
from services.errors import (
    CommentNotFound,
    ParentNotFound,
    PoisonEvent,
    ThreadParked,
    Unavailable,
    VersionNotReached,
)
from services.eventlog.keys import AuthorKey, Keyring
from services.eventlog.log import EventLog
from services.projection.advance import Projector, Whole
from services.projection.fold import open_text
from services.readmodel.records import Head
from services.readmodel.views import Views

_log = logging.getLogger(__name__)

_TRIES: Final = 5
"""How often a page whose view vanishes meanwhile is tried again."""

_AWAY: Final = (RedisError, Unavailable)
"""Redis does not answer, or is full: the thread is folded in memory instead."""

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
        self._folding: dict[UUID, asyncio.Task[Whole]] = {}
        self.cold = 0
        """How many reads found no view."""

    async def thread(self, stream_id: UUID, min_version: int | None = None) -> tuple[Head | None, bool]:
        """The thread's head, and whether it is stale. Raises VersionNotReached, ThreadParked."""
        try:
            head = await self._head(stream_id, min_version)
        except _AWAY as error:
            whole = await self._fold(stream_id, min_version, error)
            return (Head.of(whole.thread) if whole.thread.version else None), True
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
                    if min_version is None or head.version >= min_version:
                        return ThreadPage(head, selection, head.stale)
                elif await self._cold(stream_id) is None:
                    return _empty(request)
        except _AWAY as error:
            whole = await self._fold(stream_id, min_version, error)
            if whole.thread.version == 0:
                return _empty(request)
            selection = await self._projector.page(whole, request)
            return ThreadPage(Head.of(whole.thread), selection, stale=True)
        raise Unavailable(f"the view of {stream_id} does not stay")

    async def comment(self, stream_id: UUID, comment_id: UUID, min_version: int | None = None) -> OneComment:
        """One comment of the thread. Raises CommentNotFound, VersionNotReached, ThreadParked."""
        try:
            for _ in range(_TRIES):
                if min_version is not None:
                    await self._head(stream_id, min_version)
                one = await self._views.comment(stream_id, comment_id)
                if one is None:
                    if await self._cold(stream_id) is None:
                        raise CommentNotFound(comment_id)
                elif one.picked is not None:
                    return OneComment(one.head, one.picked, one.path, one.head.stale)
                elif not await self._is_ahead(stream_id, comment_id, one.head):
                    raise CommentNotFound(comment_id)
        except _AWAY as error:
            whole = await self._fold(stream_id, min_version, error)
            found = await self._projector.comment(whole, comment_id)
            if found is None:
                raise CommentNotFound(comment_id) from None
            return OneComment(Head.of(whole.thread), *found, stale=True)
        raise Unavailable(f"the view of {stream_id} does not stay")

    async def revisions(
        self, stream_id: UUID, comment_id: UUID, after: int = 0, limit: int = 100
    ) -> list[Revision]:
        """The texts that the comment has had after revision `after`, oldest first, at most `limit`.

        Raises CommentNotFound.
        """
        versions = await self._log.text_versions(stream_id, comment_id, after, limit)
        if not versions:
            if await self._log.comment_key(stream_id, comment_id) is None:
                raise CommentNotFound(comment_id)
            return []
        events = await self._log.events_at(stream_id, versions)
        events.sort(key=lambda event: event.version)
        keys = await self._keyring.by_id(event.key_id for event in events if event.key_id is not None)
        return [_revision(event, keys) for event in events]

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
        """Build the view that a read missed; None for a thread without events.

        Where an event cannot be applied, the view of what comes before it is built, and serves.
        """
        if await self._log.head(stream_id) is None:
            return None
        self.cold += 1
        try:
            return await self._projector.advance(stream_id)
        except PoisonEvent:
            head = await self._views.head(stream_id)
            if head is None:
                raise
            return head

    async def _is_ahead(self, stream_id: UUID, comment_id: UUID, head: Head) -> bool:
        """Whether the log has a comment that its view lacks; the view is brought up to it."""
        if head.stale or await self._log.comment_key(stream_id, comment_id) is None:
            return False
        await self._projector.advance(stream_id)
        return True

    async def _fold(self, stream_id: UUID, min_version: int | None, error: Exception) -> Whole:
        """The thread folded in memory; those who ask at the same time share one fold."""
        running = self._folding.get(stream_id)
        if running is None:
            _log.warning("no view is to be had (%s): folding in memory", type(error).__name__)
            running = asyncio.create_task(self._projector.whole(stream_id))
            self._folding[stream_id] = running
            running.add_done_callback(lambda _: self._folding.pop(stream_id, None))
        whole = await asyncio.shield(running)
        if min_version is not None and whole.thread.version < min_version:
            if whole.poison is not None:
                raise ThreadParked(stream_id, whole.thread.version)
            raise VersionNotReached(min_version, whole.thread.version)
        return whole


def _revision(event: Recorded, keys: dict[UUID, AuthorKey]) -> Revision:
    text = open_text(event, keys)
    body = None if text is None else text["body"]
    payload = UPCASTERS.payload(event.type, event.schema_version, event.data)
    return Revision(
        revision=payload.get("revision", 1),
        body=body,
        html=None if body is None else render(body),
        edited_at=event.recorded_at,
        edited_by=payload.get("by", "author"),
    )


def _empty(request: PageRequest) -> ThreadPage:
    if request.parent_id is not None:
        raise ParentNotFound(request.parent_id)
    return ThreadPage(None, EMPTY)
