"""Reading a thread: from its view, brought up to the log where the reader asks for it.

Where Redis is away, the thread is folded in memory instead: slower, never wrong, and marked stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Final
from uuid import UUID

from redis.exceptions import RedisError

from schema.events.envelope import Recorded
from schema.events.registry import UPCASTERS
from services.core.markup import render
from services.core.page import PageRequest
from services.errors import CommentNotFound, ThreadParked, Unavailable, VersionNotReached
from services.eventlog.keys import AuthorKey, Keyring
from services.eventlog.log import EventLog
from services.projection.advance import Projector
from services.projection.answers import EMPTY, OneComment, Revision, ThreadPage
from services.projection.cold import ColdReads
from services.projection.fold import open_text
from services.projection.logpages import LogPages
from services.readmodel.recency import Reads
from services.readmodel.records import Head
from services.readmodel.views import Views

__all__ = ["EMPTY", "OneComment", "Revision", "ThreadPage", "ThreadReader"]

_TRIES: Final = 5
"""How often a page whose view vanishes meanwhile is tried again."""

_AWAY: Final = (RedisError, Unavailable)
"""Redis does not answer, or is full: the thread is folded in memory instead."""


class ThreadReader:
    """Answers reads of threads."""

    def __init__(
        self, log: EventLog, keyring: Keyring, views: Views, projector: Projector, pages: LogPages
    ) -> None:
        self._log = log
        self._keyring = keyring
        self._views = views
        self._projector = projector
        self._advancing: dict[UUID, asyncio.Task[Head | None]] = {}
        self.cold_reads = ColdReads(log, projector, views, pages)
        """What answers where there is no view."""
        self.reads = Reads()
        """Which views were read: to be told of every read that is answered without this reader."""
        self.cold = 0
        """How many reads found no view."""

    async def stop(self) -> None:
        """End what goes on behind the answers."""
        await self.cold_reads.stop()

    @property
    def away(self) -> bool:
        """Whether the views' Redis does not answer, and is left alone."""
        return self._views.resting

    @property
    def faults(self) -> int:
        """How often the views' Redis did not answer somebody."""
        return self._views.faults

    async def heads(self, stream_ids: Collection[UUID]) -> dict[UUID, Head]:
        """The heads of those threads that have a view, for whoever answers reads with what was read before:
        that counts as reading the views. Raises redis.exceptions.RedisError."""
        heads = await self._views.heads(stream_ids)
        for stream_id in heads:
            self.reads.add(stream_id)
        return heads

    async def thread(self, stream_id: UUID, min_version: int | None = None) -> tuple[Head | None, bool]:
        """The thread's head, and whether it is stale. Raises VersionNotReached, ThreadParked."""
        try:
            for _ in range(_TRIES):
                head = await self._head(stream_id, min_version)
                if head is not None:
                    self.reads.add(stream_id)
                    return head, head.stale
                self.cold += 1
                found = await self.cold_reads.head(stream_id, min_version)
                if found is not None:
                    return found
        except _AWAY:
            found = await self.cold_reads.head(stream_id, min_version, away=True)
            if found is not None:
                return found
        raise Unavailable(f"the view of {stream_id} does not stay")

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
                        self.reads.add(stream_id)
                        return ThreadPage(head, selection, head.stale)
                    continue
                self.cold += 1
                page = await self.cold_reads.page(stream_id, request, min_version)
                if page is not None:
                    return page
        except _AWAY:
            page = await self.cold_reads.page(stream_id, request, min_version, away=True)
            if page is not None:
                return page
        raise Unavailable(f"the view of {stream_id} does not stay")

    async def comment(self, stream_id: UUID, comment_id: UUID, min_version: int | None = None) -> OneComment:
        """One comment of the thread. Raises CommentNotFound, VersionNotReached, ThreadParked."""
        try:
            for _ in range(_TRIES):
                if min_version is not None:
                    await self._head(stream_id, min_version)
                one = await self._views.comment(stream_id, comment_id)
                if one is None:
                    self.cold += 1
                    found = await self.cold_reads.comment(stream_id, comment_id, min_version)
                    if found is not None:
                        return found
                elif min_version is not None and one.head.version < min_version:
                    continue
                elif one.picked is not None:
                    self.reads.add(stream_id)
                    return OneComment(one.head, one.picked, one.path, one.head.stale)
                elif not await self._is_ahead(stream_id, comment_id, one.head):
                    raise CommentNotFound(comment_id)
        except _AWAY:
            found = await self.cold_reads.comment(stream_id, comment_id, min_version, away=True)
            if found is not None:
                return found
        raise Unavailable(f"the view of {stream_id} does not stay")

    async def comments(self, stream_id: UUID, ids: Sequence[UUID]) -> dict[UUID, OneComment]:
        """Those of the comments `ids` that the thread has, by their ids, in one round trip where it has a
        view that is up to them. Raises ThreadParked."""
        found: dict[UUID, OneComment] = {}
        try:
            seen = await self._views.comments(stream_id, ids) or ()
        except _AWAY:
            seen = ()  # one fold answers for all of them
        for comment_id, one in zip(ids, seen, strict=False):
            if one.picked is not None:
                found[comment_id] = OneComment(one.head, one.picked, one.path, one.head.stale)
        if found:
            self.reads.add(stream_id)
        for comment_id in ids:
            if comment_id not in found:
                with suppress(CommentNotFound):
                    found[comment_id] = await self.comment(stream_id, comment_id)
        return found

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
        """The view's head, brought up to `min_version`; None where there is no view."""
        head = await self._views.head(stream_id)
        if head is None or min_version is None or head.version >= min_version:
            return head
        if not head.stale:
            head = await self._advanced(stream_id, min_version)
        if head is not None and head.version < min_version:
            if head.stale:
                raise ThreadParked(stream_id, head.version)
            raise VersionNotReached(min_version, head.version)
        return head

    async def _advanced(self, stream_id: UUID, to: int) -> Head | None:
        """Bring the view up to the log; those who ask at the same time share one advance."""
        while True:
            running = self._advancing.get(stream_id)
            # One that has ended stands there for a turn of the loop, and whoever waits for it gives no turn.
            mine = running is None or running.done()
            if running is None or running.done():
                running = asyncio.create_task(self._projector.bring_up(stream_id))
                self._advancing[stream_id] = running
                running.add_done_callback(partial(self._ended, stream_id))
            head = await asyncio.shield(running)
            if mine or head is None or head.stale or head.version >= to:
                return head

    def _ended(self, stream_id: UUID, advance: asyncio.Task[Head | None]) -> None:
        if self._advancing.get(stream_id) is advance:
            del self._advancing[stream_id]

    async def _is_ahead(self, stream_id: UUID, comment_id: UUID, head: Head) -> bool:
        """Whether the log has a comment that its view lacks; the view is brought up to it."""
        if head.stale or await self._log.comment_key(stream_id, comment_id) is None:
            return False
        await self._projector.bring_up(stream_id)
        return True


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
