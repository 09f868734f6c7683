"""Sites: the tenants, their settings, and what their callers are known by.

Secrets (to check tokens) and server keys come with the site, from one query a second for each site: no
request looks any of them up by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, get_args
from uuid import UUID

import asyncpg

from services.core.addresses import check_site, site_stream_id
from services.core.site import SiteSettings
from services.errors import ConfigurationError
from services.eventlog.keys import MasterKey, SealBroken
from services.eventlog.queries import QUERIES

MINIMUM_SECRET: Final = 32
"""Bytes of an HS256 secret, at least (RFC 7518, section 3.2)."""

Role = Literal["moderator", "admin", "operator"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""What a server key may be given; a token names the first two only."""

KEY_PREFIX: Final = "tl_"
"""Server keys begin with it, so that those who look for leaked secrets know one when they see it."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What a site's tokens are checked with: the secret's bytes for HS256, a public key in PEM for EdDSA and
    RS256. `algorithm` is the only one that a token of this key may name."""

    algorithm: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerKey:
    """A key of one of the site's own servers; `name` is what its comments are signed with."""

    id: UUID
    name: str | None
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class Site:
    """A site as it is now: `version` is that of its stream. `keys` are the living server keys by their hash.
    `guest_secret` signs the tokens of guests; while a master key is replaced, `other_guest_secrets` do too.
    """

    name: str
    stream_id: UUID
    settings: SiteSettings
    version: int
    secrets: tuple[Secret, ...]
    keys: Mapping[bytes, ServerKey] = field(default_factory=dict, repr=False)
    guest_secret: Secret | None = None
    other_guest_secrets: tuple[Secret, ...] = ()


def key_hash(key: str) -> bytes:
    """What a server key is stored as: its SHA-256.

    A password needs a slow hash because it can be guessed; 32 random bytes cannot, and a slow hash would be
    paid by every request.
    """
    return hashlib.sha256(key.encode()).digest()


def check_secret(secret: bytes) -> bytes:
    """`secret` if tokens may be signed with it by HS256. Raises ConfigurationError."""
    if len(secret) < MINIMUM_SECRET:
        raise ConfigurationError(f"a secret has at least {MINIMUM_SECRET} bytes")
    if secret.lstrip().startswith((b"-----BEGIN ", b"ssh-")):
        # Anyone may know a public key: as an HMAC secret it would let anyone sign (RFC 8725, section 2.1).
        raise ConfigurationError("that is a key pair's, not a secret: `threadlog site secret add` takes it")
    return secret


@dataclass(frozen=True, slots=True)
class _Kept:
    at: float
    row: asyncpg.Record | None
    site: Site | None


class Sites:
    """Sites by name, from a cache at most `max_age` seconds old and bounded in size."""

    def __init__(
        self, pool: asyncpg.Pool[Any], master: MasterKey, *, max_age: float = 1.0, limit: int = 1000
    ) -> None:
        self._pool = pool
        self._master = master
        self._max_age = max_age
        self._limit = limit
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._reading: dict[str, asyncio.Task[Site | None]] = {}

    async def get(self, name: str) -> Site | None:
        """The site, or None where there is none: also for what can be no site's name."""
        kept = self._kept.get(name)
        if kept is not None and time.monotonic() - kept.at < self._max_age:
            return kept.site
        try:
            check_site(name)
        except ValueError:
            return None
        # All who wait for the same site wait for one query.
        reading = self._reading.get(name)
        if reading is None:
            reading = self._reading[name] = asyncio.create_task(self._read(name))
            reading.add_done_callback(lambda done: self._ended(name, done))
        return await asyncio.shield(reading)

    def kept(self, name: str) -> Site | None:
        """The site where `get` would not ask for it, else None."""
        kept = self._kept.get(name)
        return None if kept is None or time.monotonic() - kept.at >= self._max_age else kept.site

    def forget(self, name: str) -> None:
        """Read the site anew next time: this process has changed it."""
        self._kept.pop(name, None)
        self._reading.pop(name, None)

    async def _read(self, name: str) -> Site | None:
        asked = time.monotonic()
        before = self._kept.get(name)
        row = await self._pool.fetchrow(QUERIES["site"], name)
        site: Site | None = None
        if row is not None:
            # Nothing is opened, and no checked token is checked again, while nothing has changed.
            site = before.site if before is not None and before.row == row else self._opened(row)
        if self._reading.get(name) is asyncio.current_task():
            self._kept[name] = _Kept(asked, row, site)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return site

    def _ended(self, name: str, done: asyncio.Task[Site | None]) -> None:
        if self._reading.get(name) is done:
            del self._reading[name]
        if not done.cancelled():
            done.exception()  # whoever waited has it; where nobody does any more, nobody needs to hear of it

    def _opened(self, row: asyncpg.Record) -> Site:
        name: str = row["site"]
        return Site(
            name,
            row["stream_id"],
            SiteSettings.stored(row["settings"]),
            row["version"],
            tuple(
                Secret(algorithm, self._master.unwrap(secret_id.bytes, wrapped))
                for secret_id, algorithm, wrapped in row["secrets"]
            ),
            {hash: ServerKey(key_id, said, frozenset(roles)) for key_id, said, roles, hash in row["keys"]},
            Secret("HS256", self._master.derived(f"guests of {name}")),
            tuple(Secret("HS256", key) for key in self._master.also_derived(f"guests of {name}")),
        )

    async def add(self, name: str, secret: bytes) -> bool:
        """Add a site that signs with the HS256 `secret`; False where it exists already.

        Raises ConfigurationError for a name or a secret out of shape.
        """
        try:
            check_site(name)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        check_secret(secret)
        secret_id = UUID(bytes=os.urandom(16), version=4)
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(QUERIES["insert_site"], name, site_stream_id(name)) is None:
                return False
            wrapped = self._master.wrap(secret_id.bytes, secret)
            await connection.execute(QUERIES["insert_site_secret"], name, secret_id, "HS256", *wrapped)
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

    async def server_key(self, key: str) -> ServerKey | None:
        """The living server key, of whichever site: for what belongs to no site."""
        row = await self._pool.fetchrow(QUERIES["living_server_key"], key_hash(key))
        return None if row is None else ServerKey(row["key_id"], row["name"], frozenset(row["roles"]))

    async def all(self) -> list[tuple[str, int, datetime]]:
        """Every site's name, settings version and time of creation."""
        rows = await self._pool.fetch(QUERIES["sites"])
        return [(row["site"], row["version"], row["created_at"]) for row in rows]
