"""What reads of a thread ask for. It follows from the address alone, so it is worked out once for each: the
same few addresses are most of all reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from aiohttp import web

from services.api.context import Thread, comment_of, thread_of
from services.api.cursors import Cursors
from services.api.problems import FieldError, Problem
from services.api.queries import HistoryQuery, PageQuery, ReadQuery, query_of
from services.core.addresses import parse_comment_id
from services.core.page import PageRequest
from services.errors import CommentNotFound, ParentNotFound
from services.eventlog.sites import Site

_KEPT: Final = 4096
"""How many addresses are remembered."""
_LONGEST: Final = 1024
"""Bytes of the longest address that is."""

_Asked = TypeVar("_Asked", "AskedPage", "AskedComment", "AskedThread")


@dataclass(frozen=True, slots=True)
class AskedThread:
    """A thread. `name` is what an answer is remembered by, beside the site's settings."""

    thread: Thread
    min_version: int | None
    name: str


@dataclass(frozen=True, slots=True)
class AskedComment:
    """A comment."""

    thread: Thread
    comment_id: UUID
    min_version: int | None
    name: str
    as_of: int | datetime | None = None


@dataclass(frozen=True, slots=True)
class AskedPage:
    """A page. `parent` is the posting version of the comment whose list its cursor is of (0: the roots; None
    where there is no cursor). With `as_of` the cursor is not read yet: it is bound to a version."""

    thread: Thread
    page: PageRequest
    parent: int | None
    min_version: int | None
    name: str
    as_of: int | datetime | None = None
    after: str | None = None


class Asking:
    """Reads addresses, and remembers what they ask for."""

    def __init__(self, cursors: Cursors) -> None:
        self._cursors = cursors
        self._pages: dict[str, AskedPage] = {}
        self._comments: dict[str, AskedComment] = {}
        self._threads: dict[str, AskedThread] = {}

    def page(self, request: web.Request, site: Site) -> AskedPage:
        """Raises BadAddress, Problem `bad-query`, ParentNotFound, CommentNotFound, CursorInvalid."""
        return _once(self._pages, request, site, self._page)

    def comment(self, request: web.Request, site: Site) -> AskedComment:
        """Raises BadAddress, Problem `bad-query`, CommentNotFound."""
        return _once(self._comments, request, site, _comment)

    def thread(self, request: web.Request, site: Site) -> AskedThread:
        """Raises BadAddress, Problem `bad-query`."""
        return _once(self._threads, request, site, _thread)

    def _page(self, request: web.Request, site: Site) -> AskedPage:
        thread = thread_of(request, site)
        query = query_of(request, PageQuery)
        if query.focus is not None and (query.parent is not None or query.after is not None):
            raise Problem("bad-query", errors=[FieldError("focus", "goes with neither parent nor after")])
        parent_id = None if query.parent is None else parse_comment_id(query.parent)
        if query.parent is not None and parent_id is None:
            raise ParentNotFound(query.parent[:36])
        focus = None if query.focus is None else parse_comment_id(query.focus)
        if query.focus is not None and focus is None:
            raise CommentNotFound(query.focus[:36])
        parent, place = None, None
        if query.after is not None and query.as_of is None:
            parent, place = self._cursors.place(thread.stream_id, query.sort, query.after)
        page = PageRequest(
            sort=query.sort,
            limit=query.limit,
            replies=query.replies,
            depth=query.depth,
            parent_id=parent_id,
            after=place,
            focus=focus,
        )
        # Not the page's repr: a dataclass takes its time for that.
        behind = None if place is None else (place.posted, place.score)
        listed = f"{query.sort} {query.limit} {query.replies} {query.depth} {parent_id} {focus} {behind}"
        name = f"page {thread.stream_id.hex} {parent} {listed}"
        return AskedPage(thread, page, parent, query.min_version, name, query.as_of, query.after)


def _comment(request: web.Request, site: Site) -> AskedComment:
    thread = thread_of(request, site)
    comment_id = comment_of(request)
    query = query_of(request, HistoryQuery)
    name = f"comment {thread.stream_id.hex} {comment_id.hex}"
    return AskedComment(thread, comment_id, query.min_version, name, query.as_of)


def _thread(request: web.Request, site: Site) -> AskedThread:
    thread = thread_of(request, site)
    query = query_of(request, ReadQuery)
    return AskedThread(thread, query.min_version, f"thread {thread.stream_id.hex}")


def _once(
    known: dict[str, _Asked], request: web.Request, site: Site, read: Callable[[web.Request, Site], _Asked]
) -> _Asked:
    address = request.raw_path
    asked = known.get(address)
    if asked is None:
        asked = read(request, site)
        if len(address) <= _LONGEST:
            # The first one in is the first one out: what is asked for often is soon back.
            while len(known) >= _KEPT:
                del known[next(iter(known))]
            known[address] = asked
    return asked


ASKING: Final = web.AppKey("asking", Asking)
