"""The pages that links in mails lead to: confirm an address, get fewer mails or none.

Whoever holds the mail may: no sign-in, no script. Opening a link changes nothing, since programs that look
through mails open all of them; a press of a button does, and so does the POST of a mail program's own button
(RFC 8058).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

from aiohttp import hdrs, web

from services.api.bodies import raw_body
from services.api.context import Visit, visit
from services.api.deps import API
from services.api.headers import CSP
from services.api.problems import invalid
from services.api.queries import LinkQuery, query_of
from services.eventlog.preferences import Mode
from services.language.rendering import render

MEDIA: Final = "text/html"
_CSP: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_FORM: Final = "application/x-www-form-urlencoded"
_MODES: Final[dict[str, Mode]] = {"off": "off", "hourly": "hourly", "daily": "daily", "weekly": "weekly"}
_MUTE: Final = "mute"


async def show_confirm(request: web.Request) -> web.Response:
    """Ask for a press of the button."""
    here = await visit(request, any_media=True)
    token = query_of(request, LinkQuery).token
    if request.app[API].mail_links.confirming(here.site.name, token) is None:
        return _page(here, "gone.html", status=410)
    return _page(here, "confirm.html", done=False)


async def confirm(request: web.Request) -> web.Response:
    """Count an address from now on."""
    api = request.app[API]
    here = await visit(request, any_media=True)
    asked = api.mail_links.confirming(here.site.name, query_of(request, LinkQuery).token)
    await raw_body(request)
    if asked is None or not await api.contacts.confirm(here.site.name, asked.author_id, asked.mac):
        return _page(here, "gone.html", status=410)
    return _page(here, "confirm.html", done=True)


async def show_unsubscribe(request: web.Request) -> web.Response:
    """Offer what may be chosen."""
    here = await visit(request, any_media=True)
    asked = request.app[API].mail_links.unsubscribing(here.site.name, query_of(request, LinkQuery).token)
    if asked is None:
        return _page(here, "gone.html", status=410)
    return _page(here, "unsubscribe.html", done="", thread=asked.thread is not None)


async def unsubscribe(request: web.Request) -> web.Response:
    """End somebody's mails, or do what else they chose."""
    api = request.app[API]
    here = await visit(request, any_media=True)
    site = here.site.name
    asked = api.mail_links.unsubscribing(site, query_of(request, LinkQuery).token)
    chosen = _choice(request.content_type, await raw_body(request))
    if asked is None:
        return _page(here, "gone.html", status=410)
    if chosen == _MUTE and asked.thread is not None:
        await api.subscriptions.put(site, asked.thread, asked.author_id, "muted")
    elif chosen in _MODES:
        await api.preferences.change(site, asked.author_id, {"mail": _MODES[chosen]})
    else:
        raise invalid(
            "choice", "takes off, hourly, daily, weekly, or mute where the mail is about one thread"
        )
    return _page(here, "unsubscribe.html", done=chosen, thread=asked.thread is not None)


def _choice(media: str, body: bytes) -> str:
    """What was chosen: no mails, where nothing else is said. So it is with a mail program's own POST."""
    if media != _FORM:
        return "off"
    try:
        return parse_qs(body.decode("ascii"), max_num_fields=10).get("choice", ["off"])[0]
    except ValueError:
        return "off"


def _page(here: Visit, name: str, *, status: int = 200, **given: object) -> web.Response:
    text = render(name, here.site.settings.language, {"site": here.site.name, **given})
    return web.Response(
        status=status,
        text=text,
        content_type=MEDIA,
        charset="utf-8",
        headers={hdrs.CACHE_CONTROL: "private, no-store", CSP: _CSP},
    )
