"""Reading comments: a page, and one of them.

What everybody is shown is read from memory (`services.api.pages`). A moderator, and an author with comments
that are not public, is answered apart, from the view, and nothing of that is remembered.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from aiohttp import web

from services.api import history
from services.api.answers import etag, head_of, read, remembered, tag_of
from services.api.asking import ASKING, AskedComment, AskedPage
from services.api.context import Visit, visit
from services.api.deps import API, Api
from services.api.pages.memory import Entry, Read, Reading
from services.core.node import LETTERS, STATE
from services.core.page import Place
from services.core.pagejson import PUBLIC, Reader, comment_json, page_json
from services.core.thread import CommentState
from services.errors import CommentNotFound, CursorInvalid
from services.projection.reader import OneComment, ThreadPage
from services.readmodel.records import Head

_VISIBLE: Final = ord(LETTERS[CommentState.VISIBLE])


async def page(request: web.Request) -> web.StreamResponse:
    """A page of the roots, or of the replies to `parent`, with the first replies below each; or one root with
    the path to the comment in `focus`."""
    api = request.app[API]
    here = await visit(request)
    asked = request.app[ASKING].page(request, here.site)
    if asked.as_of is not None:
        return await history.page(request, api, here, asked, asked.as_of)
    comment_url = here.site.settings.comment_url
    key = (asked.name, comment_url)
    entry = await _shared(api, here, key, asked, partial(_page_for_all, api, asked, comment_url))
    if entry is not None:
        return await remembered(request, api, here, key, entry, asked.min_version)
    found = await _page(api, asked, asked.min_version)
    stream_id = asked.thread.stream_id
    body = _page_body(api, asked, comment_url, found, here.reader)
    stale = body if found.stale else b""
    tag = etag(head_of(found.head, asked.thread.key), stream_id, here, asked.page, stale=stale)
    return read(request, here, body, tag, _version(found.head), stale=found.stale)


async def one(request: web.Request) -> web.StreamResponse:
    """One comment."""
    api = request.app[API]
    here = await visit(request)
    asked = request.app[ASKING].comment(request, here.site)
    if asked.as_of is not None:
        return await history.one(request, api, here, asked, asked.as_of)
    comment_url = here.site.settings.comment_url
    key = (asked.name, comment_url)
    entry = await _shared(api, here, key, asked, partial(_comment_for_all, api, asked, comment_url))
    if entry is not None:
        return await remembered(request, api, here, key, entry, asked.min_version)
    stream_id = asked.thread.stream_id
    found = await api.reader.comment(stream_id, asked.comment_id, asked.min_version)
    body = _comment_body(found, comment_url, here.reader)
    tag = etag(found.head, stream_id, here, asked.comment_id, stale=body if found.stale else b"")
    return read(request, here, body, tag, found.head.version, stale=found.stale)


async def _shared(
    api: Api, here: Visit, key: object, asked: AskedPage | AskedComment, reading: Reading
) -> Entry | None:
    """What everybody is shown; None where this reader is shown something else."""
    caller = here.caller
    if caller is not None and caller.moderator:
        return None
    try:
        entry = await api.pages.get(key, asked.thread.stream_id, reading, asked.min_version)
    except CommentNotFound:
        if caller is None:
            raise
        return None  # perhaps it is held, and the caller's own
    return entry if caller is None or entry.is_shared_with(caller.id) else None


def _overlay(found: ThreadPage) -> frozenset[str] | None:
    """The authors who are shown more of the thread than everybody; None where they are not known."""
    return frozenset() if found.head is None else found.selection.overlay


async def _page_for_all(api: Api, asked: AskedPage, comment_url: str, min_version: int | None) -> Read:
    found = await _page(api, asked, min_version)
    head = head_of(found.head, asked.thread.key)
    body = _page_body(api, asked, comment_url, found, PUBLIC)
    shown = ("public", comment_url, asked.name)
    return Read(
        head,
        body,
        tag_of(head, *shown, stale=body if found.stale else b""),
        found.stale,
        _overlay(found),
    )


async def _page(api: Api, asked: AskedPage, min_version: int | None) -> ThreadPage:
    found = await api.reader.page(asked.thread.stream_id, asked.page, min_version)
    if asked.parent is not None and asked.parent != found.selection.parent:
        raise CursorInvalid("the cursor was not made by this list")
    return found


def _page_body(api: Api, asked: AskedPage, comment_url: str, found: ThreadPage, reader: Reader) -> bytes:
    thread, sort = asked.thread, asked.page.sort

    def cursor(parent: int, last: int, score: float) -> str:
        return api.cursors.comments(thread.stream_id, sort, parent, Place(last, score))

    head = head_of(found.head, thread.key)
    return page_json(found.selection, head, cursor=cursor, comment_url=comment_url, reader=reader)


async def _comment_for_all(api: Api, asked: AskedComment, comment_url: str, min_version: int | None) -> Read:
    found = await api.reader.comment(asked.thread.stream_id, asked.comment_id, min_version)
    body = _comment_body(found, comment_url, PUBLIC)
    shown = (asked.thread.stream_id.hex, "public", comment_url, repr(asked.comment_id))
    return Read(
        found.head,
        body,
        tag_of(found.head, *shown, stale=body if found.stale else b""),
        found.stale,
        frozenset() if found.picked.raw[STATE] == _VISIBLE else None,
    )


def _comment_body(found: OneComment, comment_url: str, reader: Reader) -> bytes:
    return comment_json(found.picked, found.path, found.head, comment_url=comment_url, reader=reader)


def _version(head: Head | None) -> int:
    return 0 if head is None else head.version
