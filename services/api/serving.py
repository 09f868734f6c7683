"""The API process: its application on real servers, from start to a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog
from aiohttp import web

from services.api.app import create_app, runner
from services.api.connections import raise_file_limit
from services.api.deps import Api
from services.api.limits.limiter import Limiter
from services.api.limits.shared import SharedLimits
from services.api.live.hub import Hub
from services.api.live.inboxes import Inboxes
from services.api.live.telling import Teller
from services.api.metrics import Metrics, Watched
from services.api.pages.memory import PageMemory
from services.api.rehearsal import rehearse
from services.api.siblings import Siblings
from services.errors import ConfigurationError
from services.eventlog.appender import Committed
from services.eventlog.appenders import Appenders
from services.eventlog.inbox import Inbox
from services.eventlog.migrate import check
from services.garbage import settle
from services.pokes import PROJECT_ACTOR, Poker
from services.settings import Settings
from services.wiring import READER_SESSION, Resources, connect_redis, resources

_BACKLOG: Final = 1024
_REDIS_S: Final = 1.0
"""Seconds that a request waits for an answer of the views: one that hangs is as good as away."""
_PROBE_S: Final = 1.5
"""Seconds in which Postgres must answer whether it is usable: less than `/readyz` waits."""

_log = structlog.get_logger("threadlog.api")


@dataclass(frozen=True, slots=True)
class Serving:
    """A running API: what its handlers stand on, and the address that it listens on."""

    api: Api
    resources: Resources
    host: str
    port: int


@contextlib.asynccontextmanager
async def api_on(found: Resources) -> AsyncIterator[Api]:
    """What the handlers need, on open resources: the appenders run, batches poke the workers."""
    settings = found.settings
    metrics = Metrics()
    pages = PageMemory(settings.page_memory_mb << 20, found.reader.heads)
    poker = Poker(settings.broker)
    found.reader.cold_reads.poke = lambda stream_id: poker.poke([stream_id], (PROJECT_ACTOR,))
    metrics.watch(Watched.POKES, lambda: poker.sent)
    metrics.watch(Watched.POKES_DROPPED, lambda: poker.dropped)

    def committed(batch: Committed) -> None:
        metrics.committed(batch)
        if batch.moved:
            poker.poke(batch.moved)
            pages.opened(batch.moved)

    appenders = Appenders(
        found.hosts,
        found.lanes,
        on_committed=committed,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
    )

    live = Hub(
        Teller(found.log, found.reader, found.views, found.sites),
        connect_redis(settings.redis_url),
        limit=settings.max_streams,
        limit_of_one=settings.max_streams_per_address,
    )
    inbox = Inbox(found.pool)
    inboxes = Inboxes(inbox, connect_redis(settings.redis_url))
    limiter = Limiter(SharedLimits(settings.broker), found.master.derived("limits"))

    async def postgres() -> None:
        async with probe.acquire() as connection:
            await check(connection)

    async def redis() -> None:
        await found.redis.ping()

    poker.start()
    # Whether Postgres is usable is asked over a connection of its own: where slow reads hold all the others,
    # this process is busy, and need not be taken out of service.
    probe = asyncpg.create_pool(
        min_size=0,
        max_size=1,
        connect=found.hosts.connect,
        timeout=_PROBE_S,
        command_timeout=_PROBE_S,
        server_settings=READER_SESSION | {"application_name": found.master.session_name},
    )
    try:
        await probe
        await appenders.start()
        await limiter.shared.start()
        live.start()
        inboxes.start()
        reporting = asyncio.create_task(found.views.recency.report(found.reader.reads), name="reads")
        api = Api(
            settings=settings,
            sites=found.sites,
            log=found.log,
            keyring=found.keyring,
            appenders=appenders,
            reader=found.reader,
            pages=pages,
            log_pages=found.log_pages,
            inbox=inbox,
            inboxes=inboxes,
            erasures=found.erasures,
            pool=found.pool,
            master=found.master,
            metrics=metrics,
            limiter=limiter,
            live=live,
            postgres=postgres,
            redis=redis,
        )
        keeping = asyncio.create_task(api.token_addresses.run(), name="token-addresses")
        try:
            yield api
        finally:
            reporting.cancel()
            keeping.cancel()
            await live.stop()
            await inboxes.stop()
            await limiter.shared.stop()
            await appenders.stop()
    finally:
        probe.terminate()
        await asyncio.to_thread(poker.stop)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of several processes listens, and who the others are."""

    sockets: Sequence[socket.socket]
    siblings: Siblings


@contextlib.asynccontextmanager
async def serving(settings: Settings, place: Place | None = None) -> AsyncIterator[Serving]:
    """The API listening at `settings.host` and `.port` (0: any free one), or on the sockets of its place.

    Ends by refusing new connections, answering the requests under way, and committing what was taken.
    Raises what `resources` raises, and ConfigurationError where the port is taken.
    """
    async with resources(settings, _REDIS_S, rests=True) as found, api_on(found) as api:
        running = runner(create_app(api))
        await running.setup()
        await rehearse(api, found.views)
        try:
            async with contextlib.AsyncExitStack() as stack:
                if place is None:
                    try:
                        await web.TCPSite(running, settings.host, settings.port, backlog=_BACKLOG).start()
                    except OSError as error:
                        raise ConfigurationError(f"THREADLOG_PORT: cannot listen: {error}") from error
                else:
                    api.metrics.siblings = place.siblings
                    await stack.enter_async_context(place.siblings.telling(api.metrics.exposition))
                    for one in place.sockets:
                        await web.SockSite(running, one, backlog=_BACKLOG).start()
                address = running.addresses[0]
                yield Serving(api, found, str(address[0]), int(address[1]))
        finally:
            api.drain.begun = True
            await running.cleanup()
            api.counts.tell()


async def serve(
    settings: Settings, started: Callable[[Serving], None] = lambda _: None, place: Place | None = None
) -> None:
    """Serve until SIGINT or SIGTERM. `started` is told the address once it listens."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    raise_file_limit()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with serving(settings, place) as running:
        _log.info("listening", host=running.host, port=running.port)
        started(running)
        settle()
        await stop.wait()
        _log.info("stopping")
