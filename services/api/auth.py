"""Who sends a request (contract, section 6): somebody whom the site signed for, a guest whom we signed for,
or one of the site's servers by its key."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Final

from schema.events.payloads import Badge
from services.api.problems import Problem
from services.api.tokens import LEEWAY, RESERVED, Claims, claims_of, invalid
from services.core.commands import GUEST, Actor
from services.core.pagejson import Reader
from services.core.text import NAME_CODE_POINTS, SUB_CODE_POINTS, TextRefused, normalise_line
from services.eventlog.sites import KEY_PREFIX, ServerKey, Site, key_hash

BRIEF_S: Final = 300.0
"""Seconds that a token in an address may have left, the leeway aside."""
_CHARACTERS: Final = 16 * 1024 * 1024
SERVER: Final = "key:"
"""What the id of a server key that acts as itself begins with, and nobody else's."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody signed in. `expires` is in Unix seconds.

    An operator reads logs and figures, and need not be a moderator. `key` tells that a server key signed in,
    as itself or acting as somebody; whom it acts as has its rights, but not its badge.
    """

    id: str
    name: str
    avatar: str | None
    moderator: bool
    admin: bool
    expires: float
    operator: bool = False
    guest: bool = False
    key: bool = False
    email: str | None = field(default=None, repr=False)
    """Where the token says that their mail goes."""
    actor: Actor = field(init=False, repr=False, compare=False)
    """As the sender of a command."""
    reader: Reader = field(init=False, repr=False, compare=False)
    """As the reader of a page."""

    def __post_init__(self) -> None:
        # Made once: a caller is kept, and sends many requests.
        badge: Badge | None = "admin" if self.admin else "moderator" if self.moderator else None
        if self.key and not self.id.startswith(SERVER):
            badge = None
        object.__setattr__(self, "actor", Actor(self.id, self.moderator, badge))
        object.__setattr__(self, "reader", Reader(self.id, self.moderator))


@dataclass(slots=True)
class _Kept:
    caller: Caller
    site: Site
    until: float

    def holds_at(self, site: Site) -> bool:
        """Whether nothing that the token was checked by has changed since the site was read."""
        before = self.site
        settings, earlier = site.settings, before.settings
        if (
            not self.caller.key
            and before.name == site.name
            and before.secrets == site.secrets
            and (earlier.token_issuer, earlier.token_audience)
            == (settings.token_issuer, settings.token_audience)
        ):
            self.site = site
            return True
        return False


class Verifier:
    """Knows callers by their Authorization header, and remembers those whose token was checked until it
    expires, or whose server key was found until its site changes: at most `limit` of them, with headers of at
    most `characters` in all.

    The header itself is the name of what is kept, which costs a request one look-up. Who can read them in
    this process's memory can read there the secrets that sign them.
    """

    def __init__(self, limit: int = 20_000, characters: int = _CHARACTERS) -> None:
        self._limit = limit
        self._characters = characters
        self._held = 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def caller(self, site: Site, header: str) -> Caller:
        """Who signs in at `site` with this header. Raises Problem `token-invalid` or `token-expired`."""
        kept = self._kept.get(header)
        if kept is not None and (kept.site is site or kept.holds_at(site)) and time.time() < kept.until:
            return kept.caller
        token = bearer(header)
        caller = _of_key(site, token) if token.startswith(KEY_PREFIX) else _of_claims(claims_of(site, token))
        # Under one name only, however many blanks a header has.
        self._keep(f"Bearer {token}", _Kept(caller, site, caller.expires + LEEWAY))
        return caller

    def brief(self, site: Site, token: str) -> Caller:
        """Who signs in with a token in an address, which others may come to see: no server key, and a JWT of
        which five minutes are left at most. Raises as `caller` does."""
        if token.startswith(KEY_PREFIX):
            raise invalid("is a server's key, which no address takes")
        caller = self.caller(site, f"Bearer {token}")
        if caller.expires - time.time() > BRIEF_S + LEEWAY:
            raise invalid(f"is good for more than {BRIEF_S:.0f} s, too long for an address")
        return caller

    def _keep(self, header: str, kept: _Kept) -> None:
        # The first one in is the first one out: to know which was used last would cost every request.
        if self._kept.pop(header, None) is None:
            self._held += len(header)
        self._kept[header] = kept
        while len(self._kept) > self._limit or self._held > self._characters:
            self._held -= len(self._kept.popitem(last=False)[0])


def bearer(header: str) -> str:
    """The token in an Authorization header. Raises Problem `token-invalid`."""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise invalid("is not given as `Authorization: Bearer`")
    return token.strip()


def acting_as(caller: Caller | None, sub: str) -> Caller:
    """A server key's caller as somebody of its site: `sub` as in a token, with the key's own roles.

    Raises Problem `bad-header`, also where no server key signed in: one who sends this header for another
    reason must not be taken for somebody else than they meant.
    """
    if caller is None or not caller.key:
        raise Problem("bad-header", "Threadlog-Act-As comes with a server key")
    try:
        sub = normalise_line(sub, what="Threadlog-Act-As", limit=SUB_CODE_POINTS)
    except TextRefused as refused:
        raise Problem("bad-header", refused.reason) from None
    if sub.startswith(RESERVED):
        raise Problem("bad-header", "Threadlog-Act-As names a reserved sub")
    return replace(caller, id=sub, name=sub[:NAME_CODE_POINTS])


def _of_key(site: Site, key: str) -> Caller:
    try:
        known = site.keys.get(key_hash(key))
    except UnicodeEncodeError:
        known = None
    if known is None:
        raise invalid("is no key of this site")
    return caller_of(known)


def caller_of(known: ServerKey) -> Caller:
    """The caller that a server key is, as itself."""
    name = f"{SERVER}{known.id}"
    admin = "admin" in known.roles
    return Caller(
        id=name,
        name=known.name or name,
        avatar=None,
        moderator=admin or "moderator" in known.roles,
        admin=admin,
        expires=math.inf,
        operator="operator" in known.roles,
        key=True,
    )


def _of_claims(claims: Claims) -> Caller:
    guest = claims.sub.startswith(GUEST)
    admin = not guest and "admin" in claims.roles
    return Caller(
        id=claims.sub,
        name=(claims.sub if claims.name is None else claims.name)[:NAME_CODE_POINTS],
        avatar=claims.avatar,
        moderator=admin or (not guest and "moderator" in claims.roles),
        admin=admin,
        expires=float(claims.exp),
        guest=guest,
        email=claims.email,
    )
