"""Decisions: what moderators make of a comment."""

from __future__ import annotations

from aiohttp import web

from services.api import outcomes
from services.api.answers import written
from services.api.bodies import Decision, body_of
from services.api.context import comment_of, thread_of, visit
from services.api.deps import API
from services.api.problems import text_refused
from services.api.queries import NoQuery, query_of
from services.api.writing import command_fields, key_of_comment, submit
from services.core.commands import ModerateComment, Sealed
from services.core.text import REASON_CODE_POINTS, TextRefused, normalise_line


async def decide(request: web.Request) -> web.Response:
    """Approve, hide, restore or remove a comment. What changes nothing is 200 and writes nothing."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    caller = here.moderator()
    comment_id = comment_of(request)
    query_of(request, NoQuery)
    asked, raw = await body_of(request, Decision)
    reason = None if asked.reason is None else _reason(asked.reason)
    fields = command_fields(request, here, thread, caller, raw)

    async def command() -> ModerateComment:
        sealed: Sealed | None = None
        if reason is not None:
            author_key = await key_of_comment(api, here, caller, thread, comment_id)
            sealed = author_key.sealed(fields["event_id"], thread.stream_id, {"reason": reason})
        return ModerateComment(**fields, comment_id=comment_id, action=asked.action, reason=sealed)

    appended = await submit(api, command)
    answer = await outcomes.comment_now(api, here, thread, comment_id, appended, None)
    return written(appended.status, appended.version, answer)


def _reason(raw: str) -> str:
    try:
        return normalise_line(raw, what="the reason", limit=REASON_CODE_POINTS)
    except TextRefused as refused:
        raise text_refused("reason", refused) from None
