"""Author keys: what is personal in the log is sealed under its author's key.

A key is 32 random bytes, stored wrapped by the master key (AES-256-GCM, bound to the key's id). Destroying
a key erases what it sealed, in the log and in every copy of it. A key is made once, and never again once it
is destroyed: the next text of the same author gets a new one.

Another process may destroy a key that this one has kept. Before a kept key opens anything, the `erasures` are
looked at, at most once in CONFIRM_S; so that much after a key was destroyed nobody opens anything with it.
To seal with one needs no look: the batch finds the key gone, and the text is sealed anew.

What is sealed is bound to its event and stream (the associated data), so that it opens nowhere else:
nonce (12 bytes), ciphertext, tag (16).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.core.commands import Sealed
from services.errors import ConfigurationError, KeyDestroyed
from services.eventlog.queries import QUERIES

CONFIRM_S: Final = 1.0
"""Seconds for which kept keys are taken to live without another look."""

_NONCE: Final = 12
_FINGERPRINT: Final = 4
_ERASURES: Final = 10_000
_K = TypeVar("_K")
_V = TypeVar("_V")


class SealBroken(ValueError):
    """Sealed bytes do not open: damaged, moved to another event, or sealed by another key."""


@dataclass(frozen=True, slots=True)
class AuthorKey:
    """One author's living key."""

    key_id: UUID
    secret: bytes = field(repr=False)
    cipher: AESGCM = field(repr=False, compare=False)

    def seal(self, event_id: UUID, stream_id: UUID, text: dict[str, str]) -> bytes:
        """`text` as JSON, encrypted, bound to the event."""
        nonce = os.urandom(_NONCE)
        return nonce + self.cipher.encrypt(nonce, orjson.dumps(text), event_id.bytes + stream_id.bytes)

    def open(self, event_id: UUID, stream_id: UUID, sealed: bytes) -> dict[str, str]:
        """What `seal` sealed. Raises SealBroken."""
        text: dict[str, str] = orjson.loads(self.open_json(event_id, stream_id, sealed))
        return text

    def open_json(self, event_id: UUID, stream_id: UUID, sealed: bytes) -> bytes:
        """What `seal` sealed, as the JSON that it made of it. Raises SealBroken."""
        try:
            return self.cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], event_id.bytes + stream_id.bytes)
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"the text of event {event_id} does not open") from error

    def mac(self, body: str) -> str:
        """A keyed digest (16 bytes, hex) by which an unchanged text is known. It dies with the key."""
        return hmac.digest(self.secret, body.encode(), "sha256")[:16].hex()

    def sealed(self, event_id: UUID, stream_id: UUID, text: dict[str, str]) -> Sealed:
        """`text` ready for a command."""
        return Sealed(
            self.seal(event_id, stream_id, text),
            self.key_id,
            self.mac(text["body"]) if "body" in text else "",
        )


class Wrapped(NamedTuple):
    """One secret, wrapped for whichever master key the database is under when it is stored."""

    now: bytes
    """Under THREADLOG_MASTER_KEY."""
    before: bytes
    """Under the key that is to be replaced, where there is one; else `now`."""
    fingerprint: str
    """Of THREADLOG_MASTER_KEY: `now` is stored where the database says that it is under this one."""


class MasterKey:
    """Wraps author keys and site secrets; derives the keys of HMACs. Losing it loses every text.

    While it replaces a `previous` one, both open what is stored, and the database says which of them wraps:
    rotation.py. What is derived stays what it was when the process began.
    """

    def __init__(self, encoded: str, previous: str | None = None) -> None:
        """Each: 32 bytes in base64. Raises ConfigurationError."""
        try:
            secret = b64decode(encoded, validate=True)
        except ValueError as error:
            raise ConfigurationError("THREADLOG_MASTER_KEY: is not base64") from error
        if len(secret) != 32:
            raise ConfigurationError("THREADLOG_MASTER_KEY: takes 32 bytes in base64")
        self._secret = secret
        self._cipher = AESGCM(self.own("wrap"))
        self.fingerprint = self.own("fingerprint")[:_FINGERPRINT].hex()
        """Names the key, and tells nothing of it."""
        self.previous = None if previous in (None, encoded) else MasterKey(previous)
        self._carried: Mapping[str, bytes] = {}
        self._began_as = self

    def settle(self, in_use: str | None, carried: Mapping[str, bytes]) -> None:
        """Derive from now on as the others do: `in_use` is the fingerprint of the key that the database is
        under, None where none was ever replaced; `carried` is what rotations have kept, by purpose."""
        if self.previous is not None and in_use != self.fingerprint:
            self._began_as = self.previous
        self._carried = carried

    @property
    def session_name(self) -> str:
        """What a session of a process that knows these keys is called, so that `Rotation` can tell."""
        keys = (self,) if self.previous is None else (self, self.previous)
        return " ".join(("threadlog", *(key.fingerprint for key in keys)))

    def derived(self, purpose: str) -> bytes:
        """A key for one purpose: HMAC-SHA256 of the purpose's name, unless an earlier one is kept."""
        return self._carried.get(purpose) or self._began_as.own(purpose)

    def also_derived(self, purpose: str) -> tuple[bytes, ...]:
        """What else other processes may derive for this purpose while a key is being replaced."""
        keys = (self,) if self.previous is None else (self, self.previous)
        return tuple(key.own(purpose) for key in keys if key is not self._began_as)

    def own(self, purpose: str) -> bytes:
        """What this very key derives, whatever came before it."""
        return hmac.new(self._secret, purpose.encode(), hashlib.sha256).digest()

    def wrap(self, bound_to: bytes, secret: bytes) -> Wrapped:
        """`secret` encrypted, to be opened only with the same `bound_to`."""
        nonce = os.urandom(_NONCE)
        now = nonce + self._cipher.encrypt(nonce, secret, bound_to)
        before = now if self.previous is None else self.previous.wrap(bound_to, secret).now
        return Wrapped(now, before, self.fingerprint)

    def unwrap(self, bound_to: bytes, wrapped: bytes) -> bytes:
        """What `wrap` wrapped, under this key or the previous one. Raises SealBroken where it was another."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], bound_to)
        except (InvalidTag, ValueError) as error:
            if self.previous is not None:
                return self.previous.unwrap(bound_to, wrapped)
            raise SealBroken("a stored key does not open: is THREADLOG_MASTER_KEY the right one?") from error

    def opens(self, bound_to: bytes, wrapped: bytes) -> bool:
        """Whether this very key opens it, the previous one left aside."""
        try:
            self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], bound_to)
        except (InvalidTag, ValueError):
            return False
        return True


class Keyring:
    """Author keys by author and by id, with a bounded cache of each."""

    def __init__(self, pool: asyncpg.Pool[Any], master: MasterKey, limit: int = 20_000) -> None:
        self._pool = pool
        self.master = master
        self._limit = limit
        self._by_author: OrderedDict[tuple[str, str], AuthorKey] = OrderedDict()
        self._by_id: OrderedDict[UUID, AuthorKey] = OrderedDict()
        self._gone: OrderedDict[UUID, None] = OrderedDict()
        self._seen: tuple[int, UUID | None] | None = None
        """Number and key of the last erasure that is known here; None before the first look."""
        self._looked = 0.0
        self._looking = asyncio.Lock()

    async def for_author(self, site: str, author_id: str) -> AuthorKey:
        """The author's living key, made where there is none. Durable before it is returned."""
        if (kept := self._by_author.get((site, author_id))) is not None:
            self._by_author.move_to_end((site, author_id))
            return kept
        if self._seen is None:
            await self._look()
        key_id = UUID(bytes=os.urandom(16), version=4)
        wrapped = self.master.wrap(key_id.bytes, os.urandom(32))
        await self._pool.execute(QUERIES["insert_author_key"], key_id, site, author_id, *wrapped)
        row = await self._pool.fetchrow(QUERIES["author_key"], site, author_id)
        if row is None:  # destroyed between the two statements
            return await self.for_author(site, author_id)
        key = self._keep(row["key_id"], row["wrapped"])
        _bounded(self._by_author, (site, author_id), key, self._limit)
        return key

    async def by_id(self, key_ids: Iterable[UUID]) -> dict[UUID, AuthorKey]:
        """The living ones of these keys."""
        found: dict[UUID, AuthorKey] = {}
        missing: list[UUID] = []
        asked = set(key_ids)
        if asked:
            await self._look()
        for key_id in asked:
            if (kept := self._by_id.get(key_id)) is not None:
                found[key_id] = kept
            else:
                missing.append(key_id)
        if missing:
            for row in await self._pool.fetch(QUERIES["author_keys"], missing):
                found[row["key_id"]] = self._keep(row["key_id"], row["wrapped"])
        return found

    async def one(self, key_id: UUID) -> AuthorKey:
        """One key by its id. Raises KeyDestroyed."""
        found = await self.by_id([key_id])
        if key_id not in found:
            raise KeyDestroyed(key_id)
        return found[key_id]

    def forget(self, key_id: UUID) -> None:
        """Drop a key from the cache: the log said that it is gone."""
        self._by_id.pop(key_id, None)
        for author in [author for author, key in self._by_author.items() if key.key_id == key_id]:
            del self._by_author[author]

    async def _look(self) -> None:
        """Forget the keys that others have destroyed, unless that was looked for just now."""
        if time.monotonic() - self._looked < CONFIRM_S and self._seen is not None:
            return
        async with self._looking:
            started = time.monotonic()  # what is destroyed from here on is seen by the next look
            if started - self._looked < CONFIRM_S and self._seen is not None:
                return
            if self._seen is not None:
                found = await self._pool.fetch(QUERIES["erasures_since"], self._seen[0], _ERASURES)
                known = [tuple(row) for row in found]
                if self._seen[1] is None:
                    known.insert(0, self._seen)
                if known and known[0] == self._seen and len(found) < _ERASURES:
                    for _, key_id in known[1:]:
                        self.forget(key_id)
                        _bounded(self._gone, key_id, None, _ERASURES)
                    self._seen, self._looked = known[-1], started
                    return
            # The first look; or too much has happened; or the database was set back, and tells another story.
            self._by_id.clear()
            self._by_author.clear()
            row = await self._pool.fetchrow(QUERIES["last_erasure"])
            self._seen = (0, None) if row is None else (row["number"], row["key_id"])
            self._looked = started

    def _keep(self, key_id: UUID, wrapped: bytes) -> AuthorKey:
        secret = self.master.unwrap(key_id.bytes, wrapped)
        key = AuthorKey(key_id, secret, AESGCM(secret))
        if key_id not in self._gone:  # else it was read before it was destroyed, and comes in late
            _bounded(self._by_id, key_id, key, self._limit)
        return key


def _bounded(cache: OrderedDict[_K, _V], name: _K, value: _V, limit: int) -> None:
    cache[name] = value
    while len(cache) > limit:
        cache.popitem(last=False)
