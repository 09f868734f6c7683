"""What `bench append` compares with: the same server without threadlog.

An aiohttp handler on uvloop that checks the same token in the same way, validates the same model and answers
with as many bytes and the same headers, but decides nothing. It stores nothing either, or, given a database,
one row of the same size in the same table: a plain INSERT through asyncpg for each request, each in its own
transaction. `python -m services.ops.bench.bare` takes a `Bare` as JSON on its standard input and serves until
it is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, TypedDict
from uuid import UUID

import asyncpg
import orjson
import uvloop
from aiohttp import hdrs, web

from services.api.app import runner
from services.api.auth import Verifier
from services.api.bodies import NewComment
from services.core.addresses import new_event_id, site_stream_id, thread_stream_id
from services.core.site import SiteSettings
from services.eventlog.sites import Secret, Site

_CONNECTIONS: Final = 32
"""As many inserts commit together as there are connections; more of them won nothing."""
_OVERHEAD: Final = 50
"""Bytes by which a sealed text is longer than its comment: nonce, tag, the author's name, JSON."""
_INSERT: Final = """
    insert into events (
        position, lane, stream_id, version, event_id, type, schema_version, actor_id, correlation_id,
        causation_id, recorded_at, data, sealed, key_id, hash
    ) values ($1, 0, $2, $3, $4, 'CommentPosted', 1, $5, $6, null, $7, $8, $9, $10, $11)
"""


class Bare(TypedDict):
    """Where to listen, whose tokens to check, what to answer, where to store (None: nowhere)."""

    port: int
    site: str
    secret: str
    headers: dict[str, str]
    body: str
    database_url: str | None


Store = Callable[[str, str, NewComment], Awaitable[None]]
"""Stores a comment of an author in a thread, by its key."""


async def serve(bare: Bare) -> None:
    """Serve until the task is cancelled."""
    secret = Secret("HS256", bare["secret"].encode())
    site = Site(bare["site"], site_stream_id(bare["site"]), SiteSettings(), 0, (secret,))
    verifier = Verifier()
    headers, body = bare["headers"], bare["body"].encode()
    async with contextlib.AsyncExitStack() as stack:
        store: Store | None = None
        if bare["database_url"] is not None:
            pool = asyncpg.create_pool(bare["database_url"], min_size=_CONNECTIONS, max_size=_CONNECTIONS)
            store = _inserting(await stack.enter_async_context(pool), bare["site"])

        async def post(request: web.Request) -> web.Response:
            caller = verifier.caller(site, request.headers[hdrs.AUTHORIZATION])
            asked = NewComment.model_validate(orjson.loads(await request.read()))
            if store is not None:
                await store(caller.id, request.match_info["thread"], asked)
            return web.Response(status=201, body=body, headers=headers)

        app = web.Application()
        app.router.add_post("/v1/sites/{site}/threads/{thread}/comments", post)
        running = runner(app)
        await running.setup()
        await web.TCPSite(running, "127.0.0.1", bare["port"], backlog=1024).start()
        await asyncio.Event().wait()


def _inserting(pool: asyncpg.Pool, site: str) -> Store:
    positions = itertools.count(1)
    versions: dict[UUID, itertools.count[int]] = defaultdict(lambda: itertools.count(1))
    streams: dict[str, UUID] = {}

    async def store(author: str, thread: str, comment: NewComment) -> None:
        stream_id = streams.get(thread)
        if stream_id is None:
            stream_id = streams[thread] = thread_stream_id(site, thread)
        drawn = os.urandom(32)
        await pool.execute(
            _INSERT,
            next(positions),
            stream_id,
            next(versions[stream_id]),
            new_event_id(time.time_ns() // 1_000_000, drawn[:10]),
            author,
            drawn[:16].hex(),
            datetime.now(UTC),
            b'{"text_mac":"%b"}' % drawn.hex().encode(),
            os.urandom(len(comment.body.encode()) + _OVERHEAD),
            UUID(bytes=drawn[:16]),
            drawn,
        )

    return store


if __name__ == "__main__":
    uvloop.run(serve(orjson.loads(sys.stdin.buffer.read())))
