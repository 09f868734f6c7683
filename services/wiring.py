"""The composition root: what a process needs, made from its settings and closed in the right order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.errors import SchemaMismatch
from services.eventlog.checkpoints import DeadLetters
from services.eventlog.credentials import Credentials
from services.eventlog.erased_keys import ErasedKeysFile
from services.eventlog.erasures import Erasures
from services.eventlog.keys import Keyring, MasterKey
from services.eventlog.log import EventLog
from services.eventlog.migrate import check
from services.eventlog.pool import Hosts, open_pool
from services.eventlog.replays import Replays
from services.eventlog.rotation import settle
from services.eventlog.sites import Sites
from services.eventlog.snapshots import Snapshots
from services.eventlog.standby import StandbyLog, catch_up
from services.projection.advance import Projector
from services.projection.logpages import LogPages
from services.projection.reader import ThreadReader
from services.projection.replay import Replayer
from services.projection.verify import Verifier
from services.readmodel.resting import RestingPool
from services.readmodel.views import Views
from services.settings import Settings

_MINIMUM_REDIS: Final = 7
REDIS_S: Final = 5.0
"""Seconds that one answer of Redis is waited for, where nothing says otherwise."""

READER_SESSION = {
    "application_name": "threadlog",
    "jit": "off",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
}


@dataclass(frozen=True, slots=True)
class Resources:
    """What both the API and the workers stand on."""

    settings: Settings
    lanes: int
    hosts: Hosts
    pool: asyncpg.Pool[Any]
    redis: Redis
    master: MasterKey
    keyring: Keyring
    sites: Sites
    credentials: Credentials
    erasures: Erasures
    log: EventLog
    views: Views
    projector: Projector
    log_pages: LogPages
    reader: ThreadReader
    verifier: Verifier
    replayer: Replayer


@asynccontextmanager
async def resources(
    settings: Settings, redis_patience: float = REDIS_S, *, rests: bool = False
) -> AsyncIterator[Resources]:
    """Connect to Postgres and Redis, whose answers are waited for that many seconds; where it `rests`, a
    Redis that did not answer is left alone until it does.

    Raises OSError or asyncpg's errors where Postgres is away, SchemaMismatch where its schema is older than
    this release, ConfigurationError where the master key is not this database's. Redis may be away: it is
    disposable.
    """
    master = master_key(settings)
    session = READER_SESSION | {"application_name": master.session_name}
    file = settings.erased_keys_file
    hosts = Hosts(settings.database_url)
    async with open_pool(hosts, settings.pool_size, session=session) as pool:
        async with pool.acquire() as connection:
            lanes = await check(connection)
        await settle(pool, master)
        redis = connect_redis(settings.redis_url, redis_patience, rests=rests)
        reader: ThreadReader | None = None
        try:
            log = EventLog(pool)
            keyring = Keyring(pool, master)
            await check_redis(redis)
            views = Views(redis)
            projector = Projector(log, keyring, views)
            log_pages = LogPages(log, keyring, Snapshots(pool))
            reader = ThreadReader(log, keyring, views, projector, log_pages)
            sites = Sites(pool, master)
            await sites.check_master()
            yield Resources(
                settings=settings,
                lanes=lanes,
                hosts=hosts,
                pool=pool,
                redis=redis,
                master=master,
                keyring=keyring,
                sites=sites,
                credentials=Credentials(pool, master),
                erasures=Erasures(pool, None if file is None else ErasedKeysFile(file)),
                log=log,
                views=views,
                projector=projector,
                log_pages=log_pages,
                reader=reader,
                verifier=Verifier(pool, log, projector),
                replayer=Replayer(pool, projector, DeadLetters(pool, ""), lanes),
            )
        finally:
            if reader is not None:
                await reader.stop()
            await redis.aclose()


def master_key(settings: Settings) -> MasterKey:
    """The master key, with the one that it replaces."""
    previous = settings.master_key_previous
    return MasterKey(
        settings.master_key.get_secret_value(), None if previous is None else previous.get_secret_value()
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """What reads the log for long: from the standby, where there is one."""

    pool: asyncpg.Pool[Any]
    log: EventLog
    verifier: Verifier
    replayer: Replayer
    replays: Replays


@asynccontextmanager
async def reading(made: Resources) -> AsyncIterator[Reading]:
    """Connect to THREADLOG_LOG_READ_URL, or stay with the primary where it is unset.

    Raises OSError or asyncpg's errors where the standby is away, Unavailable where it is far behind.
    """
    url = made.settings.log_read_url
    if url is None:
        yield Reading(made.pool, made.log, made.verifier, made.replayer, Replays(made.pool))
        return
    async with open_pool(url, made.settings.pool_size, session=READER_SESSION) as pool:
        await catch_up(pool, made.pool)
        log = StandbyLog(pool, made.pool)
        projector = Projector(log, made.keyring, made.views, primary=made.log)
        letters = DeadLetters(made.pool, "")
        replayer = Replayer(made.pool, projector, letters, made.lanes, reads=pool)
        replayer.bared = made.replayer.bared
        yield Reading(
            pool=pool,
            log=log,
            verifier=Verifier(pool, log, projector),
            replayer=replayer,
            replays=Replays(made.pool, pool),
        )


async def check_redis(redis: Redis) -> None:
    """Refuse a Redis before version 7 with SchemaMismatch. One that is away keeps nobody from starting."""
    with contextlib.suppress(RedisError):
        told = await redis.info("server")
        major = int(str(told.get("redis_version", "7")).partition(".")[0])
        if "valkey_version" not in told and major < _MINIMUM_REDIS:
            raise SchemaMismatch(f"Redis {_MINIMUM_REDIS} or later is needed; this is {major}")


def connect_redis(url: str, patience: float = REDIS_S, *, rests: bool = False) -> Redis:
    """A client with bounded connections and waits, of at most `patience` seconds for an answer. Commands are
    not retried: callers know what may be. One that `rests` leaves a Redis alone that did not answer."""
    kind = RestingPool if rests else BlockingConnectionPool
    pool = kind.from_url(
        url,
        max_connections=32,
        timeout=min(2.0, patience),
        socket_timeout=patience,
        socket_connect_timeout=1,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


__all__ = ["Reading", "Resources", "connect_redis", "reading", "resources"]
