"""What is done to every request: bounds, errors as problems, headers, metrics, the access log.

One middleware, since each one costs every request. Neither query, body nor token is ever logged.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from itertools import chain
from typing import Final

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from services.api.bodies import MAX_BODY
from services.api.context import READS, READS_BY_POST, REQUEST_ID, SITE, TOKEN_IN_QUERY, request_id
from services.api.deps import API
from services.api.headers import CSP, EVERYWHERE, EXPOSED, NOTHING, X_REQUEST_ID
from services.api.limits.admission import RATE_LIMITS, RATELIMIT, RATELIMIT_POLICY
from services.api.pages.wire import Prepared
from services.api.problems import Problem, problem_of
from services.errors import Unavailable

MAX_LINE: Final = 20_480
"""The longest request target, in bytes: 500 ids of comments fit (`T/mine`)."""
MAX_HEADERS: Final = 16384
"""All of a request's headers together, in bytes."""

MAX_HEADER_LINES: Final = 100
"""How many headers a request may have."""

_CAUSES: Final = 10
_TAKEN_HEADERS: Final = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, X-Request-ID"
)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_log = structlog.get_logger("threadlog.api")


@web.middleware
async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost step of every request."""
    started = time.monotonic()
    request[REQUEST_ID] = request_id(request)
    response: web.StreamResponse
    work = asyncio.current_task()
    assert work is not None
    api = request.app[API]
    deadlines = api.deadlines
    deadlines.begin(work, started)
    try:
        _bounded(request)
        response = await handler(request)
    except asyncio.CancelledError:
        if not deadlines.missed(work):
            raise
        response = answer_to(request, Unavailable(f"not within {deadlines.seconds:g} s"))
    except (Exception, web.HTTPException) as error:  # noqa: BLE001 - the edge: whatever it is, it is answered
        response = answer_to(request, error)
    finally:
        deadlines.end(work)
    if isinstance(response, Prepared):
        # It is from memory, as most reads are: it has its headers, and is told of with others.
        response.request_id = request[REQUEST_ID].encode()
        if X_REQUEST_ID not in request.headers:
            api.counts.add((request.method, route_of(request), response.status), time.monotonic() - started)
            return response
    elif not response.prepared:  # a live stream set its headers when it began
        finish(request, response)
    seconds = time.monotonic() - started
    route = route_of(request)
    method = request.method if request.method in _METHODS else "other"
    api.metrics.answered(method, route, response.status, seconds)
    api.access.info(
        "request",
        request_id=request[REQUEST_ID],
        method=method,
        route=route,
        status=response.status,
        ms=round(seconds * 1000, 2),
    )
    return response


def answer_to(request: web.Request, error: Exception) -> web.Response:
    """The problem that an error is answered with. What nobody foresaw is logged, and is 500.

    The log gets the kinds of error and the lines of code, not what the errors say: that may quote a text.
    """
    problem = problem_of(error)
    if problem is None:
        problem = Problem("internal")
        _log.error(
            "request failed",
            request_id=request[REQUEST_ID],
            route=route_of(request),
            error=[type(one).__name__ for one in _causes(error)],
            traceback="".join(traceback.format_tb(error.__traceback__)),
        )
    elif problem.code == "unavailable":
        _log.warning(
            "answered as unavailable",
            request_id=request[REQUEST_ID],
            route=route_of(request),
            error=[type(one).__name__ for one in _causes(error)],
        )
    return problem.response(request[REQUEST_ID])


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what led to it, at most ten."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(found) < _CAUSES:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


def finish(request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers of every answer."""
    headers = response.headers
    headers[X_REQUEST_ID] = request[REQUEST_ID]
    headers.extend(EVERYWHERE)
    if CSP not in headers:
        headers[CSP] = NOTHING
    if request.method not in READS and (limits := request.get(RATE_LIMITS)) is not None:
        headers[RATELIMIT_POLICY], headers[RATELIMIT] = limits
    if hdrs.CACHE_CONTROL not in headers:
        headers[hdrs.CACHE_CONTROL] = "private, no-store"
    if hdrs.ORIGIN in request.headers:
        _share(request, response)


def route_of(request: web.Request) -> str:
    """The route's template, which names no thread and nobody."""
    resource = request.match_info.route.resource
    return "other" if resource is None else resource.canonical


def _reads(request: web.Request, method: str) -> bool:
    return method in READS or (method == hdrs.METH_POST and route_of(request) in READS_BY_POST)


def _share(request: web.Request, response: web.StreamResponse) -> None:
    """CORS: anonymous reads are for everyone, all else for the site's origins (contract, section 7)."""
    origin = request.headers[hdrs.ORIGIN]
    signed_in = hdrs.AUTHORIZATION in request.headers or TOKEN_IN_QUERY in request
    if _reads(request, request.method) and not signed_in:
        allowed = "*"
    elif (site := request.get(SITE)) is not None and origin in site.settings.origins:
        allowed = origin
    else:
        return
    response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = allowed
    response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED


async def preflight(request: web.Request) -> web.Response:
    """OPTIONS: which methods there are, and, asked by a browser for another origin, which it may use."""
    methods = ", ".join(sorted(route.method for route in _routes_here(request)))
    response = web.Response(status=204, headers={hdrs.ALLOW: methods, hdrs.CACHE_CONTROL: "no-store"})
    origin, wanted = request.headers.get(hdrs.ORIGIN), request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
    if origin is None or wanted is None:
        return response
    name = request.match_info.get("site")
    site = None if name is None else await request.app[API].sites.get(name)
    if site is not None and origin in site.settings.origins:
        allowed, may = origin, methods
    elif _reads(request, wanted):
        allowed, may = "*", "GET, HEAD, POST" if _reads(request, hdrs.METH_POST) else "GET, HEAD"
    else:
        return response
    response.headers.update(
        {
            hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: allowed,
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: may,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _TAKEN_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: "7200",
        }
    )
    return response


def _routes_here(request: web.Request) -> list[web.AbstractRoute]:
    resource = request.match_info.route.resource
    return [] if resource is None else list(resource)


async def expect(request: web.Request) -> web.Response | None:
    """`Expect: 100-continue` is granted, unless the body is announced as too large: then it need not be sent.
    aiohttp asks before any middleware."""
    request[REQUEST_ID] = request_id(request)
    problem: Problem | None = None
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        problem = Problem("bad-header", "Expect takes 100-continue")
    elif request.content_length is not None and request.content_length > MAX_BODY:
        problem = Problem("too-large")
    if problem is None:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
        return None
    response = problem.response(request[REQUEST_ID])
    finish(request, response)
    return response


def _bounded(request: web.Request) -> None:
    """Raises Problem where address or headers are too long. Far longer ones the parser refuses by itself."""
    if len(request.raw_path) > MAX_LINE:
        raise Problem("uri-too-long", f"an address has at most {MAX_LINE:,} bytes")
    if len(request.raw_headers) > MAX_HEADER_LINES:
        raise Problem("headers-too-large", f"a request has at most {MAX_HEADER_LINES} headers")
    if sum(map(len, chain.from_iterable(request.raw_headers))) > MAX_HEADERS:
        raise Problem("headers-too-large", f"headers have at most {MAX_HEADERS:,} bytes in all")
