"""Guests: people whom the site does not know, with a token of ours that names them as themselves."""

from __future__ import annotations

import time
import uuid
from typing import Final

from aiohttp import hdrs, web

from services.api.bodies import NewGuest, body_of
from services.api.context import visit
from services.api.problems import Problem, text_refused
from services.api.queries import NoQuery, query_of
from services.api.tokens import sign
from services.core.commands import GUEST
from services.core.node import author_fragment
from services.core.text import NAME_CODE_POINTS, TextRefused, check_email, normalise_line
from services.eventlog.sites import Site

LIFETIME: Final = 365 * 86_400
"""How long a guest's token lives, in seconds. With it, a guest can take back what they wrote; without it,
nobody can: so it is long, and it is of no use beyond that and posting."""


async def join(request: web.Request) -> web.Response:
    """Become a guest. Nothing is stored until they write: the token holds it all."""
    here = await visit(request)
    query_of(request, NoQuery)
    if not here.site.settings.guests:
        raise Problem("guests-not-allowed")
    asked, _ = await body_of(request, NewGuest)
    try:
        name = normalise_line(asked.name, what="the name", limit=NAME_CODE_POINTS)
    except TextRefused as refused:
        raise text_refused("name", refused) from None
    try:
        email = None if asked.email is None else check_email(asked.email)
    except TextRefused as refused:
        raise text_refused("email", refused) from None
    sub = f"{GUEST}{uuid.uuid4()}"
    token = _token(here.site, sub, name, email)
    return web.Response(
        status=201,
        body=b'{"token":"%b","author":%b}' % (token.encode(), author_fragment(sub, name, None)),
        content_type="application/json",
        headers={hdrs.CACHE_CONTROL: "private, no-store"},
    )


def _token(site: Site, sub: str, name: str, email: str | None) -> str:
    assert site.guest_secret is not None  # every site that was read from the database has one
    claims = {"iss": site.name, "sub": sub, "name": name, "exp": int(time.time()) + LIFETIME}
    return sign(site.guest_secret, claims if email is None else claims | {"email": email})
