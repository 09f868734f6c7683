"""Which limits a write is charged to, and who decides: Redis for all processes, or this one for itself.

A write is charged once it is known who sends it, before its body is read: the cheapest place that knows the
author. So one that is refused later, and a repeat by Idempotency-Key, count as writes. What is charged:

- an author or guest: the author's limit, the address' and the site's;
- nobody in particular (a guest who comes, a report without a name): the address' alone, so that nobody can
  use up a site's limit without signing in;
- a server key: the site's alone; acting for an author, the author's and the site's, since the address is the
  server's;
- moderators and admins: none. They must be able to act in a flood, and to undo a limit that is too low.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from aiohttp import web

from services.api.auth import Caller
from services.api.client_address import ClientAddresses
from services.api.limits.local import LocalLimits
from services.api.limits.policy import Charge, Kind, Policy, Used, policy_of
from services.api.limits.shared import FORMAT, SharedLimits
from services.core.site import SiteSettings

_REMEMBERED: Final = 20_000
"""Authors and addresses whose keys are not made anew for each of their writes."""
_DIGEST: Final = 12
"""Bytes of a digest: two of 10**9 names share one with a chance of 10**-11."""


class Limiter:
    """Charges writes. `secret` keys the names in Redis."""

    def __init__(self, shared: SharedLimits, secret: bytes, *, local: LocalLimits | None = None) -> None:
        self.shared = shared
        self.local = LocalLimits() if local is None else local
        self.decided_shared = 0
        """Writes that Redis decided on."""
        self.decided_local = 0
        """Writes that this process decided on by itself."""
        self.refused: dict[Kind, int] = {"author": 0, "address": 0, "site": 0}
        """Writes refused, by the limit that was used up."""

        @lru_cache(maxsize=_REMEMBERED)
        def key(kind: Kind, site: str, who: str) -> bytes:
            name = f"{kind}\n{site}\n{who}".encode("utf-8", "surrogatepass")
            digest = hashlib.blake2b(name, digest_size=_DIGEST, key=secret).hexdigest()
            return f"tl:limit:{FORMAT}:{{{site}}}:{kind}:{digest}".encode()

        self._key = key

    def charge_of(
        self,
        site: str,
        settings: SiteSettings,
        caller: Caller | None,
        addresses: ClientAddresses,
        request: web.Request,
    ) -> Charge | None:
        """What a write is charged to; None for one that nothing limits."""
        author_limit = settings.author_writes_per_minute
        address_limit = settings.address_writes_per_minute
        site_limit = settings.site_writes_per_second
        if caller is None:
            author_limit = site_limit = None
        elif caller.moderator:
            return None
        elif caller.key:
            address_limit = None
            if caller.id.startswith("key:"):
                author_limit = None
        address = None if address_limit is None else addresses.bucket(request)
        if address is None:
            address_limit = None
        keys = []
        if author_limit is not None and caller is not None:
            keys.append(self._key("author", site, caller.id))
        if address is not None:
            keys.append(self._key("address", site, address))
        if site_limit is not None:
            keys.append(self._key("site", site, ""))
        return Charge(tuple(keys), policy_of(author_limit, address_limit, site_limit)) if keys else None

    async def decide(self, charge: Charge) -> Used:
        """What is used of each limit now, or -1 - that much where the write is refused."""
        asked = self.shared.ask(charge)
        used = None if asked is None else await asked
        if used is None:
            used = self.local.charge(charge)
            self.decided_local += 1
        else:
            self.decided_shared += 1
        return used

    def refused_by(self, policy: Policy, used: Used) -> tuple[list[Kind], int]:
        """Which limits refuse a write, and in how many seconds it may come again. Counts the refusal."""
        waits = {
            limit.kind: wait
            for limit, taken in zip(policy.limits, used, strict=True)
            if (wait := limit.wait(-1 - taken)) > 0
        }
        for kind in waits:
            self.refused[kind] += 1
        return list(waits), -(-max(waits.values(), default=1) // 1_000_000)
