"""Webhook endpoints: where a site's own servers hear of notifications, and how they do.

The secret that signs is stored wrapped by the master key, bound to the endpoint's id. After `rotate_secret`
the old one signs too for a day, so that the receiver can change over without a pause.
"""

from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from services.errors import ConfigurationError, CredentialRefused, SiteNotFound
from services.eventlog.keys import MasterKey
from services.eventlog.queries import QUERIES

ENDPOINTS: Final = 20
"""How many a site has at most: each hears of everything."""
BOTH_S: Final = 24 * 3600.0
"""How long a replaced secret signs beside the new one."""
PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32
"""Standard Webhooks: between 24 and 64."""
_URL: Final = 2_000


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as it stands. `owner` is the mail address of who is told when it is switched off;
    `failures` counts since the last success, and nothing is sent before `open_until`."""

    id: UUID
    site: str
    url: str
    owner: str | None
    created_at: datetime
    failing_since: datetime | None
    failures: int
    open_until: datetime | None
    disabled_at: datetime | None
    disabled_reason: str | None


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """An endpoint just made, with its secret as it is shown, once."""

    id: UUID
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """The thread of a comment. `url` is where people read it, if that is known."""

    key: str
    title: str | None
    url: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """Where one delivery goes, and what it tells of; `thread` is None where the comment is not there."""

    url: str
    secrets: tuple[bytes, ...] = field(repr=False)
    failures: int
    off: bool
    thread: Page | None
    actor_id: str | None
    erased: bool


class Endpoints:
    """The webhook endpoints of all sites."""

    def __init__(self, pool: asyncpg.Pool[Any], master: MasterKey) -> None:
        self._pool = pool
        self._master = master

    async def add(self, site: str, url: str, owner: str | None = None) -> NewEndpoint:
        """Tell `url` of the site's notifications from now on.

        Raises SiteNotFound, ConfigurationError for an address out of shape, CredentialRefused where there are
        too many.
        """
        check_url(url)
        endpoint_id = UUID(bytes=os.urandom(16), version=4)
        secret = os.urandom(_SECRET_BYTES)
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(QUERIES["lock_site"], site) is None:
                raise SiteNotFound(site)
            if await connection.fetchval(QUERIES["count_endpoints"], site) >= ENDPOINTS:
                raise CredentialRefused(f"{site} has {ENDPOINTS} endpoints: remove one that is not used")
            wrapped = self._master.wrap(endpoint_id.bytes, secret)
            await connection.execute(QUERIES["insert_endpoint"], endpoint_id, site, url, *wrapped, owner)
        return NewEndpoint(endpoint_id, shown(secret))

    async def of(self, site: str) -> list[Endpoint]:
        """A site's endpoints, oldest first."""
        return [Endpoint(*row) for row in await self._pool.fetch(QUERIES["endpoints"], site)]

    async def one(self, endpoint_id: UUID) -> Endpoint | None:
        """An endpoint by its id."""
        row = await self._pool.fetchrow(QUERIES["endpoint"], endpoint_id)
        return None if row is None else Endpoint(*row)

    async def off(self, limit: int) -> list[Endpoint]:
        """Those of all sites that are switched off, the latest first."""
        return [Endpoint(*row) for row in await self._pool.fetch(QUERIES["endpoints_off"], limit)]

    async def remove(self, site: str, endpoint_id: UUID) -> Endpoint:
        """Tell it of nothing more, not even of what waits. Raises CredentialRefused where there is none."""
        return await self._changed("remove_endpoint", site, endpoint_id)

    async def enable(self, site: str, endpoint_id: UUID) -> Endpoint:
        """Switch it on, and take it to be well. Raises CredentialRefused where there is none."""
        return await self._changed("enable_endpoint", site, endpoint_id)

    async def rotate_secret(self, site: str, endpoint_id: UUID) -> str:
        """Give it a new secret, which is shown once; the old one signs too for BOTH_S more.

        Raises CredentialRefused where there is no such endpoint.
        """
        secret = os.urandom(_SECRET_BYTES)
        wrapped = self._master.wrap(endpoint_id.bytes, secret)
        row = await self._pool.fetchrow(
            QUERIES["rotate_endpoint_secret"], site, endpoint_id, *wrapped, BOTH_S
        )
        if row is None:
            raise _unknown(site, endpoint_id)
        return shown(secret)

    async def _changed(self, query: str, site: str, endpoint_id: UUID) -> Endpoint:
        row = await self._pool.fetchrow(QUERIES[query], site, endpoint_id)
        if row is None:
            raise _unknown(site, endpoint_id)
        return Endpoint(*row)

    # --- of those who send --------------------------------------------------------------------------------

    async def target(self, endpoint_id: UUID, comment_id: UUID) -> Target | None:
        """Where a delivery about a comment goes; None where the endpoint is gone. Raises SealBroken."""
        row = await self._pool.fetchrow(QUERIES["webhook"], endpoint_id, comment_id)
        if row is None:
            return None
        wrapped = [one for one in (row["wrapped"], row["wrapped_before"]) if one is not None]
        return Target(
            url=row["url"],
            secrets=tuple(self._master.unwrap(endpoint_id.bytes, one) for one in wrapped),
            failures=row["failures"],
            off=row["off"],
            thread=None if row["key"] is None else Page(row["key"], row["title"], row["page"]),
            actor_id=row["author_id"],
            erased=row["state"] == "erased",
        )

    async def succeeded(self, endpoint_id: UUID) -> None:
        """It took something: its circuit is closed."""
        await self._pool.execute(QUERIES["endpoint_succeeded"], endpoint_id)

    async def failed(self, endpoint_id: UUID, rest: float) -> tuple[timedelta, int]:
        """It took something not: nothing is sent to it for `rest` seconds. For how long it has failed, and
        how often."""
        row = await self._pool.fetchrow(QUERIES["endpoint_failed"], endpoint_id, rest)
        return (timedelta(), 0) if row is None else (row["failing"], row["failures"])

    async def switch_off(self, endpoint_id: UUID, reason: str, *, mails: bool) -> bool:
        """Send it nothing any more; its owner is told where there is one and `mails` are sent. False where it
        was switched off already."""
        switched = await self._pool.fetchval(QUERIES["switch_endpoint_off"], endpoint_id, reason, mails)
        return switched is not None


def check_url(url: str) -> str:
    """`url` if it may be an endpoint's: https (http is for networks that the operator allows), no user, no
    fragment. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url or len(url) > _URL:
        raise ConfigurationError("an endpoint is an address that begins with https://")
    if "@" in urlsplit(url).netloc or "#" in url:
        raise ConfigurationError("an endpoint's address names no user and no fragment; deliveries are signed")
    return url


def shown(secret: bytes) -> str:
    """A secret as receivers take it (Standard Webhooks, "Secret serialization")."""
    return PREFIX + b64encode(secret).decode()


def _unknown(site: str, endpoint_id: UUID) -> CredentialRefused:
    return CredentialRefused(f"{site} has no endpoint {endpoint_id}: see `threadlog site webhook list`")
