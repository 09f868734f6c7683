"""Mail: what a delivery tells of, as it stands now, in the words of the site, handed to the mail server.

Everything is looked at again when a mail is sent: whether it is still wanted, where it goes, what may still
be shown. What is fixed is which mail it is, by its Message-ID, and of which notifications a digest tells.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.headerregistry import Address
from typing import Any, Final
from uuid import UUID

import orjson
from markupsafe import Markup

from services.core.node import decode
from services.core.pagejson import Reader, is_shown
from services.core.quiet import quiet_until
from services.core.recipients import Reason
from services.errors import PoisonEvent, StreamBroken, TemplateRefused, ThreadParked
from services.eventlog.contacts import Contacts
from services.eventlog.deliveries import MAIL, Again, Dead, Delivery, Dropped, Later, Outcome
from services.eventlog.mailing import Mailing, SiteTemplates, Told
from services.eventlog.maillinks import MailLinks
from services.eventlog.preferences import AllPreferences
from services.eventlog.sites import Site, Sites
from services.language.phrases import phrases
from services.language.rendering import PARTS, render, render_own
from services.projection.reader import OneComment, ThreadReader
from services.wiring import Resources
from services.workers.channels.letters import Letter, address_of, one_line, written
from services.workers.channels.smtp import MailServer, Refused

_log = logging.getLogger(__name__)

_UNREADABLE: Final = (ThreadParked, PoisonEvent, StreamBroken)
_NOTHING_LEFT: Final = Dropped("nothing of it may be shown any more")
_GONE: Final = Dropped("there is no address to send it to")

Values = Mapping[str, Any]


class MailChannel:
    """Sends mails."""

    name = MAIL

    def __init__(
        self,
        server: MailServer,
        *,
        sites: Sites,
        contacts: Contacts,
        preferences: AllPreferences,
        mailing: Mailing,
        templates: SiteTemplates,
        reader: ThreadReader,
        links: MailLinks,
        sender: str,
        base: str,
    ) -> None:
        """`sender` is the address that mails come from; links begin with `base`."""
        self._server = server
        self._sites = sites
        self._contacts = contacts
        self._preferences = preferences
        self._mailing = mailing
        self._templates = templates
        self._reader = reader
        self._links = links
        self._sender = sender
        self._domain = sender.rpartition("@")[2]
        self._base = base

    @property
    def at_once(self) -> int:
        """How many may be sent at once: none while the mail server is left alone."""
        return self._server.room

    async def close(self) -> None:
        """Take leave of the mail server."""
        await self._server.close()

    async def send(self, delivery: Delivery) -> Outcome:
        """Send one mail."""
        site = await self._sites.get(delivery.site)
        if site is None:
            return Dropped("there is no such site any more")
        match delivery.kind:
            case "notification" | "digest":
                return await self._tell(delivery, site)
            case "confirmation":
                return await self._ask(delivery, site)
            case "endpoint-off":
                return await self._warn(delivery, site)
            case kind:
                return Dead(f"this release knows no mail of the kind {kind}")

    async def _tell(self, delivery: Delivery, site: Site) -> Outcome:
        """Tell somebody of what happened."""
        assert delivery.recipient_id is not None
        wants = await self._preferences.of(site.name, delivery.recipient_id)
        if wants.mail == "off":
            return Dropped("mail was turned off")
        contact = await self._contacts.usable(site.name, delivery.recipient_id)
        if contact is None:
            return _GONE
        if wants.quiet is not None and (end := quiet_until(wants.quiet, datetime.now(UTC))) is not None:
            return Later(end)
        made = await self._told(delivery, site, delivery.recipient_id)
        if not isinstance(made, Letter):
            return made
        outcome = await self._post(delivery, site, contact.email, made)
        if isinstance(outcome, Refused):
            await self._contacts.refused(site.name, delivery.recipient_id, contact.mac)
        return outcome

    async def _told(self, delivery: Delivery, site: Site, recipient: str) -> Letter | Outcome:
        """The mail about notifications, or why there is none."""
        if delivery.kind == "notification":
            found = await self._mailing.notification(delivery, UUID(delivery.about["notification_id"]))
            if found is None:
                return Dropped("another mail told of it")
            told, total = [found[0]], 1
            if found[1]:
                return Dropped("it was read before it was sent")
        else:
            told, total = await self._mailing.digest(delivery)
            if not told:
                return Dropped("all of it was read, or told of by another mail")
        items, parked = await self._items(site, recipient, told)
        if not items:
            return Again("the thread cannot be read just now") if parked else _NOTHING_LEFT
        thread = told[0].stream_id if len({one.stream_id for one in told}) == 1 else None
        token = self._links.unsubscribe(site.name, recipient, thread)
        unsubscribe = f"{self._base}/v1/sites/{site.name}/unsubscribe?token={token}"
        headers = {
            "List-Id": f"<{site.name}.{self._domain}>",
            "List-Unsubscribe": f"<{unsubscribe}>",
            # The standard takes it with https alone (RFC 8058, section 3.1).
            **({"List-Unsubscribe-Post": "List-Unsubscribe=One-Click"} if self._is_safe else {}),
        }
        given: dict[str, Any] = {"unsubscribe_url": unsubscribe}
        if delivery.kind == "notification":
            root = f"<thread.{told[0].stream_id}@{self._domain}>"
            headers |= {"In-Reply-To": root, "References": root}
            given["item"] = items[0]
        else:
            given |= {"items": items, "count": total, "more": max(0, total - len(told))}
        return await self._letter(site, delivery.kind, given, headers)

    @property
    def _is_safe(self) -> bool:
        return self._base.startswith("https://")

    async def _items(
        self, site: Site, recipient: str, told: Sequence[Told]
    ) -> tuple[list[dict[str, Any]], bool]:
        """What may be shown, and whether a thread cannot be read just now."""
        shown = await self._mailing.to_be_shown(recipient, told)
        wanted = [one for one in told if one.comment_id in shown]
        comments: dict[UUID, OneComment] = {}
        parked = False
        for stream_id in dict.fromkeys(one.stream_id for one in wanted):
            ids = [one.comment_id for one in wanted if one.stream_id == stream_id]
            try:
                comments |= await self._reader.comments(stream_id, ids)
            except _UNREADABLE:
                parked = True
        reader = Reader(recipient)
        items = [
            _item(site, one, found, text=is_shown(found.picked.raw, reader))
            for one in wanted
            if (found := comments.get(one.comment_id)) is not None
            and (is_shown(found.picked.raw, reader) or one.reason == Reason.MODERATION)
        ]
        return items, parked

    async def _ask(self, delivery: Delivery, site: Site) -> Outcome:
        """Ask somebody whether an address is theirs."""
        assert delivery.recipient_id is not None
        author = delivery.recipient_id
        given = {one.source: one for one in await self._contacts.all(site.name, author)}.get("given")
        if given is None or given.mac != delivery.about.get("address") or given.refused:
            return _GONE
        if given.confirmed:
            return Dropped("it is confirmed already")
        token = self._links.confirm(site.name, author, given.mac)
        values = {"confirm_url": f"{self._base}/v1/sites/{site.name}/confirm?token={token}"}
        letter = await self._letter(site, delivery.kind, values, {})
        outcome = await self._post(delivery, site, given.email, letter)
        if isinstance(outcome, Refused):
            await self._contacts.refused(site.name, author, given.mac)
        return outcome

    async def _warn(self, delivery: Delivery, site: Site) -> Outcome:
        """Tell an endpoint's owner that it was switched off."""
        assert delivery.endpoint_id is not None
        found = await self._mailing.switched_off(site.name, delivery.endpoint_id)
        if found is None:
            return Dropped("it is switched on again, or gone")
        if found.owner is None:
            return _GONE
        values = {"endpoint_url": found.url, "reason": found.reason}
        letter = await self._letter(site, delivery.kind, values, {})
        return await self._post(delivery, site, found.owner, letter)

    async def _letter(self, site: Site, kind: str, given: Values, headers: Mapping[str, str]) -> Letter:
        """The mail from templates: the site's own, and ours where it has none, or none that works."""
        values = {**given, "site": site.name, "language": site.settings.language}
        own = {name: source for name, source, _ in await self._templates.all(site.name)}
        names = [f"{kind}.{part}" for part in PARTS]
        subject, text, html = [_rendered(site, name, own.get(name), values) for name in names]
        return Letter(subject, text, html, headers)

    async def _post(self, delivery: Delivery, site: Site, email: str, letter: Letter) -> Outcome:
        to = address_of(email)
        if to is None:
            return Refused("it is no mail address")
        sender = Address(one_line(site.name), addr_spec=self._sender)
        headers = {"Message-ID": f"<{delivery.id}@{self._domain}>", **letter.headers}
        whole = Letter(letter.subject, letter.text, letter.html, headers)
        mail = written(whole, sender, to, datetime.now(UTC))
        return await self._server.send(to.addr_spec, mail, utf8=not to.addr_spec.isascii())


@asynccontextmanager
async def mails(made: Resources, away: Callable[[bool], object] = bool) -> AsyncIterator[MailChannel]:
    """The channel of a process whose settings have it send mail. `away` is told when the mail server is left
    alone, and when it answers again."""
    settings = made.settings
    assert settings.smtp_url is not None
    assert settings.mail_from is not None
    assert settings.public_url is not None
    channel = MailChannel(
        MailServer(settings.smtp_url.get_secret_value(), settings.mail_from, away=away),
        sites=made.sites,
        contacts=Contacts(made.pool, made.keyring),
        preferences=AllPreferences(made.pool),
        mailing=Mailing(made.pool),
        templates=SiteTemplates(made.pool),
        reader=made.reader,
        links=MailLinks(made.master),
        sender=settings.mail_from,
        base=settings.public_url,
    )
    try:
        yield channel
    finally:
        await channel.close()


def _rendered(site: Site, name: str, own: str | None, values: Values) -> str:
    if own is not None:
        try:
            return render_own(name, own, values)
        except TemplateRefused as error:
            # Checked when it was stored, against a sample; a mail is not lost for what that did not show.
            _log.warning("site %s has a template that fails: %s", site.name, error)
    return render(name, site.settings.language, values)


def _item(site: Site, told: Told, found: OneComment, *, text: bool) -> dict[str, Any]:
    """A notification as templates show it, with the comment's `text` where that may be seen."""
    node = decode(found.picked.raw)
    author = orjson.loads(node.author)
    said = orjson.loads(b"{%b}" % node.text) if text else {"body": "", "html": ""}
    name = None if author is None else one_line(author["name"] or "")
    head = found.head
    return {
        "sentence": phrases(site.settings.language).told(told.reason, name),
        "actor": name,
        "reason": told.reason,
        "title": one_line(head.title or head.key),
        "url": _permalink(site.settings.comment_url, head.url, node.id),
        "body": said["body"],
        "html": Markup(said["html"]),  # noqa: S704 - our own renderer's, which escapes what it does not write
        "created_at": node.created_at,
    }


def _permalink(comment_url: str, url: str | None, comment_id: UUID) -> str | None:
    if url is None:
        return None
    return str(comment_id).join(piece.replace("{url}", url) for piece in comment_url.split("{id}"))
