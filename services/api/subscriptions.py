"""Following a thread, whether it has comments yet or not."""

from __future__ import annotations

import orjson
from aiohttp import hdrs, web

from services.api.answers import own
from services.api.bodies import Subscription, body_of
from services.api.context import thread_of, visit
from services.api.deps import API
from services.api.queries import NoQuery, query_of


async def subscribe(request: web.Request) -> web.Response:
    """Follow the thread, at a level; it takes the place of the level before."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    caller = here.member()
    query_of(request, NoQuery)
    asked, _ = await body_of(request, Subscription)
    await api.subscriptions.put(here.site.name, thread.stream_id, caller.id, asked.level)
    return own(orjson.dumps({"level": asked.level}))


async def unsubscribe(request: web.Request) -> web.Response:
    """Follow the thread no more; 204 also for who does not."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    caller = here.member()
    query_of(request, NoQuery)
    await api.subscriptions.remove(thread.stream_id, caller.id)
    return web.Response(status=204, headers={hdrs.CACHE_CONTROL: "private, no-store"})
