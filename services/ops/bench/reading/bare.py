"""What `bench read` compares with: an aiohttp handler that answers every GET with the same bytes.

It compares If-None-Match with one tag and decides nothing else. `python -m services.ops.bench.reading.bare`
takes a `Bare` as JSON on its standard input and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from base64 import b64decode
from typing import TypedDict

import orjson
import uvloop
from aiohttp import hdrs, web


class Bare(TypedDict):
    """Where to listen, and what to answer; the body in base64."""

    port: int
    headers: dict[str, str]
    body: str


async def serve(bare: Bare) -> None:
    """Serve until the task is cancelled."""
    headers, body = bare["headers"], b64decode(bare["body"])
    tag = next((value for name, value in headers.items() if name.lower() == "etag"), None)

    async def get(request: web.Request) -> web.Response:
        if tag is not None and request.headers.get(hdrs.IF_NONE_MATCH) == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers)

    app = web.Application()
    app.router.add_get("/{tail:.*}", get)
    running = web.AppRunner(app, access_log=None, keepalive_timeout=75.0)
    await running.setup()
    await web.TCPSite(running, "127.0.0.1", bare["port"], backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(orjson.loads(sys.stdin.buffer.read())))
