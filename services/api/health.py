"""Whether the process lives, whether it can serve, and what it has counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import hdrs, web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from services.api.deps import API
from services.api.problems import Problem
from services.eventlog.sites import KEY_PREFIX

_PATIENCE: Final = 2.0
"""Seconds that a dependency has to answer."""

Finding = dict[str, str]


async def healthz(_: web.Request) -> web.Response:
    """The process answers. Nothing outside of it is asked."""
    return _answer("ok", {"process": {"status": "ok", "detail": "answers"}})


async def readyz(request: web.Request) -> web.Response:
    """503 only where Postgres or its schema is unusable, or the process drains; `degraded` without Redis."""
    api = request.app[API]
    postgres, redis = await asyncio.gather(_check(api.postgres), _check(api.redis))
    checks = {"postgres": postgres, "redis": redis}
    if api.drain.begun:
        checks["process"] = {"status": "failed", "detail": "drains"}
    if api.drain.begun or postgres["status"] != "ok":
        return _answer("unavailable", checks)
    return _answer("ok" if redis["status"] == "ok" else "degraded", checks)


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text format, for the networks that the settings name, and for operators from anywhere."""
    api = request.app[API]
    if not api.addresses.within(request, api.settings.metrics_networks) and not await _operator(request):
        raise Problem("forbidden", "metrics are for the networks in THREADLOG_METRICS_NETWORKS and operators")
    return web.Response(
        body=await api.metrics.gathered(),
        headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"},
    )


async def _operator(request: web.Request) -> bool:
    """Whether an operator's server key signs in. The metrics are no site's: a key of any will do. Scrapers
    send all sorts of headers, so whatever else there is counts nothing."""
    _, _, key = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if not key.startswith(KEY_PREFIX) or not key.isascii():
        return False
    known = await request.app[API].sites.server_key(key)
    return known is not None and "operator" in known.roles


async def _check(ask: Callable[[], Awaitable[None]]) -> Finding:
    try:
        async with asyncio.timeout(_PATIENCE):
            await ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what this route reports
        # The message may name hosts and users: the kind of error is enough for everyone.
        return {"status": "failed", "detail": type(error).__name__}
    return {"status": "ok", "detail": "answers"}


def _answer(status: str, checks: dict[str, Finding]) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    if status == "unavailable":
        headers["Retry-After"] = "1"
    return web.Response(
        status=503 if status == "unavailable" else 200,
        body=orjson.dumps({"status": status, "checks": checks}),
        content_type="application/json",
        headers=headers,
    )
