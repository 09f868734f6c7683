"""Feeds: a site's and a thread's newest comments as Atom, for feed readers and for mirrors.

Addresses of the API itself are relative to the document: behind a proxy it does not know its own name, and
one taken from the request's Host could be anybody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from uuid import UUID

import orjson
from aiohttp import web

from services.api.answers import tagged
from services.api.atom import MEDIA, Entry, feed
from services.api.context import thread_of, visit
from services.api.deps import API
from services.api.newest import looked_at, visible
from services.api.queries import NoQuery, ReadQuery, query_of
from services.core.pagejson import comment_json
from services.projection.reader import OneComment

ENTRIES: Final = 50
SECONDS: Final = 60
"""How long a feed may be kept on the way."""


async def of_site(request: web.Request) -> web.Response:
    """The newest comments of the site."""
    api = request.app[API]
    here = await visit(request, any_media=True)
    query_of(request, NoQuery)
    comments, _ = await looked_at(api, await api.lists.of_site(here.site.name, None, ENTRIES))
    entries = list(_entries(visible(comments), here.site.settings.comment_url))
    body = feed(here.site.stream_id, here.site.name, "feed.atom", None, entries)
    return tagged(request, here, body, SECONDS, media=MEDIA)


async def of_thread(request: web.Request) -> web.Response:
    """The newest comments of the thread, replies among them."""
    api = request.app[API]
    here = await visit(request, any_media=True)
    thread = thread_of(request, here.site)
    query = query_of(request, ReadQuery)
    head, stale = await api.reader.thread(thread.stream_id, query.min_version)
    version = 0 if head is None else head.version
    comments, _ = await looked_at(api, await api.lists.of_thread(thread.stream_id, version, ENTRIES))
    entries = list(_entries(visible(comments), here.site.settings.comment_url))
    title, link = (thread.key, None) if head is None else (head.title or thread.key, head.url)
    body = feed(UUID(bytes=thread.stream_id.bytes), title, "feed.atom", link, entries)
    return tagged(request, here, body, SECONDS, media=MEDIA, version=version, stale=stale)


def _entries(comments: Iterable[OneComment], comment_url: str) -> Iterator[Entry]:
    for one in comments:
        found = orjson.loads(comment_json(one.picked, one.path, one.head, comment_url=comment_url))
        if found["author"] is None or found["html"] is None:
            continue  # its key is destroyed, and its thread does not tell so yet
        comment_id, parent_id, url = found["id"], found["parent_id"], one.head.url
        yield Entry(
            id=UUID(comment_id),
            parent_id=None if parent_id is None else UUID(parent_id),
            name=found["author"]["name"] or found["author"]["id"],
            thread=one.head.title or one.head.key,
            html=found["html"],
            created_at=found["created_at"],
            edited_at=found["edited_at"],
            link=found["permalink"],
            parent_link=None if url is None or parent_id is None else _link(comment_url, url, parent_id),
        )


def _link(comment_url: str, url: str, comment_id: str) -> str:
    # Split before the url goes in: a url may itself hold "{id}".
    return comment_id.join(piece.replace("{url}", url) for piece in comment_url.split("{id}"))
