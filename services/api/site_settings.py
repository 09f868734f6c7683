"""A site's settings."""

from __future__ import annotations

import orjson
import structlog
from aiohttp import web
from pydantic import ValidationError

from services.api.answers import own, written
from services.api.bodies import json_body
from services.api.context import visit
from services.api.deps import API
from services.api.problems import invalid, wrong_fields
from services.api.queries import NoQuery, query_of
from services.api.writing import correlation_id, event_id, idempotency
from services.core.commands import ChangeSettings

_log = structlog.get_logger("threadlog.api")


async def show(request: web.Request) -> web.Response:
    """All settings, those left alone with their defaults."""
    here = await visit(request)
    here.admin()
    query_of(request, NoQuery)
    return own(orjson.dumps(here.site.settings.model_dump()), here.site.version)


async def change(request: web.Request) -> web.Response:
    """Change the settings that are named; an unknown one is 422."""
    api = request.app[API]
    here = await visit(request)
    caller = here.admin()
    query_of(request, NoQuery)
    changes, raw = await json_body(request)
    if not isinstance(changes, dict):
        raise invalid("", "takes an object")
    try:
        asked = here.site.settings.changed(changes)
    except ValidationError as error:
        raise wrong_fields(error) from None
    name, stream_id = here.site.name, here.site.stream_id
    appended = await api.appenders.submit(
        ChangeSettings(
            site=name,
            stream_id=stream_id,
            event_id=event_id(),
            actor=caller.actor,
            correlation_id=correlation_id(request),
            idempotency=idempotency(request, stream_id, caller.id, raw),
            changes=changes,
        )
    )
    api.sites.forget(name)
    try:
        site = await api.sites.get(name)
    except Exception as error:  # noqa: BLE001 - whatever the read fails of, the change is in the log
        _log.warning("a write is answered without its site", error=type(error).__name__)
        site = None
    settings = asked if site is None else site.settings
    return written(appended.status, appended.version, orjson.dumps(settings.model_dump()))
