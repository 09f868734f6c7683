"""Sites: the tenants, their secrets and their settings."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.core.addresses import check_site, site_stream_id
from services.core.site import SiteSettings
from services.errors import ConfigurationError
from services.eventlog.keys import MasterKey, SealBroken
from services.eventlog.queries import QUERIES

MINIMUM_SECRET: Final = 32
"""Bytes of an HS256 secret, at least (RFC 7518, section 3.2)."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A key with which a site signs its tokens."""

    algorithm: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Site:
    """A site as it is now: `version` is that of its stream."""

    name: str
    stream_id: UUID
    settings: SiteSettings
    version: int
    secrets: tuple[Secret, ...]


class Sites:
    """Sites by name, from a cache at most `max_age` seconds old and bounded in size."""

    def __init__(
        self, pool: asyncpg.Pool[Any], master: MasterKey, *, max_age: float = 1.0, limit: int = 1000
    ) -> None:
        self._pool = pool
        self._master = master
        self._max_age = max_age
        self._limit = limit
        self._kept: OrderedDict[str, tuple[float, Site | None]] = OrderedDict()

    async def get(self, name: str) -> Site | None:
        """The site, or None where there is none: also for what can be no site's name."""
        try:
            check_site(name)
        except ValueError:
            return None
        kept = self._kept.get(name)
        if kept is not None and time.monotonic() - kept[0] < self._max_age:
            return kept[1]
        row = await self._pool.fetchrow(QUERIES["site"], name)
        site: Site | None = None
        if row is not None:
            site = Site(
                name,
                row["stream_id"],
                SiteSettings.stored(row["settings"]),
                row["version"],
                await self._secrets(name),
            )
        self._kept[name] = (time.monotonic(), site)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return site

    def forget(self, name: str) -> None:
        """Read the site anew next time: its settings were changed by this process."""
        self._kept.pop(name, None)

    async def _secrets(self, name: str) -> tuple[Secret, ...]:
        rows = await self._pool.fetch(QUERIES["site_secrets"], name)
        return tuple(
            Secret(row["algorithm"], self._master.unwrap(row["secret_id"].bytes, row["wrapped"]))
            for row in rows
        )

    async def add(self, name: str, secret: bytes) -> bool:
        """Add a site that signs with the HS256 `secret`; False where it exists already.

        Raises ConfigurationError for a name or a secret out of shape.
        """
        try:
            check_site(name)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        if len(secret) < MINIMUM_SECRET:
            raise ConfigurationError(f"a secret has at least {MINIMUM_SECRET} bytes")
        secret_id = UUID(bytes=os.urandom(16), version=4)
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(QUERIES["insert_site"], name, site_stream_id(name)) is None:
                return False
            wrapped = self._master.wrap(secret_id.bytes, secret)
            await connection.execute(QUERIES["insert_site_secret"], name, secret_id, "HS256", wrapped)
        self.forget(name)
        return True

    async def check_master(self) -> None:
        """Open one stored secret, if there is one. Raises ConfigurationError for a wrong master key."""
        row = await self._pool.fetchrow(QUERIES["any_site_secret"])
        if row is not None:
            try:
                self._master.unwrap(row["secret_id"].bytes, row["wrapped"])
            except SealBroken as error:
                raise ConfigurationError("THREADLOG_MASTER_KEY: is not this database's") from error

    async def all(self) -> list[tuple[str, int, datetime]]:
        """Every site's name, settings version and time of creation."""
        rows = await self._pool.fetch(QUERIES["sites"])
        return [(row["site"], row["version"], row["created_at"]) for row in rows]
