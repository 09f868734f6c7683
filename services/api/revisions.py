"""The texts that a comment has had."""

from __future__ import annotations

import orjson
from aiohttp import web

from services.api.answers import etag, read
from services.api.context import comment_of, thread_of, visit
from services.api.deps import API
from services.api.queries import ListQuery, query_of
from services.core.node import decode
from services.core.thread import CommentState, timestamp
from services.errors import CommentNotFound, NotAuthor
from services.projection.reader import Revision

_FOR_MODERATORS = frozenset({CommentState.DELETED, CommentState.REMOVED})


async def revisions(request: web.Request) -> web.Response:
    """The revisions, oldest first: for the comment's author and for moderators."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    comment_id = comment_of(request)
    query = query_of(request, ListQuery)
    caller = here.signed_in()
    # The newest state, not the view's of a moment ago: it decides who may read the texts.
    head = await api.log.head(thread.stream_id)
    version = max(query.min_version or 0, 0 if head is None else head[0])
    found = await api.reader.comment(thread.stream_id, comment_id, version)
    if not caller.moderator:
        sealed_under = await api.log.comment_key(thread.stream_id, comment_id)
        if sealed_under is None or sealed_under[0] != caller.id:
            if decode(found.picked.raw).state is CommentState.HELD:
                raise CommentNotFound(comment_id)  # for strangers it does not exist
            raise NotAuthor("revisions are for the comment's author and for moderators")
    state = decode(found.picked.raw).state
    legible = state is not CommentState.ERASED and (caller.moderator or state not in _FOR_MODERATORS)
    scope = b"revisions" + thread.stream_id.bytes + comment_id.bytes
    after = 0 if query.after is None else api.cursors.number(scope, query.after)
    texts = await api.reader.revisions(thread.stream_id, comment_id, after, query.limit + 1)
    items = texts[: query.limit]
    more = len(texts) > len(items)
    body = orjson.dumps(
        {
            "items": [_item(one, legible=legible) for one in items],
            "after": api.cursors.numbered(scope, items[-1].revision) if more else None,
        }
    )
    tag = etag(found.head, thread.stream_id, here, "revisions", comment_id, query.after, query.limit)
    return read(request, here, body, tag, found.head.version, stale=found.stale)


def _item(one: Revision, *, legible: bool) -> dict[str, object]:
    return {
        "revision": one.revision,
        "body": one.body if legible else None,
        "html": one.html if legible else None,
        "edited_at": timestamp(one.edited_at),
        "edited_by": one.edited_by,
    }
