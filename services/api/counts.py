"""How many visible comments threads have: what a list of articles shows beside each.

Read from the decision state, which is exact whatever the views are doing, by one query on the primary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl

import orjson
from aiohttp import hdrs, web
from pydantic import ValidationError

from services.api.bodies import CountsAsked, body_of
from services.api.context import Visit, visit
from services.api.deps import API
from services.api.problems import FieldError, Problem, invalid, wrong_fields
from services.api.queries import CountsQuery, NoQuery, query_of
from services.core.addresses import BadAddress, check_thread_key

_FRESH: Final = "public, max-age=30"
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


async def by_body(request: web.Request) -> web.Response:
    """The numbers for the threads of the body. It writes nothing, so no rate limit is charged."""
    here = await visit(request, reads=True)
    query_of(request, NoQuery)
    asked, _ = await body_of(request, CountsAsked)
    for place, key in enumerate(asked.threads):
        try:
            check_thread_key(key)
        except BadAddress as error:
            raise invalid(f"threads.{place}", error.reason) from None
    return await _answer(request, here, asked.threads, "private, no-store")


async def by_query(request: web.Request) -> web.Response:
    """The numbers for the threads of the query."""
    here = await visit(request)
    keys = _asked(request)
    fresh = _FRESH if here.caller is None else "private, max-age=30"
    return await _answer(request, here, keys, fresh)


async def _answer(request: web.Request, here: Visit, keys: Iterable[str], fresh: str) -> web.Response:
    api = request.app[API]
    keys = list(dict.fromkeys(keys))
    found = await api.lists.counts(here.site.name, keys) if keys else {}
    return web.Response(
        body=orjson.dumps(found), content_type="application/json", headers={hdrs.CACHE_CONTROL: fresh}
    )


def _asked(request: web.Request) -> list[str]:
    """The keys in the query, byte for byte: the framework's own reading would pass over what is not UTF-8.
    Raises Problem `bad-query`."""
    raw = request.rel_url.raw_query_string
    if _BAD_ESCAPE.search(raw):
        raise _refused("thread", "holds a '%' that begins no percent-encoding")
    try:
        given = parse_qsl(raw, keep_blank_values=True, errors="strict")
    except ValueError:  # UnicodeDecodeError is one
        raise _refused("thread", "is not UTF-8") from None
    if other := next((name for name, _ in given if name != "thread"), None):
        raise _refused(other.encode("utf-8", "replace").decode()[:100], "is not taken here")
    try:
        keys = CountsQuery.model_validate({"thread": [key for _, key in given]}).thread
    except ValidationError as error:
        raise wrong_fields(error, "bad-query") from None
    for place, key in enumerate(keys):
        try:
            check_thread_key(key)
        except BadAddress as error:
            raise _refused(f"thread.{place}", error.reason) from None
    return keys


def _refused(field: str, message: str) -> Problem:
    return Problem("bad-query", f"{field}: {message}", errors=[FieldError(field, message)])
