"""What the caller wants to be told of, and where their mail goes."""

from __future__ import annotations

from itertools import count
from typing import Any, Final

import orjson
from aiohttp import web

from services.api.answers import own
from services.api.bodies import PreferencesChange, body_of
from services.api.context import Visit, visit
from services.api.deps import API, Api
from services.api.problems import text_refused
from services.api.queries import NoQuery, query_of
from services.core.commands import GUEST
from services.core.text import SUB_CODE_POINTS, TextRefused, check_email, normalise_line
from services.eventlog.contacts import Contact
from services.eventlog.preferences import REASONS, Preferences

_ROW: Final = frozenset({"mail", "reasons", "quiet", "blocked"})


async def show(request: web.Request) -> web.Response:
    """The caller's preferences, the defaults where they said nothing."""
    api = request.app[API]
    here = await visit(request)
    caller = here.signed_in()
    query_of(request, NoQuery)
    wanted = await api.preferences.of(here.site.name, caller.id)
    return await _answer(api, here, caller.id, wanted)


async def change(request: web.Request) -> web.Response:
    """Change what is named, and leave the rest."""
    api = request.app[API]
    here = await visit(request)
    caller = here.writer()
    query_of(request, NoQuery)
    asked, _ = await body_of(request, PreferencesChange)
    changes: dict[str, Any] = asked.model_dump(include=set(_ROW), exclude_unset=True, by_alias=True)
    if asked.blocked is not None:
        changes["blocked"] = list(dict.fromkeys(map(_person, count(), asked.blocked)))
    email = None if asked.email is None else _address(asked.email)
    wanted = await api.preferences.change(here.site.name, caller.id, changes)
    if "email" in asked.model_fields_set:
        await _mail_to(api, here.site.name, caller.id, email)
    return await _answer(api, here, caller.id, wanted)


async def _mail_to(api: Api, site: str, author_id: str, email: str | None) -> None:
    """Mail goes to this address once it is confirmed; where the site vouches for it, from now on."""
    vouched = {one.email for one in await api.contacts.all(site, author_id) if one.source == "token"}
    if email is None or email in vouched:
        await api.contacts.remove(site, author_id, "given")
        return
    await api.contacts.keep(site, author_id, "given", email)
    if api.settings.sends_mail:
        await api.contacts.ask(site, author_id, email)


async def _answer(api: Api, here: Visit, author_id: str, wanted: Preferences) -> web.Response:
    contacts = {one.source: one for one in await api.contacts.all(here.site.name, author_id)}
    token, given = contacts.get("token"), contacts.get("given")
    shown = given or token
    # A guest's token says whatever they typed, which counts once it is confirmed.
    vouched = given if author_id.startswith(GUEST) and given is not None and given.confirmed else token
    body = {
        "email": None if shown is None else shown.email,
        "email_state": None if shown is None else _state(shown),
        "mail": wanted.mail or ("off" if vouched is None or vouched.refused else "hourly"),
        "reasons": {**REASONS, **wanted.reasons},
        "quiet": wanted.quiet,
        "blocked": wanted.blocked,
    }
    return own(orjson.dumps(body))


def _state(contact: Contact) -> str:
    if contact.refused:
        return "refused"
    if contact.source == "token":
        return "token"
    return "confirmed" if contact.confirmed else "unconfirmed"


def _address(raw: str) -> str:
    try:
        return check_email(raw)
    except TextRefused as refused:
        raise text_refused("email", refused) from None


def _person(place: int, raw: str) -> str:
    try:
        return normalise_line(raw, what="an id", limit=SUB_CODE_POINTS)
    except TextRefused as refused:
        raise text_refused(f"blocked.{place}", refused) from None
