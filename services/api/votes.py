"""Votes: one for each comment and person, which may be changed and withdrawn."""

from __future__ import annotations

from aiohttp import web

from services.api.answers import written
from services.api.bodies import Vote, body_of
from services.api.context import comment_of, thread_of, visit
from services.api.deps import API
from services.api.queries import NoQuery, query_of
from services.api.writing import command_fields
from services.core.commands import VoteComment


async def vote(request: web.Request) -> web.Response:
    """Vote on a comment. The answer is the decision's own: neither a view nor a key is asked."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    caller = here.member()
    comment_id = comment_of(request)
    query_of(request, NoQuery)
    asked, raw = await body_of(request, Vote)
    appended = await api.appenders.submit(
        VoteComment(
            **command_fields(request, here, thread, caller, raw), comment_id=comment_id, value=asked.value
        )
    )
    tally = appended.tally
    assert tally is not None  # the comment is there, and comments do not go
    body = b'{"up":%d,"down":%d,"value":%d}' % (tally.up, tally.down, tally.value)
    return written(appended.status, appended.version, body)
