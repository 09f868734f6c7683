"""Reports: telling the moderators of a comment."""

from __future__ import annotations

from aiohttp import web

from services.api.answers import written
from services.api.bodies import Report, body_of
from services.api.context import comment_of, thread_of, visit
from services.api.deps import API
from services.api.problems import text_refused
from services.api.queries import NoQuery, query_of
from services.api.writing import correlation_id, event_id, idempotency, submit
from services.core.commands import ReportComment, Sealed
from services.core.text import REASON_CODE_POINTS, TextRefused, normalise_detail, normalise_line


async def report(request: web.Request) -> web.Response:
    """Report a comment, once for each comment and reporter. The detail is sealed under the reporter's key."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    caller = here.writer()
    comment_id = comment_of(request)
    query_of(request, NoQuery)
    asked, raw = await body_of(request, Report)
    reason, detail = _texts(asked)
    key = idempotency(request, thread.stream_id, caller.id, raw)
    new_id = event_id()

    async def command() -> ReportComment:
        sealed: Sealed | None = None
        if detail is not None:
            reporter_key = await api.keyring.for_author(here.site.name, caller.id)
            sealed = reporter_key.sealed(new_id, thread.stream_id, {"detail": detail})
        return ReportComment(
            site=here.site.name,
            stream_id=thread.stream_id,
            event_id=new_id,
            actor=caller.actor,
            correlation_id=correlation_id(request),
            idempotency=key,
            key=thread.key,
            comment_id=comment_id,
            reason=reason,
            detail=sealed,
        )

    appended = await submit(api, command)
    return written(appended.status, appended.version, b"{}")


def _texts(asked: Report) -> tuple[str, str | None]:
    try:
        reason = normalise_line(asked.reason, what="the reason", limit=REASON_CODE_POINTS)
    except TextRefused as refused:
        raise text_refused("reason", refused) from None
    try:
        return reason, None if asked.detail is None else normalise_detail(asked.detail)
    except TextRefused as refused:
        raise text_refused("detail", refused) from None
