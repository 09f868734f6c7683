"""What a request is about: its id, its site, who sends it, its thread and its comment."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

from aiohttp import hdrs, web
from asyncpg.pgproto import pgproto
from multidict import istr

from services.api.auth import Caller, acting_as, bearer, caller_of
from services.api.deps import API
from services.api.headers import X_REQUEST_ID
from services.api.limits.admission import admit
from services.api.problems import Problem
from services.api.tokens import invalid
from services.core.addresses import (
    decode_thread_key,
    encode_thread_key,
    parse_comment_id,
    thread_stream_id,
)
from services.core.pagejson import PUBLIC, Reader
from services.errors import CommentNotFound, SiteNotFound
from services.eventlog.sites import KEY_PREFIX, Site

REQUEST_ID: Final = web.RequestKey("request_id", str)
SITE: Final = web.RequestKey("site", Site)
TOKEN_IN_QUERY: Final = web.RequestKey("token_in_query", bool)
"""Whether somebody is signed in without an Authorization header."""

READS: Final = frozenset({"GET", "HEAD"})
"""Methods that write nothing, and are not limited."""

READS_BY_POST: Final = frozenset({"/v1/sites/{site}/counts"})
"""Routes whose POST reads: what it asks for does not fit an address."""

ACT_AS: Final = istr("Threadlog-Act-As")
IDEMPOTENCY_KEY: Final = istr("Idempotency-Key")

_ANYTHING: Final = frozenset({"*/*", "application/json"})
_JSON_RANGES: Final = ("application/json", "application/*", "*/*")
_NEVER: Final = re.compile(r"q\s*=\s*0(\.0{0,3})?")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_THREAD_SEGMENT: Final = 5
"""`/v1/sites/{site}/threads/{thread}` divided by slashes: the thread is number 5."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request to a site. `caller` is None for somebody not signed in."""

    site: Site
    caller: Caller | None

    @property
    def reader(self) -> Reader:
        """As whom the answer is read."""
        return PUBLIC if self.caller is None else self.caller.reader

    def signed_in(self) -> Caller:
        """The caller. Raises Problem `unauthenticated`."""
        if self.caller is None:
            raise Problem("unauthenticated")
        return self.caller

    def writer(self) -> Caller:
        """The caller, who writes: anyone signed in, guests while the site allows them.

        Raises Problem `unauthenticated` or `guests-not-allowed`.
        """
        caller = self.signed_in()
        if caller.guest and not self.site.settings.guests:
            raise Problem("guests-not-allowed")
        return caller

    def member(self) -> Caller:
        """The caller, whom the site knows: for what guests may not. Raises Problem `unauthenticated`,
        `guests-not-allowed` or `forbidden`."""
        caller = self.writer()
        if caller.guest:
            raise Problem("forbidden", "this is not for guests")
        return caller

    def overseer(self) -> Caller:
        """The caller, who may read the log. Raises Problem `unauthenticated` or `forbidden`."""
        caller = self.signed_in()
        if not (caller.moderator or caller.operator):
            raise Problem("forbidden", "this is for moderators and operators")
        return caller

    def moderator(self) -> Caller:
        """The caller, who may moderate. Raises Problem `unauthenticated` or `forbidden`."""
        caller = self.signed_in()
        if not caller.moderator:
            raise Problem("forbidden", "this is for moderators")
        return caller

    def admin(self) -> Caller:
        """The caller, who may change the site. Raises Problem `unauthenticated` or `forbidden`."""
        caller = self.signed_in()
        if not caller.admin:
            raise Problem("forbidden", "this is for the site's admins")
        return caller


@dataclass(frozen=True, slots=True)
class Thread:
    """The thread that a path names, whether it has events or not."""

    key: str
    stream_id: UUID
    segment: str
    """The key as a path has it."""


def request_id(request: web.Request) -> str:
    """The client's X-Request-ID where it is one, else a new one."""
    given = request.headers.get(X_REQUEST_ID)
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return os.urandom(16).hex()


def single(request: web.Request, name: str) -> str | None:
    """The value of a header that may be given once. Raises Problem `bad-header`."""
    values = request.headers.getall(name, ())
    if len(values) > 1:
        raise Problem("bad-header", f"{name} is given more than once")
    return values[0] if values else None


async def visit(
    request: web.Request, *, reads: bool = False, any_media: bool = False, token: str | None = None
) -> Visit:
    """The site of the path, and who sends the request; a write is charged to its rate limits.

    `reads` is of a route in READS_BY_POST. With `any_media` the answer is what it is, whatever Accept says.
    `token` is the one that a live route takes in its query.
    Raises SiteNotFound, Problem.
    """
    if not any_media:
        acceptable(request)
    api = request.app[API]
    name = request.match_info["site"]
    site = await api.sites.get(name)
    if site is None:
        raise SiteNotFound(name[:63])
    request[SITE] = site
    header = single(request, hdrs.AUTHORIZATION)
    caller = None if header is None else api.verifier.caller(site, header)
    if token is not None:
        if header is not None:
            raise Problem("bad-query", "access_token comes without an Authorization header")
        request[TOKEN_IN_QUERY] = True
        caller = api.verifier.brief(site, token)
    if ACT_AS in request.headers:
        caller = acting_as(caller, single(request, ACT_AS) or "")
    if request.method not in READS and not reads:
        charge = api.limiter.charge_of(site.name, site.settings, caller, api.addresses, request)
        if charge is not None:
            await admit(request, api.limiter, charge)
    if caller is not None and caller.email is not None and not caller.guest:
        api.token_addresses.note(site.name, caller.id, caller.email)
    return Visit(site, caller)


async def operator(request: web.Request) -> Caller:
    """The operator who asks for what belongs to no site: by a server key with that role, of whichever site.

    A token is a site's, and signs nobody in here. Raises Problem `unauthenticated`, `token-invalid` or
    `forbidden`.
    """
    header = single(request, hdrs.AUTHORIZATION)
    caller = None
    if header is not None:
        caller = await _of_server_key(request, bearer(header))
    if ACT_AS in request.headers:
        caller = acting_as(caller, single(request, ACT_AS) or "")
    if caller is None:
        raise Problem("unauthenticated")
    if not caller.operator:
        raise Problem("forbidden", "this is for operators")
    return caller


async def _of_server_key(request: web.Request, token: str) -> Caller:
    known = None
    if token.startswith(KEY_PREFIX) and token.isascii():
        known = await request.app[API].sites.server_key(token)
    if known is None:
        raise invalid("is no server key: what belongs to no site is for operators")
    return caller_of(known)


def acceptable(request: web.Request) -> None:
    """Raises Problem `not-acceptable` where Accept leaves JSON out (RFC 9110, section 12.5.1)."""
    given = request.headers.get(hdrs.ACCEPT)
    if given is None or given in _ANYTHING:
        return
    weights: dict[str, bool] = {}
    for one in ",".join(request.headers.getall(hdrs.ACCEPT)).lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        weights[kind] = not any(_NEVER.fullmatch(parameter) for parameter in parameters)
    # The most specific range that fits decides.
    for kind in _JSON_RANGES:
        if kind in weights:
            if weights[kind]:
                return
            break
    if weights.keys() != {""}:
        raise Problem("not-acceptable")


def thread_of(request: web.Request, site: Site) -> Thread:
    """The thread of the path. Raises BadAddress.

    The key is decoded from the raw request target: in the framework's decoded path `%25FF`, which is the key
    `%FF`, looks like `%FF`, which is not UTF-8.
    """
    return _thread(site.name, request.rel_url.raw_path.split("/", _THREAD_SEGMENT + 1)[_THREAD_SEGMENT])


@lru_cache(maxsize=4096)
def _thread(site: str, segment: str) -> Thread:
    """The thread's id is a UUID of asyncpg's: see `writing.event_id`."""
    key = decode_thread_key(segment)
    return Thread(key, pgproto.UUID(thread_stream_id(site, key).bytes), encode_thread_key(key))


def comment_of(request: web.Request) -> UUID:
    """The comment of the path. Raises CommentNotFound."""
    raw = request.match_info["comment"]
    comment_id = parse_comment_id(raw)
    if comment_id is None:
        raise CommentNotFound(raw[:36])
    return comment_id
