"""The aiohttp application."""

from __future__ import annotations

import logging
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from services.api.asking import ASKING, Asking
from services.api.bodies import MAX_BODY
from services.api.connections import HEAD_S, STALL_S, Runner
from services.api.deps import API, Api
from services.api.metrics import Watched
from services.api.middleware import MAX_HEADERS, MAX_LINE, edge, expect, preflight
from services.api.openapi import DOCUMENT, PAGE, describe, docs_page
from services.api.routes import ROUTES

_SLACK: Final = 8192
"""By how much the parser's bounds exceed ours: within it, the answer is a problem in JSON."""


def create_app(api: Api) -> web.Application:
    """The application on what it needs. It opens and closes nothing: whoever made `api` does."""
    app = web.Application(middlewares=[edge], client_max_size=MAX_BODY)
    app[API] = api
    app[ASKING] = Asking(api.cursors)
    app[DOCUMENT] = describe(ROUTES)
    app[PAGE] = docs_page()
    api.metrics.watch(Watched.QUEUE, lambda: api.appenders.queued)
    limiter = api.limiter
    api.metrics.watch(Watched.LIMITS_IN_REDIS, lambda: limiter.decided_shared)
    api.metrics.watch(Watched.LIMITS_IN_PROCESS, lambda: limiter.decided_local)
    api.metrics.watch(Watched.LIMITS_LOCAL, lambda: int(limiter.shared.away))
    api.metrics.watch(Watched.REFUSED_AUTHORS, lambda: limiter.refused["author"])
    api.metrics.watch(Watched.REFUSED_ADDRESSES, lambda: limiter.refused["address"])
    api.metrics.watch(Watched.REFUSED_SITES, lambda: limiter.refused["site"])
    pages = api.pages
    api.metrics.watch(Watched.PAGES_SHORT, lambda: api.shortcut.answers)
    api.metrics.watch(Watched.PAGE_READS, lambda: pages.reads)
    api.metrics.watch(Watched.PAGE_LOOKS, lambda: pages.looks.looks)
    api.metrics.watch(Watched.PAGE_COMPRESSIONS, lambda: pages.compressions)
    api.metrics.watch(Watched.PAGE_BYTES, lambda: pages.held)
    reader = api.reader
    api.metrics.watch(Watched.COLD_READS, lambda: reader.cold)
    api.metrics.watch(Watched.COLD_FOLDS, lambda: reader.cold_reads.warming.folds)
    api.metrics.watch(Watched.VIEWS_ASKED, lambda: reader.cold_reads.asked)
    api.metrics.watch(Watched.VIEWS_AWAY, lambda: int(reader.away))
    api.metrics.watch(Watched.LOG_READS, lambda: reader.cold_reads.logged)
    api.metrics.watch(Watched.VIEWS_FAULTS, lambda: reader.faults)
    live = api.live
    api.metrics.watch(Watched.LIVE_STREAMS, lambda: live.streams)
    api.metrics.watch(Watched.LIVE_THREADS, lambda: live.threads)
    api.metrics.watch(Watched.LIVE_DROPPED, lambda: live.dropped)
    api.metrics.watch(Watched.LIVE_RESETS, lambda: live.resets)
    app.on_shutdown.append(_end_streams)
    for path in dict.fromkeys(route.path for route in ROUTES):
        # aiohttp's own pattern takes no braces, which a thread's key may hold.
        resource = app.router.add_resource(path.replace("{thread}", "{thread:[^/]+}"))
        for route in ROUTES:
            if route.path == path:
                resource.add_route(route.method, route.handler, expect_handler=expect)
                if route.method == "GET":
                    resource.add_route("HEAD", route.handler, expect_handler=expect)
        if path.startswith("/v1/"):
            resource.add_route("OPTIONS", preflight)
    return app


async def _end_streams(app: web.Application) -> None:
    """Once no more connections are taken: the open streams would be waited for."""
    app[API].live.close()


class _Unquoted(logging.Filter):
    """Keeps what the HTTP parser says of a malformed request out of the log: it quotes the request, which may
    hold a token. And it is the client's mistake, no error of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        if kind is not None and issubclass(kind, HttpProcessingError):
            record.msg = f"{record.getMessage()}: {kind.__name__}"
            record.args = record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


def runner(
    app: web.Application, *, head_seconds: float = HEAD_S, stall_seconds: float = STALL_S
) -> web.AppRunner:
    """A runner for `app` with the bounds that the contract names, and a log that quotes no request."""
    logger = logging.getLogger("threadlog.http")
    if not any(isinstance(known, _Unquoted) for known in logger.filters):
        logger.addFilter(_Unquoted())
    return Runner(
        app,
        shortcut=app[API].shortcut if API in app else None,
        handle_signals=False,
        access_log=None,
        logger=logger,
        max_line_size=MAX_LINE + _SLACK,
        max_field_size=MAX_HEADERS + _SLACK,
        auto_decompress=False,
        head_seconds=head_seconds,
        stall_seconds=stall_seconds,
        keepalive_timeout=75.0,
        lingering_time=2.0,
        shutdown_timeout=10.0,
    )
