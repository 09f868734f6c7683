"""The whole log, for operators: every event once, whoever writes meanwhile."""

from __future__ import annotations

from typing import Final

import orjson
import structlog
from aiohttp import web

from schema.events.envelope import Recorded
from services.api.answers import own
from services.api.context import REQUEST_ID, acceptable, operator
from services.api.deps import API, Api
from services.api.queries import LogQuery, query_of
from services.errors import SiteNotFound
from services.eventlog.following import stretch
from services.eventlog.lines import recorded
from services.projection.opening import opened

_SCOPE: Final = b"log"

_log = structlog.get_logger("threadlog.api")


async def events(request: web.Request) -> web.Response:
    """The events behind a cursor, which is a position for each lane. What is sealed is opened on demand, and
    the process's own log then says who asked for it."""
    api = request.app[API]
    acceptable(request)
    caller = await operator(request)
    query = query_of(request, LogQuery)
    if query.site is not None and await api.sites.get(query.site) is None:
        raise SiteNotFound(query.site)
    scope = _SCOPE + (query.site or "").encode()
    after = {} if query.after is None else api.cursors.positions(scope, query.after, api.appenders.lanes)
    found = await stretch(api.log, after, query.limit, query.site)
    items = [recorded(event) for event in found.events]
    if query.open == "1":
        items = await _opened(api, found.events, items)
        _log.warning(
            "what is sealed was opened for an operator",
            request_id=request[REQUEST_ID],
            caller=caller.id,
            site=query.site,
            events=len(items),
        )
    return own(orjson.dumps({"items": items, "after": api.cursors.laned(scope, found.positions)}))


async def _opened(
    api: Api, events: list[Recorded], items: list[dict[str, object]]
) -> list[dict[str, object]]:
    keys = await api.keyring.by_id(event.key_id for event in events if event.key_id is not None)
    return [item | opened(event, keys).told() for event, item in zip(events, items, strict=True)]
