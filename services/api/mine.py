"""What the caller did in a thread, beside a page that is the same for everyone.

Clients read pages without a token, so that anything on the way may keep them, and lay this over them. Read
from the decision state: a vote is there as soon as it is answered.
"""

from __future__ import annotations

import hashlib

import orjson
from aiohttp import web

from services.api.answers import etag, head_of, read
from services.api.context import Visit, thread_of, visit
from services.api.deps import API
from services.api.queries import MineQuery, query_of
from services.core.deciding.posting import takes_posts
from services.errors import VersionNotReached
from services.eventlog.lists import Own
from services.readmodel.records import Head


async def mine(request: web.Request) -> web.Response:
    """The caller's votes and reports in the thread, their comments that wait for approval, and what they may
    do. With `ids`, votes and reports are those of these comments; else the newest."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    caller = here.signed_in()
    query = query_of(request, MineQuery)
    own = await api.lists.in_thread(thread.stream_id, caller.id, query.comments)
    if query.min_version is not None and query.min_version > own.version:
        raise VersionNotReached(query.min_version, own.version)
    body = orjson.dumps(
        {
            "votes": {str(comment_id): value for comment_id, value in own.votes.items()},
            "reports": list(map(str, own.reports)),
            "held": list(map(str, own.held)),
            "subscription": own.subscription,
            "can": _allowed(here, own),
            "banned_until": None,
        }
    )
    head = head_of(Head(own.version, own.hash) if own.version else None, thread.key)
    tag = etag(head, thread.stream_id, here, "mine", caller.id, hashlib.sha256(body).digest())
    return read(request, here, body, tag, own.version)


def _allowed(here: Visit, own: Own) -> dict[str, bool]:
    settings = here.site.settings
    guest = here.signed_in().guest
    welcome = settings.guests or not guest
    return {
        "post": welcome and takes_posts(settings, closed=own.closed, described_by=own.described_by),
        "vote": not guest,
        "report": welcome,
    }
