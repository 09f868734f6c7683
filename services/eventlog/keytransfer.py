"""Author keys on their way to another log: out of one master key, under a key of their own, into another.

What is sealed moves as it is, ciphertext and all, for the hashes are over it. Only who has the keys can open
it, and these leave a log under a transfer key, if they leave it at all. That a key was destroyed is always
told, so that it is not brought back from an older copy.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.errors import ConfigurationError
from services.eventlog.keys import MasterKey, SealBroken, Wrapped
from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES

PAGE: Final = 500
_NONCE: Final = 12
_BYTES: Final = 32


class TransferKey:
    """Wraps author keys on their way (AES-256-GCM, bound to the key's id): 32 random bytes in a file."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(secret)

    @classmethod
    def read(cls, path: Path) -> TransferKey:
        """The key in this file, in base64. Raises ConfigurationError."""
        try:
            secret = b64decode(path.read_bytes().strip(), validate=True)
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigurationError(f"{path}: is no transfer key: takes {_BYTES} bytes in base64") from error
        if len(secret) != _BYTES:
            raise ConfigurationError(f"{path}: is no transfer key: takes {_BYTES} bytes in base64")
        return cls(secret)

    @classmethod
    def make(cls, path: Path) -> TransferKey:
        """A new key, in a new file for its owner alone. Raises ConfigurationError where there is one."""
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from error
        secret = os.urandom(_BYTES)
        with os.fdopen(file, "wb") as opened:
            opened.write(b64encode(secret) + b"\n")
        return cls(secret)

    def wrap(self, key_id: UUID, secret: bytes) -> bytes:
        """An author's key, encrypted."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret, key_id.bytes)

    def unwrap(self, key_id: UUID, wrapped: bytes) -> bytes:
        """What `wrap` wrapped. Raises SealBroken."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], key_id.bytes)
        except (InvalidTag, ValueError) as error:
            raise SealBroken("the file's keys do not open: is the transfer key the right one?") from error


@dataclass(frozen=True, slots=True)
class MovedKey:
    """An author's key on its way. `wrapped` is None where it stays behind, or was destroyed."""

    key_id: UUID
    author_id: str
    wrapped: bytes | None = field(repr=False)
    destroyed_at: datetime | None


@dataclass(slots=True)
class Adopted:
    """What became of the keys that came: `added` are new here, `erased` were destroyed here and stay so,
    `alive` were destroyed where they come from and live here, `taken` are the authors who have another key
    here, so that what is sealed under the one that came stays shut."""

    added: int = 0
    erased: int = 0
    alive: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)


class KeysOut:
    """The keys of one site, or of one of its threads, as they leave."""

    def __init__(self, pool: asyncpg.Pool[Any], master: MasterKey, transfer: TransferKey | None) -> None:
        """Without `transfer` no secret leaves, and only what was destroyed is told."""
        self._pool = pool
        self._master = master
        self._transfer = transfer

    async def pages(self, site: str, stream_id: UUID | None = None) -> AsyncIterator[list[MovedKey]]:
        """The keys in the order of their ids, some at a time. Raises SealBroken for a wrong master key."""
        after = NIL
        while True:
            if stream_id is None:
                rows = await self._pool.fetch(QUERIES["site_author_keys"], site, after, PAGE)
            else:
                rows = await self._pool.fetch(QUERIES["thread_author_keys"], site, after, PAGE, stream_id)
            if not rows:
                return
            moved = [self._moved(row) for row in rows]
            yield [key for key in moved if key.wrapped is not None or key.destroyed_at is not None]
            after = rows[-1]["key_id"]

    def _moved(self, row: asyncpg.Record) -> MovedKey:
        key_id: UUID = row["key_id"]
        wrapped = None
        if row["wrapped"] is not None and self._transfer is not None:
            wrapped = self._transfer.wrap(key_id, self._master.unwrap(key_id.bytes, row["wrapped"]))
        return MovedKey(key_id, row["author_id"], wrapped, row["destroyed_at"])

    async def erasures(self) -> int:
        """The number of the last erasure."""
        row = await self._pool.fetchrow(QUERIES["last_erasure"])
        return 0 if row is None else int(row["number"])

    async def erased_since(self, site: str, number: int) -> int:
        """How many people of the site were erased after the erasure of this number."""
        return int(await self._pool.fetchval(QUERIES["erased_since"], site, number))


class KeysIn:
    """Takes the keys that come into one site."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        master: MasterKey,
        transfer: TransferKey | None,
        erased: Collection[UUID] = (),
    ) -> None:
        """`erased` are keys that were destroyed here once, and must not come back."""
        self._pool = pool
        self._master = master
        self._transfer = transfer
        self._erased = erased

    def check(self, key: MovedKey) -> None:
        """Raises SealBroken where the transfer key is not the one that wrapped it."""
        if key.wrapped is not None and self._transfer is not None:
            self._transfer.unwrap(key.key_id, key.wrapped)

    async def adopt(self, site: str, keys: Sequence[MovedKey], adopted: Adopted) -> None:
        """Store these keys, except those that were ever destroyed, here or there, and count what was done."""
        taking: list[tuple[MovedKey, Wrapped | None]] = []
        for key in keys:
            if key.destroyed_at is not None:
                taking.append((key, None))
            elif key.key_id in self._erased:
                adopted.erased += 1
            elif key.wrapped is not None and self._transfer is not None:
                secret = self._transfer.unwrap(key.key_id, key.wrapped)
                taking.append((key, self._master.wrap(key.key_id.bytes, secret)))
        if not taking:
            return
        prints = [wrapped.fingerprint for _, wrapped in taking if wrapped is not None]
        rows = await self._pool.fetch(
            QUERIES["adopt_author_keys"],
            site,
            [key.key_id for key, _ in taking],
            [key.author_id for key, _ in taking],
            [None if wrapped is None else wrapped.now for _, wrapped in taking],
            [None if wrapped is None else wrapped.before for _, wrapped in taking],
            [key.destroyed_at for key, _ in taking],
            prints[0] if prints else "",
        )
        new = {row["key_id"] for row in rows}
        adopted.added += sum(key.key_id in new and wrapped is not None for key, wrapped in taking)
        await self._tell([key for key, _ in taking if key.key_id not in new], site, adopted)

    async def _tell(self, keys: Sequence[MovedKey], site: str, adopted: Adopted) -> None:
        """Why these were not stored."""
        rows = await self._pool.fetch(QUERIES["standing_of_keys"], [key.key_id for key in keys])
        here = {row["key_id"]: row for row in rows}
        for key in keys:
            known = here.get(key.key_id)
            if known is None or (known["site"], known["author_id"]) != (site, key.author_id):
                adopted.taken.append(key.author_id)
            elif key.destroyed_at is None and not known["alive"]:
                adopted.erased += 1
            elif key.destroyed_at is not None and known["alive"]:
                adopted.alive.append(key.author_id)
