"""The newest comments of a site, and of the caller.

Which they are comes from the decision state, in the order of its index; how each looks now from the view of
its thread. What cannot be shown is left out: the cursor goes on behind the last comment that was looked at,
so a list may be shorter than asked for while there is more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import orjson
from aiohttp import web

from services.api.answers import own, tagged
from services.api.context import Visit, visit
from services.api.deps import API, Api
from services.api.gathering import gathered
from services.api.queries import NewestQuery, query_of
from services.core.node import LETTERS, MEMBERS, STATE
from services.core.pagejson import PUBLIC, Reader, comment_json
from services.core.thread import CommentState
from services.eventlog.lists import Listed
from services.projection.reader import OneComment

_VISIBLE: Final = LETTERS[CommentState.VISIBLE]

SECONDS: Final = 10
"""How long the site's newest comments may be kept on the way."""


async def of_site(request: web.Request) -> web.Response:
    """The site's newest visible comments. They are the same for everyone."""
    api = request.app[API]
    here = await visit(request)
    query = query_of(request, NewestQuery)
    site = here.site.name
    scope = f"{site}\nnewest".encode()
    after = None if query.after is None else api.cursors.date(scope, query.after)
    found = await api.lists.of_site(site, after, query.limit + 1)
    comments, last = await looked_at(api, found[: query.limit])
    cursor = None
    if last is not None and len(comments) < len(found):
        cursor = api.cursors.dated(scope, last.created_at, last.id)
    return tagged(request, here, _body(here, visible(comments), cursor, PUBLIC), SECONDS)


async def of_caller(request: web.Request) -> web.Response:
    """What the caller has written on the site, in whatever state it is, as they are shown it."""
    api = request.app[API]
    here = await visit(request)
    caller = here.signed_in()
    query = query_of(request, NewestQuery)
    scope = f"{here.site.name}\nown\n{caller.id}".encode()
    after = None if query.after is None else api.cursors.identity(scope, query.after)
    found = await api.lists.of_person(here.site.name, caller.id, after, query.limit + 1)
    comments, last = await looked_at(api, found[: query.limit])
    cursor = None
    if last is not None and len(comments) < len(found):
        cursor = api.cursors.identified(scope, last.id)
    return own(_body(here, comments, cursor, Reader(caller.id)))


async def looked_at(api: Api, listed: Sequence[Listed]) -> tuple[list[OneComment | None], Listed | None]:
    """How these comments look now, as far as there was time, and the last of those."""
    comments = await gathered(api, [(one.stream_id, one.id) for one in listed], whole=True)
    return comments, listed[len(comments) - 1] if comments else None


def visible(comments: Iterable[OneComment | None]) -> list[OneComment]:
    """Those that are visible as their views have them: a view may know better than the list did."""
    return [one for one in comments if one and one.picked.raw[STATE:MEMBERS] == _VISIBLE]


def _body(here: Visit, comments: Iterable[OneComment | None], cursor: str | None, reader: Reader) -> bytes:
    url = here.site.settings.comment_url
    items = [
        orjson.Fragment(comment_json(one.picked, one.path, one.head, comment_url=url, reader=reader))
        for one in comments
        if one is not None
    ]
    return orjson.dumps({"items": items, "after": cursor})
