"""Reading comments: a page, and one of them."""

from __future__ import annotations

from aiohttp import web

from services.api.answers import etag, head_of, read
from services.api.context import comment_of, thread_of, visit
from services.api.deps import API
from services.api.queries import PageQuery, ReadQuery, query_of
from services.core.addresses import parse_comment_id
from services.core.page import PageRequest
from services.core.pagejson import comment_json, page_json
from services.errors import CursorInvalid, ParentNotFound


async def page(request: web.Request) -> web.Response:
    """A page of the roots, or of the replies to `parent`, with the first replies below each."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    query = query_of(request, PageQuery)
    parent_id = None if query.parent is None else parse_comment_id(query.parent)
    if query.parent is not None and parent_id is None:
        raise ParentNotFound(query.parent[:36])
    place = None if query.after is None else api.cursors.place(thread.stream_id, query.sort, query.after)
    asked = PageRequest(
        sort=query.sort,
        limit=query.limit,
        replies=query.replies,
        depth=query.depth,
        parent_id=parent_id,
        after=None if place is None else place[1],
    )
    found = await api.reader.page(thread.stream_id, asked, query.min_version)
    if place is not None and place[0] != found.selection.parent:
        raise CursorInvalid("the cursor was not made by this list")
    head = head_of(found.head, thread.key)

    def cursor(parent: int, last: int) -> str:
        return api.cursors.comments(thread.stream_id, query.sort, parent, last)

    body = page_json(
        found.selection, head, cursor=cursor, comment_url=here.site.settings.comment_url, reader=here.reader
    )
    tag = etag(head, thread.stream_id, here, asked)
    return read(request, here, body, tag, head.version, stale=found.stale)


async def one(request: web.Request) -> web.Response:
    """One comment."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    comment_id = comment_of(request)
    query = query_of(request, ReadQuery)
    found = await api.reader.comment(thread.stream_id, comment_id, query.min_version)
    body = comment_json(
        found.picked,
        found.path,
        found.head,
        comment_url=here.site.settings.comment_url,
        reader=here.reader,
    )
    tag = etag(found.head, thread.stream_id, here, comment_id)
    return read(request, here, body, tag, found.head.version, stale=found.stale)
