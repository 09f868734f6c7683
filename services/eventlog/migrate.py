"""Bringing a database to the schema that this release runs on. Forward only.

The migrations are numbered .sql files in `schema/migrations`, applied by pogo-core, each in its own
transaction unless it says otherwise, under an advisory lock so that two hosts that start at once do not
apply them twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Final, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from pogo_core.migration import Migration, topological_sort
from pogo_core.util.sql import (
    ensure_pogo_sync,
    get_applied_migrations,
    migration_applied,
    read_migrations,
)

import schema
from services.errors import SchemaMismatch, Unavailable
from services.eventlog.locks import LockClass

MIGRATIONS: Final = Path(schema.__file__).parent / "migrations"
Connection = asyncpg.Connection | PoolConnectionProxy
_log = logging.getLogger(__name__)
_MINIMUM_SERVER: Final = 17
_AGAIN_S: Final = 0.1
_PATIENCE: Final = "set local lock_timeout = '300ms'"
_REST_S: Final = 0.3
_TRIES: Final = 200
"""How often a migration asks for a table that is in use: for two minutes."""


def known() -> list[str]:
    """The names of all migrations of this release, in order."""
    return sorted(path.stem for path in MIGRATIONS.glob("*.sql"))


async def applied(connection: Connection) -> set[str]:
    """The names of the migrations that this database has."""
    if await connection.fetchval("select to_regclass('_pogo_migration')") is None:
        return set()
    return await get_applied_migrations(cast(asyncpg.Connection, connection), schema_name="public")


async def migrate(database_url: str, lanes: int = 1) -> list[str]:
    """Apply what is missing; the names of what was applied. `lanes` counts only for a new database.

    Raises SchemaMismatch where the server is older than PostgreSQL 17 or a migration fails, Unavailable where
    it needs a table for itself that somebody keeps.
    """
    connection = await asyncpg.connect(database_url)
    try:
        _check_server(connection)
        # Asked for again and again: to make an index while others write waits for every statement that runs,
        # and so would for the statement of a host that waits for this lock.
        lock = "select pg_try_advisory_lock($1, 0)"
        while not await connection.fetchval(lock, int(LockClass.MIGRATION)):  # noqa: ASYNC110 - another host's
            await asyncio.sleep(_AGAIN_S)
        before = await applied(connection)
        await ensure_pogo_sync(connection)
        found = await read_migrations(MIGRATIONS, connection, schema_name="public")
        for migration in topological_sort([one.load() for one in found]):
            if not migration.applied:
                _log.warning("Applying %s", migration.id)
                await _apply(connection, migration)
        await _settle_lanes(connection, lanes)
        # Whoever reads for long keeps partitions from being made; the workers try again every hour.
        with contextlib.suppress(asyncpg.LockNotAvailableError):
            await connection.execute("select ensure_partitions(now())")
        return sorted(await applied(connection) - before)
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    """Apply one migration, without keeping anybody waiting.

    Who takes a table for itself waits for all who use it, and all who come later wait for that one: so it is
    not waited for long, and tried again. What is made beside a transaction, as an index beside its writers,
    takes no table, and waits for as long as need be.
    """
    tries = _TRIES if migration.use_transaction else 1
    for left in reversed(range(tries)):
        try:
            async with connection.transaction() if migration.use_transaction else nullcontext():
                if migration.use_transaction:
                    await connection.execute(_PATIENCE)
                await migration.apply(connection)
                await migration_applied(connection, migration.id, migration.hash, schema_name="public")
            return
        except asyncpg.LockNotAvailableError as error:
            if not left:
                raise Unavailable(
                    f"{migration.id} waits for what others hold: {error}; run it again"
                ) from error
            await asyncio.sleep(_REST_S)
        except asyncpg.PostgresError as error:
            raise SchemaMismatch(f"failed to apply {migration.id}: {error}") from error


async def _settle_lanes(connection: asyncpg.Connection, lanes: int) -> None:
    """The number of lanes is fixed when the database is made: streams never change theirs."""
    async with connection.transaction():
        await connection.execute(
            "insert into database_facts values ('lanes', $1) on conflict do nothing", str(lanes)
        )
        settled = int(await connection.fetchval("select value from database_facts where name = 'lanes'"))
        await connection.execute(
            "insert into lanes (lane) select generate_series(0, $1::int - 1) on conflict do nothing", settled
        )


def _check_server(connection: Connection) -> None:
    major = connection.get_server_version().major
    if major < _MINIMUM_SERVER:
        raise SchemaMismatch(f"PostgreSQL {_MINIMUM_SERVER} or later is needed; this is {major}")


async def check(connection: Connection) -> int:
    """The database's number of lanes, once its schema is known to be at least this release's.

    Raises SchemaMismatch. A newer schema is fine: release N runs beside N + 1.
    """
    _check_server(connection)
    there = await applied(connection)
    missing = [name for name in known() if name not in there]
    if missing:
        raise SchemaMismatch(f"the database lacks {', '.join(missing)}: run `threadlog migrate`")
    return int(await connection.fetchval("select value from database_facts where name = 'lanes'"))
