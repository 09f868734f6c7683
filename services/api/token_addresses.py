"""The mail addresses in tokens, on their way to the contacts.

A request brings its caller's address whether anybody needs it or not, so it may cost next to nothing: one
look-up where it is known here, and an entry in a buffer where it is not. One task writes what gathers there,
in one statement, within a second. What a crash, a full buffer or a failing database loses, the next request
brings again.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from services.core.commands import GUEST
from services.eventlog.contacts import Address, Contacts, Source

KNOWN: Final = 20_000
"""People whose address is remembered here."""
HELD_S: Final = 600.0
"""Seconds after which an address is written again: it may have been erased, or set back with the database."""
WAITING: Final = 5_000
"""Addresses that wait to be written, at most."""
AT_ONCE: Final = 500
"""Addresses in one statement."""
GATHER_S: Final = 0.25
"""Seconds between two statements."""

_log = structlog.get_logger("threadlog.api")


class TokenAddresses:
    """Notes addresses, and keeps them from `run` until it is cancelled."""

    def __init__(
        self, contacts: Contacts, *, asks: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`asks`: whether guests are asked by mail if the address that they gave is theirs."""
        self._contacts = contacts
        self._asks = asks
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()
        self._waiting: dict[tuple[str, str], Address] = {}
        self._some = asyncio.Event()

    def note(self, site: str, author_id: str, email: str) -> None:
        """Somebody's token says that this is their address; a guest's, that they say so. Never waits."""
        person = (site, author_id)
        known = self._known.get(person)
        if known is not None and known[0] == email and self._clock() < known[1]:
            return
        if len(self._waiting) >= WAITING and person not in self._waiting:
            return
        source: Source = "given" if author_id.startswith(GUEST) else "token"
        self._waiting[person] = Address(site, author_id, source, email)
        # The first one in is the first one out, as among the tokens themselves.
        self._known.pop(person, None)
        self._known[person] = (email, self._clock() + HELD_S)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        self._some.set()

    def forget(self, site: str, author_id: str) -> None:
        """Write nothing that waits of somebody who is being erased."""
        self._waiting.pop((site, author_id), None)

    async def run(self) -> None:
        """Write what gathers."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                batch = [self._waiting.pop(person) for person in list(self._waiting)[:AT_ONCE]]
                try:
                    await self._write(batch)
                except Exception as error:  # noqa: BLE001 - whatever it was, the next request brings it again
                    _log.warning("addresses are not kept", count=len(batch), error=type(error).__name__)
                    for one in batch:
                        self._known.pop((one.site, one.author_id), None)
                await asyncio.sleep(GATHER_S)

    async def _write(self, batch: list[Address]) -> None:
        for one, changed in (await self._contacts.keep_tokens(batch)).items():
            if changed and one.source == "given" and self._asks:
                await self._contacts.ask(one.site, one.author_id, one.email)
