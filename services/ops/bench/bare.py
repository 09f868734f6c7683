"""The limit for `bench append`: the same server without threadlog.

An aiohttp handler on uvloop that checks the same token in the same way, validates the same model and answers
with as many bytes and the same headers, but decides and stores nothing. `python -m services.ops.bench.bare`
takes a `Bare` as JSON on its standard input and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TypedDict

import orjson
import uvloop
from aiohttp import hdrs, web

from services.api.auth import Verifier, bearer
from services.api.bodies import NewComment
from services.core.addresses import site_stream_id
from services.core.site import SiteSettings
from services.eventlog.sites import Secret, Site


class Bare(TypedDict):
    """Where to listen, whose tokens to check, and what to answer."""

    port: int
    site: str
    secret: str
    headers: dict[str, str]
    body: str


async def serve(bare: Bare) -> None:
    """Serve until the task is cancelled."""
    secret = Secret("HS256", bare["secret"].encode())
    site = Site(bare["site"], site_stream_id(bare["site"]), SiteSettings(), 0, (secret,))
    verifier = Verifier()
    headers, body = bare["headers"], bare["body"].encode()

    async def post(request: web.Request) -> web.Response:
        verifier.caller(site, bearer(request.headers[hdrs.AUTHORIZATION]))
        NewComment.model_validate(orjson.loads(await request.read()))
        return web.Response(status=201, body=body, headers=headers)

    app = web.Application()
    app.router.add_post("/v1/sites/{site}/threads/{thread}/comments", post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", bare["port"]).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(orjson.loads(sys.stdin.buffer.read())))
