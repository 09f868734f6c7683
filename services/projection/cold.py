"""Reads of threads that have no view to be read, each answered from a fold or from the log.

A short thread is folded once for all who ask, in all processes, and its view is written behind their answers
(warming.py). The view of a long thread is asked of the workers, and its readers are answered from the log
meanwhile (logpages.py); so are the readers of any thread while Redis is away.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Final, TypeVar
from uuid import UUID

from services.core.page import PageRequest
from services.errors import CommentNotFound, PoisonEvent, ThreadParked, Unavailable, VersionNotReached
from services.eventlog.log import EventLog
from services.projection.advance import SHORT, Projector
from services.projection.answers import OneComment, ThreadPage, empty_page
from services.projection.logged import Logged
from services.projection.logpages import LogPages
from services.projection.warming import Warming
from services.projection.whole import Whole
from services.readmodel.records import Head
from services.readmodel.views import Views

ASK_S: Final = 1.0
"""Seconds between two pokes about the same long thread."""

_ASKED: Final = 10_000
_TRIES: Final = 5
_A = TypeVar("_A")


class _Long(Enum):
    """The thread is read from the log."""

    LONG = auto()


_Found = Whole | _Long | None
"""A fold to read from, or the log; None where a view is there by now."""


class ColdReads:
    """Answers where no view is to be had. `away`: since Redis does not answer, and answers are stale."""

    def __init__(self, log: EventLog, projector: Projector, views: Views, pages: LogPages) -> None:
        self._log = log
        self._projector = projector
        self._views = views
        self._pages = pages
        self._logged = Logged()
        self._asked: OrderedDict[UUID, float] = OrderedDict()
        self.warming = Warming(projector, views)
        self.poke: Callable[[UUID], None] | None = None
        """Asks the workers for a view."""
        self.logged = 0
        """How many answers were read from the log."""
        self.asked = 0
        """How often the workers were asked for the view of a long thread."""

    async def stop(self) -> None:
        """End the writing of views."""
        await self.warming.stop()

    async def head(
        self, stream_id: UUID, min_version: int | None = None, *, away: bool = False
    ) -> tuple[Head | None, bool] | None:
        """The thread's head, and whether it is stale; None where a view is there by now.

        Raises VersionNotReached, ThreadParked.
        """

        async def folded(whole: Whole) -> tuple[Head | None, bool]:
            return whole.head, whole.poison is not None

        async def logged() -> tuple[Head | None, bool]:
            head = await self._pages.head(stream_id)
            return head, away or (head is not None and head.stale)

        return await self._read(stream_id, min_version, folded, logged, away=away)

    async def page(
        self, stream_id: UUID, request: PageRequest, min_version: int | None = None, *, away: bool = False
    ) -> ThreadPage | None:
        """A page; None where a view is there by now.

        Raises ParentNotFound, CommentNotFound where the comment in focus is none, CursorInvalid,
        VersionNotReached, ThreadParked.
        """

        async def folded(whole: Whole) -> ThreadPage:
            if whole.thread.version == 0:
                return empty_page(request)
            selection = await self._projector.page(whole, request)
            return ThreadPage(whole.head, selection, whole.poison is not None)

        async def logged() -> ThreadPage:
            known = self._logged.get((stream_id, request, away), min_version)
            if isinstance(known, ThreadPage):
                return known
            began = time.monotonic()
            head, selection = await self._pages.page(stream_id, request)
            self.logged += 1
            page = ThreadPage(head, selection, away or (head is not None and head.stale))
            self._logged.keep((stream_id, request, away), page, len(selection.picked), began)
            return page

        return await self._read(stream_id, min_version, folded, logged, away=away)

    async def comment(
        self, stream_id: UUID, comment_id: UUID, min_version: int | None = None, *, away: bool = False
    ) -> OneComment | None:
        """One comment; None where a view is there by now. Raises CommentNotFound, and as `page`."""

        async def folded(whole: Whole) -> OneComment:
            found = await self._projector.comment(whole, comment_id)
            if found is None:
                raise CommentNotFound(comment_id)
            return OneComment(Head.of(whole.thread), *found, stale=whole.poison is not None)

        async def logged() -> OneComment:
            known = self._logged.get((stream_id, comment_id, away), min_version)
            if isinstance(known, OneComment):
                return known
            began = time.monotonic()
            head, picked, path = await self._pages.comment(stream_id, comment_id)
            self.logged += 1
            one = OneComment(head, picked, path, stale=away or head.stale)
            self._logged.keep((stream_id, comment_id, away), one, 1, began)
            return one

        try:
            return await self._read(stream_id, min_version, folded, logged, away=away)
        except CommentNotFound:
            # What is kept of the thread may be from before the comment: then the log has it.
            last = await self._log.head(stream_id)
            if last is None or await self._log.comment_key(stream_id, comment_id) is None:
                raise
            with suppress(ThreadParked):
                return await self._read(stream_id, last[0], folded, logged, away=away)
            raise

    async def _read(
        self,
        stream_id: UUID,
        min_version: int | None,
        folded: Callable[[Whole], Awaitable[_A]],
        logged: Callable[[], Awaitable[_A]],
        *,
        away: bool,
    ) -> _A | None:
        """What is read from a fold or, where the thread is long or Redis away, from the log."""
        if min_version is not None:
            last = await self._log.head(stream_id)
            if (reached := 0 if last is None else last[0]) < min_version:
                raise VersionNotReached(min_version, reached)
        async with self.warming.reading(stream_id):
            for _ in range(_TRIES):
                found = _Long.LONG if away else await self._find(stream_id, min_version or 0)
                if found is None:
                    return None
                if isinstance(found, _Long):
                    answer = await logged()
                    if _reached(answer) < (min_version or 0):
                        answer = await logged()  # that one had begun before, for another reader
                    if (reached := _reached(answer)) < (min_version or 0):
                        raise ThreadParked(stream_id, reached)
                    return answer
                try:
                    return await folded(found)
                except PoisonEvent as error:
                    await self.warming.cut(found, error)
        raise Unavailable(f"the fold of {stream_id} does not stay")

    async def _find(self, stream_id: UUID, least: int) -> _Found:
        """Where to read at least that version, which the log has. Raises ThreadParked."""
        kept = self.warming.kept(stream_id, least)
        if kept is not None:
            return kept
        last = await self._log.head(stream_id)
        if last is None:
            return Whole(stream_id)
        if last[0] > SHORT:
            await self._ask(stream_id)
            return _Long.LONG
        found = await self.warming.fold(stream_id, least)
        if found is not None and found.thread.version < least:
            found = await self.warming.fold(stream_id, least)  # that one had begun before
        if found is not None and found.thread.version < least:
            raise ThreadParked(stream_id, found.thread.version)
        return found

    async def _ask(self, stream_id: UUID) -> None:
        """Have a worker build the view of a long thread."""
        now = time.monotonic()
        if now - self._asked.get(stream_id, float("-inf")) < ASK_S:
            return
        self._asked[stream_id] = now
        self._asked.move_to_end(stream_id)
        if len(self._asked) > _ASKED:
            self._asked.popitem(last=False)
        if not await self._views.leases.want(stream_id):
            return
        self.asked += 1
        if self.poke is not None:
            self.poke(stream_id)


def _reached(answer: object) -> int:
    """The version of the thread that an answer from the log tells of."""
    head = answer[0] if isinstance(answer, tuple) else getattr(answer, "head", None)
    return head.version if isinstance(head, Head) else 0
