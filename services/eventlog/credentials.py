"""What a site signs and calls with: adding, listing and ending its secrets and its server keys.

A site has two secrets at most, so that one can take over from the other without a pause. Public keys lie
beside HS256 secrets, wrapped by the master key like them: nobody needs to be kept from reading one, but
whoever can write to the database must not be able to put theirs in its place.
"""

from __future__ import annotations

import os
import secrets
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Literal, get_args
from uuid import UUID

import asyncpg
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from services.errors import ConfigurationError, CredentialRefused, SiteNotFound
from services.eventlog.keys import MasterKey
from services.eventlog.queries import QUERIES
from services.eventlog.sites import KEY_PREFIX, ROLES, check_secret, key_hash

Algorithm = Literal["HS256", "EdDSA", "RS256"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)
SECRETS: Final = 2
"""How many secrets of a site live at once."""
SERVER_KEYS: Final = 100
"""How many server keys of a site live at once: they all come with the site."""
RSA_BITS: Final = 2048
"""The shortest RSA key (RFC 7518, section 3.3)."""
_RANDOM: Final = 32


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret as it may be shown. `fingerprint` is that of a public key (SHA-256 of its DER), as in
    `openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | base64`; a secret has none."""

    id: UUID
    algorithm: str
    created_at: datetime
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A server key as it may be shown."""

    id: UUID
    name: str | None
    roles: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A server key just made: `key` is not kept, and cannot be shown again."""

    id: UUID
    key: str = field(repr=False)


class Credentials:
    """The secrets and server keys of sites. A running API hears of a change within a second."""

    def __init__(self, pool: asyncpg.Pool[Any], master: MasterKey) -> None:
        self._pool = pool
        self._master = master

    async def add_secret(self, site: str, algorithm: Algorithm, given: bytes) -> UUID:
        """Let `site` sign with one more key: the secret's bytes for HS256, else a public key in PEM.

        Raises SiteNotFound, ConfigurationError for a key out of shape, CredentialRefused where two live.
        """
        key = check_secret(given) if algorithm == "HS256" else public_key(algorithm, given)
        secret_id = _new_id()
        async with self._pool.acquire() as connection, connection.transaction():
            await _lock(connection, site)
            rows = await connection.fetch(QUERIES["site_secrets"], site)
            if len(rows) >= SECRETS:
                raise CredentialRefused(
                    f"{site} has {SECRETS} secrets, as many as live at once: "
                    f"`threadlog site secret retire {site} {rows[-1]['secret_id']}` ends the older one"
                )
            if any(
                row["algorithm"] == algorithm
                and self._master.unwrap(row["secret_id"].bytes, row["wrapped"]) == key
                for row in rows
            ):
                raise CredentialRefused(f"{site} signs with this very key already")
            wrapped = self._master.wrap(secret_id.bytes, key)
            await connection.execute(QUERIES["insert_site_secret"], site, secret_id, algorithm, *wrapped)
        return secret_id

    async def secrets(self, site: str) -> list[StoredSecret]:
        """The site's secrets, newest first. Raises SiteNotFound."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _lock(connection, site)
            rows = await connection.fetch(QUERIES["site_secrets"], site)
        return [
            StoredSecret(
                row["secret_id"],
                row["algorithm"],
                row["created_at"],
                None
                if row["algorithm"] == "HS256"
                else _fingerprint(self._master.unwrap(row["secret_id"].bytes, row["wrapped"])),
            )
            for row in rows
        ]

    async def retire_secret(self, site: str, secret_id: UUID, *, last: bool = False) -> None:
        """Take a secret's tokens no more. Raises SiteNotFound, and CredentialRefused where there is no such
        secret, or where it is the last one and `last` does not say that this is meant."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _lock(connection, site)
            ids = {row["secret_id"] for row in await connection.fetch(QUERIES["site_secrets"], site)}
            if secret_id not in ids:
                raise CredentialRefused(f"{site} has no secret {secret_id}: see `threadlog site secret list`")
            if len(ids) == 1 and not last:
                raise CredentialRefused(
                    f"it is the last secret of {site}: nobody could sign in. Add another one first, or say "
                    "that this is meant with --force"
                )
            await connection.execute(QUERIES["delete_site_secret"], site, secret_id)

    async def add_key(self, site: str, roles: Iterable[str], name: str | None = None) -> NewKey:
        """Make a server key. Raises SiteNotFound, ConfigurationError for an unknown role, CredentialRefused
        where too many live."""
        wanted = set(roles)
        if unknown := wanted - set(ROLES):
            raise ConfigurationError(f"no such role: {', '.join(sorted(unknown))}; there are {_or(ROLES)}")
        made = NewKey(_new_id(), KEY_PREFIX + secrets.token_urlsafe(_RANDOM))
        async with self._pool.acquire() as connection, connection.transaction():
            await _lock(connection, site)
            if await connection.fetchval(QUERIES["count_living_keys"], site) >= SERVER_KEYS:
                raise CredentialRefused(f"{site} has {SERVER_KEYS} server keys: revoke one that is not used")
            await connection.execute(
                QUERIES["insert_server_key"], made.id, site, name, sorted(wanted), key_hash(made.key)
            )
        return made

    async def keys(self, site: str) -> list[StoredKey]:
        """The site's server keys, revoked ones included, oldest first. Raises SiteNotFound."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _lock(connection, site)
            return [_stored(row) for row in await connection.fetch(QUERIES["server_keys"], site)]

    async def revoke_key(self, site: str, key_id: UUID) -> StoredKey:
        """Take a server key no more; again changes nothing. Raises SiteNotFound, CredentialRefused where
        there is no such key."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _lock(connection, site)
            row = await connection.fetchrow(QUERIES["revoke_server_key"], site, key_id)
        if row is None:
            raise CredentialRefused(f"{site} has no server key {key_id}: see `threadlog site key list`")
        return _stored(row)


def public_key(algorithm: Algorithm, given: bytes) -> bytes:
    """A public key in PEM (SubjectPublicKeyInfo, RFC 5280) as it is stored. Raises ConfigurationError."""
    if b"PRIVATE KEY" in given:
        raise ConfigurationError(
            "that is a private key, which nobody but the site should have: give its public key, as "
            "`openssl pkey -pubout` prints it"
        )
    try:
        key = load_pem_public_key(given)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError("that is no public key in PEM (-----BEGIN PUBLIC KEY-----)") from error
    match algorithm, key:
        case "EdDSA", Ed25519PublicKey():
            pass
        case "RS256", RSAPublicKey(key_size=bits):
            if bits < RSA_BITS:
                raise ConfigurationError(f"the RSA key has {bits} bits; at least {RSA_BITS} are safe")
        case _:
            wanted = "an Ed25519 key" if algorithm == "EdDSA" else "an RSA key"
            raise ConfigurationError(f"{algorithm} takes {wanted}, and that is another kind")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _fingerprint(pem: bytes) -> str:
    der = load_pem_public_key(pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b64encode(sha256(der).digest()).decode()


def _stored(row: asyncpg.Record) -> StoredKey:
    return StoredKey(row["key_id"], row["name"], tuple(row["roles"]), row["created_at"], row["revoked_at"])


async def _lock(connection: Any, site: str) -> None:
    if await connection.fetchval(QUERIES["lock_site"], site) is None:
        raise SiteNotFound(site)


def _new_id() -> UUID:
    return UUID(bytes=os.urandom(16), version=4)


def _or(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}"
