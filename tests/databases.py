"""Databases for the tests, on one server: copies of a template that was migrated once.

Making a database creates some four hundred files and dropping it removes them, which file systems do not take
well by the thousand. So one that a test has left as it was made, but for rows, is emptied and given to the
next.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from services.dev.servers import EmbeddedPostgres
from services.eventlog.migrate import migrate

_GROWTH: Final = 2 << 20
"""Bytes by which a database that is used again may have grown: what a test plans should be small tables."""

_SHAPE: Final = """
select md5(concat_ws('|',
    (select string_agg(concat_ws(' ', relname, relkind, relnatts, reltuples, reloptions), ';' order by oid)
        from pg_class where relnamespace = 'public'::regnamespace),
    (select string_agg(concat_ws(' ', tgrelid, tgname, tgenabled), ';' order by oid) from pg_trigger),
    (select string_agg(concat_ws(' ', indexrelid, indisvalid), ';' order by indexrelid) from pg_index),
    (select string_agg(concat_ws(' ', conrelid, conname, convalidated), ';' order by oid) from pg_constraint),
    (select string_agg(concat_ws(' ', proname, prosrc), ';' order by oid)
        from pg_proc where pronamespace = 'public'::regnamespace),
    (select string_agg(concat_ws(' ', attrelid, attname, atttypid, attnotnull), ';' order by attrelid, attnum)
        from pg_attribute where attrelid >= 16384),
    (select count(*) from pg_statistic where starelid >= 16384),
    (select string_agg(s.setconfig::text, ';')
        from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
        where d.datname = current_database())
)), pg_database_size(current_database())
"""
"""All but the rows: whoever alters a table, a trigger or a setting, or has tables analysed, is noticed."""

_TABLES: Final = """
select oid::regclass::text from pg_class
where relnamespace = 'public'::regnamespace and relkind = 'r' order by oid
"""


@dataclass(frozen=True, slots=True)
class _Template:
    name: str
    shape: str
    size: int
    rows: dict[str, str]
    """What its tables hold, as JSON."""


class Databases:
    """Makes databases on one server, and keeps those that may be used again."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._templates: dict[int, _Template] = {}
        self._free: defaultdict[int, list[str]] = defaultdict(list)

    def create(self, lanes: int = 1) -> str:
        """The URL of a new database with `lanes` lanes."""
        return self._copy(self._template(lanes).name)

    def create_empty(self) -> str:
        """The URL of a new database that was never migrated."""
        return self._copy("template1")

    def take(self, lanes: int = 1) -> str:
        """The URL of a database with `lanes` lanes and nothing in it, new or as good as new."""
        free = self._free[lanes]
        return free.pop() if free else self.create(lanes)

    def give_back(self, url: str, lanes: int = 1) -> None:
        """End the sessions that are left in the database; keep it for another test if it is fit for one."""
        if asyncio.run(self._emptied(url, self._template(lanes))):
            self._free[lanes].append(url)
        else:
            self.drop(url)

    def drop(self, url: str) -> None:
        """Remove a database, ending the sessions that are left in it."""
        asyncio.run(self._execute(f"drop database {_name(url)} with (force)"))

    def _template(self, lanes: int) -> _Template:
        template = self._templates.get(lanes)
        if template is None:
            template = self._templates[lanes] = asyncio.run(self._migrated(f"template_of_{lanes}", lanes))
        return template

    async def _migrated(self, name: str, lanes: int) -> _Template:
        await self._execute(f"create database {name}")
        await migrate(self._server.dsn(name), lanes=lanes)
        connection = await asyncpg.connect(self._server.dsn(name))
        try:
            shape, size = await _shape(connection)
            rows = {}
            for (table,) in await connection.fetch(_TABLES):
                held = await connection.fetchval(f"select json_agg(t) from {table} t")
                if held is not None:
                    rows[table] = held
            return _Template(name, shape, size, rows)
        finally:
            await connection.close()

    async def _emptied(self, url: str, template: _Template) -> bool:
        """Make the database what its template is; False where that takes more than emptying it."""
        await self._execute(
            f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{_name(url)}'"
        )
        connection = await asyncpg.connect(url)
        try:
            shape, size = await _shape(connection)
            if shape != template.shape or size > template.size + _GROWTH:
                return False
            await self._empty(connection, template)
            return True
        finally:
            await connection.close()

    async def _empty(self, connection: asyncpg.Connection[Any], template: _Template) -> None:
        tables = [table for (table,) in await connection.fetch(_TABLES)]
        async with connection.transaction():
            # As a replica, which fires no triggers: events are immutable for everybody else.
            await connection.execute("set local session_replication_role = replica")
            await connection.execute(";".join(f"delete from only {table}" for table in tables))
            for table, rows in template.rows.items():
                await connection.execute(
                    f"insert into {table} select * from json_populate_recordset(null::{table}, $1)",
                    rows,
                )

    def _copy(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        asyncio.run(self._execute(f"create database {name} template {template}"))
        return self._server.dsn(name)

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._server.dsn())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


async def _shape(connection: asyncpg.Connection[Any]) -> tuple[str, int]:
    row = await connection.fetchrow(_SHAPE)
    assert row is not None
    return row[0], row[1]


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]
