"""Replacing the master key while all goes on.

Processes are first started anew with both keys: THREADLOG_MASTER_KEY, the new one, and
THREADLOG_MASTER_KEY_PREVIOUS. They open what either has wrapped, and wrap by the one that the database is
under, which one fact in it says; so that those that still know the old key alone open everything too. Then
`Rotation.run` puts the database under the new key, in a transaction that no store of a key is beside, and
wraps again what there is, page by page. Whatever ends it, it may be run again: what is done is passed over.

What was derived of the first master key and stands somewhere, or with clients (CARRIED), is kept, wrapped:
retries are known by it, cursors and the links in mails open, imports find the authors of earlier ones. The
secret that signs guests' tokens is not: both are taken while both keys are set, and the old one ends with the
old key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from services.errors import ConfigurationError, Unavailable
from services.eventlog.keys import MasterKey
from services.eventlog.locks import LockClass
from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES

CARRIED: Final = ("idempotency", "cursor", "mail links", "participants")
"""Purposes whose derived secret outlives the master key that it came from; so does OF_SITE, for each site."""
OF_SITE: Final = "import authors of {site}"

PAGE: Final = 500
"""Keys wrapped again in one statement."""

_LOCK_TRIES: Final = 100


async def settle(pool: asyncpg.Pool[Any] | PoolConnectionProxy[Any], master: MasterKey) -> None:
    """Have `master` derive as the database's other processes do.

    Raises ConfigurationError where the database is under neither of its keys.
    """
    in_use: str | None = await pool.fetchval(QUERIES["master_key"])
    known = (master,) if master.previous is None else (master, master.previous)
    if in_use is not None and in_use not in [key.fingerprint for key in known]:
        raise ConfigurationError("THREADLOG_MASTER_KEY: is not this database's")
    rows = await pool.fetch(QUERIES["derived_secrets"])
    carried = {row["purpose"]: master.unwrap(row["purpose"].encode(), row["wrapped"]) for row in rows}
    master.settle(in_use, carried)


@dataclass(frozen=True, slots=True)
class Rotated:
    """How many were wrapped again, and how many were by an earlier run."""

    author_keys: int
    site_secrets: int
    endpoint_secrets: int
    derived_secrets: int
    already: int


class Rotation:
    """Puts a database under the new one of two master keys."""

    def __init__(self, pool: asyncpg.Pool[Any], master: MasterKey, sites: Iterable[str]) -> None:
        """Raises ConfigurationError where `master` replaces none."""
        if master.previous is None:
            raise ConfigurationError(
                "THREADLOG_MASTER_KEY_PREVIOUS: is not set; it takes what THREADLOG_MASTER_KEY replaces"
            )
        self._pool = pool
        self._master = master
        self._purposes = [*CARRIED, *(OF_SITE.format(site=site) for site in sites)]
        self._already = 0

    async def total(self) -> int:
        """How many author keys, site secrets and endpoint secrets there are."""
        return int(await self._pool.fetchval(QUERIES["count_wrapped"]))

    async def strangers(self) -> int:
        """How many sessions belong to processes that could not go on under the new key."""
        return int(await self._pool.fetchval(QUERIES["sessions_without_key"], self._master.fingerprint))

    async def run(self, progress: Callable[[int], None] = lambda _: None) -> Rotated:
        """Put the database under the new key, and wrap everything by it; `progress` is told of each page.

        Raises Unavailable where another run is under way, or keys are being stored without a pause.
        """
        async with self._alone():
            derived = await self._turn()
            secrets = await self._again(
                await self._pool.fetch(QUERIES["wrapped_site_secrets"]), "rewrap_site_secrets", progress
            )
            endpoints = await self._again(
                await self._pool.fetch(QUERIES["wrapped_endpoint_secrets"]),
                "rewrap_endpoint_secrets",
                progress,
            )
            keys, last = 0, NIL
            while rows := await self._pool.fetch(QUERIES["wrapped_author_keys"], last, PAGE):
                keys += await self._again(rows, "rewrap_author_keys", progress)
                last = rows[-1]["key_id"]
            with suppress(asyncpg.PostgresError):  # a database that is ours to use need not be ours to clean
                await self._pool.execute(QUERIES["vacuum_wrapped"])
        return Rotated(keys, secrets, endpoints, derived, self._already)

    async def _turn(self) -> int:
        """Have all that is stored from here on wrapped by the new key, and keep what was derived."""
        for _ in range(_LOCK_TRIES):
            with suppress(asyncpg.LockNotAvailableError):
                async with self._pool.acquire() as connection, connection.transaction():
                    await connection.execute("set local lock_timeout = '300ms'")
                    await connection.execute(QUERIES["lock_wrapped"])
                    await settle(connection, self._master)
                    count = await self._keep_derived(connection)
                    await connection.execute(QUERIES["put_under_master_key"], self._master.fingerprint)
                    return count
        raise Unavailable("keys are stored without a pause")

    async def _keep_derived(self, connection: Any) -> int:
        kept = {row["purpose"]: row["wrapped"] for row in await connection.fetch(QUERIES["derived_secrets"])}
        count = 0
        for purpose in self._purposes:
            if purpose not in kept:
                wrapped = self._master.wrap(purpose.encode(), self._master.derived(purpose)).now
                await connection.execute(QUERIES["keep_derived_secret"], purpose, wrapped)
                count += 1
        for purpose, wrapped in kept.items():
            if not self._master.opens(purpose.encode(), wrapped):
                again = self._wrapped_again(purpose.encode(), wrapped)
                await connection.execute(QUERIES["rewrap_derived_secret"], purpose, wrapped, again)
                count += 1
        return count

    async def _again(self, rows: list[asyncpg.Record], update: str, progress: Callable[[int], None]) -> int:
        """Wrap these again, as far as they are not by the new key yet; how many were not."""
        old = [(key_id, wrapped) for key_id, wrapped in rows if not self._master.opens(key_id.bytes, wrapped)]
        if old:
            await self._pool.execute(
                QUERIES[update],
                [key_id for key_id, _ in old],
                [wrapped for _, wrapped in old],
                [self._wrapped_again(key_id.bytes, wrapped) for key_id, wrapped in old],
            )
        self._already += len(rows) - len(old)
        progress(len(rows))
        return len(old)

    def _wrapped_again(self, bound_to: bytes, wrapped: bytes) -> bytes:
        return self._master.wrap(bound_to, self._master.unwrap(bound_to, wrapped)).now

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._pool.acquire() as connection:
            if not await connection.fetchval("select pg_try_advisory_lock($1, 0)", int(LockClass.ROTATION)):
                raise Unavailable("the master key is being rotated by another run")
            try:
                yield
            finally:
                await connection.execute("select pg_advisory_unlock($1, 0)", int(LockClass.ROTATION))
