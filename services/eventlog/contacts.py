"""Where somebody's mail goes. The address is sealed under their own key, and goes with it.

An address that a token carries is vouched for by the site. One that somebody gave counts once a mail to it
was confirmed; so does a guest's, whose token holds whatever they typed.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID, uuid5

import asyncpg

from services.core.addresses import site_stream_id
from services.eventlog.keys import AuthorKey, Keyring
from services.eventlog.queries import QUERIES

Source = Literal["token", "given"]

ASKED: Final = 5
"""Mails in a day that ask somebody whether the addresses that they give are theirs, and in a day to one
address, whoever gives it."""
_PURPOSE: Final = "asked addresses"


@dataclass(frozen=True, slots=True)
class Contact:
    """An address, opened. `mac` knows it again."""

    email: str
    source: Source
    mac: str
    confirmed: bool
    refused: bool


class Address(NamedTuple):
    """An address that is to be kept."""

    site: str
    author_id: str
    source: Source
    email: str


class Contacts:
    """The addresses of all sites' people."""

    def __init__(self, pool: asyncpg.Pool[Any], keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring

    async def keep(self, site: str, author_id: str, source: Source, email: str) -> bool:
        """Keep an address, as `check_email` gave it; whether it was another before.

        A new one was never refused, and one that somebody gave is to be confirmed: `ask` does that.
        """
        address = Address(site, author_id, source, email)
        while address not in (kept := await self._keep([address])):
            pass  # their key was destroyed just now, and the next one is new
        return kept[address]

    async def keep_tokens(self, addresses: Collection[Address]) -> dict[Address, bool]:
        """Keep addresses that came with tokens; whether each was another before.

        Left out is who was erased and has written nothing since, and the guest who has said what they want:
        neither asked for it. Others whose key is destroyed meanwhile are left out too.
        """
        given = list(addresses)
        rows = await self._pool.fetch(
            QUERIES["takes_addresses"], [one.site for one in given], [one.author_id for one in given]
        )
        return await self._keep([given[row["place"] - 1] for row in rows])

    async def _keep(self, addresses: Collection[Address]) -> dict[Address, bool]:
        keys = [await self._keyring.for_author(one.site, one.author_id) for one in addresses]
        rows = await self._pool.fetch(
            QUERIES["keep_contacts"],
            [one.site for one in addresses],
            [one.author_id for one in addresses],
            [one.source for one in addresses],
            [key.key_id for key in keys],
            [_sealed(key, *one) for key, one in zip(keys, addresses, strict=True)],
            [key.mac(one.email) for key, one in zip(keys, addresses, strict=True)],
        )
        changed = {tuple(row)[:3]: bool(row["changed"]) for row in rows}
        for key, one in zip(keys, addresses, strict=True):
            if one[:3] not in changed:
                self._keyring.forget(key.key_id)
        return {one: changed[one[:3]] for one in addresses if one[:3] in changed}

    async def remove(self, site: str, author_id: str, source: Source) -> None:
        """Forget an address."""
        await self._pool.execute(QUERIES["remove_contact"], site, author_id, source)

    async def ask(self, site: str, author_id: str, email: str) -> bool:
        """Enter the mail that asks whether the given address is theirs; False where there is nothing to ask,
        or it was asked for this address within the hour, or too often that day, of them or of whoever."""
        known = f"{site}\0{email.casefold()}".encode()
        to = hmac.digest(self._keyring.master.derived(_PURPOSE), known, "sha256").hex()[:32]
        return bool(await self._pool.fetchval(QUERIES["enter_confirmation"], site, author_id, ASKED, to))

    async def confirm(self, site: str, author_id: str, mac: str) -> bool:
        """Count the given address from now on. False where it is another one by now."""
        return bool(await self._pool.fetchval(QUERIES["confirm_contact"], site, author_id, mac))

    async def refused(self, site: str, author_id: str, mac: str) -> None:
        """Write no more to this address: a mail server says that nobody is there."""
        await self._pool.execute(QUERIES["refuse_contact"], site, author_id, mac)

    async def all(self, site: str, author_id: str) -> list[Contact]:
        """The addresses that open: none of somebody whose key is destroyed."""
        rows = await self._pool.fetch(QUERIES["contacts"], site, author_id)
        keys = await self._keyring.by_id(row["key_id"] for row in rows)
        return [
            Contact(
                email=_opened(keys[row["key_id"]], site, author_id, row["source"], row["sealed"]),
                source=row["source"],
                mac=row["address_mac"],
                confirmed=row["confirmed"],
                refused=row["refused"],
            )
            for row in rows
            if row["key_id"] in keys
        ]

    async def usable(self, site: str, author_id: str) -> Contact | None:
        """Where their mail goes: to the address that they gave and confirmed, else to their token's."""
        found = {one.source: one for one in await self.all(site, author_id) if not one.refused}
        given = found.get("given")
        return given if given is not None and given.confirmed else found.get("token")


def _place(site: str, author_id: str, source: Source) -> tuple[UUID, UUID]:
    """What an address is bound to, so that it opens nowhere else."""
    stream_id = site_stream_id(site)
    return uuid5(stream_id, f"{source} contact of {author_id}"), stream_id


def _sealed(key: AuthorKey, site: str, author_id: str, source: Source, email: str) -> bytes:
    return key.seal(*_place(site, author_id, source), {"email": email})


def _opened(key: AuthorKey, site: str, author_id: str, source: Source, sealed: bytes) -> str:
    return key.open(*_place(site, author_id, source), sealed)["email"]
