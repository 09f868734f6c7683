"""What the handlers stand on, given to the application by whoever makes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import structlog
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from services.api.auth import Verifier
from services.api.client_address import ClientAddresses
from services.api.cursors import Cursors
from services.api.deadlines import Deadlines
from services.api.limits.limiter import Limiter
from services.api.live.hub import Hub
from services.api.live.inboxes import Inboxes
from services.api.metrics import Metrics
from services.api.pages.memory import PageMemory
from services.api.pages.shortcut import Counts, Shortcut
from services.api.token_addresses import TokenAddresses
from services.eventlog.appenders import Appenders
from services.eventlog.contacts import Contacts
from services.eventlog.erasures import Erasures
from services.eventlog.inbox import Inbox
from services.eventlog.keys import Keyring, MasterKey
from services.eventlog.lists import Lists
from services.eventlog.log import EventLog
from services.eventlog.maillinks import MailLinks
from services.eventlog.preferences import AllPreferences
from services.eventlog.sites import Sites
from services.eventlog.subscriptions import Subscriptions
from services.projection.logpages import LogPages
from services.projection.reader import ThreadReader
from services.settings import Settings

Check = Callable[[], Awaitable[None]]
"""Asks a dependency whether it is usable; raises what it raises where it is not."""


@dataclass(slots=True)
class Drain:
    """Whether the process takes its leave: `/readyz` is 503 from then on."""

    begun: bool = False


def access_log() -> FilteringBoundLogger:
    """The log of requests, as structlog is configured now."""
    log: FilteringBoundLogger = structlog.get_logger("threadlog.access").bind()
    return log


@dataclass(frozen=True, slots=True)
class Api:
    """Everything that a request may need."""

    settings: Settings
    sites: Sites
    log: EventLog
    keyring: Keyring
    appenders: Appenders
    reader: ThreadReader
    pages: PageMemory
    log_pages: LogPages
    inbox: Inbox
    inboxes: Inboxes
    erasures: Erasures
    pool: asyncpg.Pool[Any]
    master: MasterKey
    metrics: Metrics
    limiter: Limiter
    live: Hub
    postgres: Check
    redis: Check
    drain: Drain = field(default_factory=Drain)
    verifier: Verifier = field(default_factory=Verifier)
    deadlines: Deadlines = field(default_factory=Deadlines)
    access: FilteringBoundLogger = field(default_factory=access_log)
    """A line for each request. Bound once: the proxy that structlog gives is bound anew for every line."""
    body_timeout: float = 20.0
    """Seconds that a request's body may take to arrive."""
    inbox_seconds: float = 2.0
    """Seconds after which an inbox is answered with the notifications whose comments were read by then."""
    addresses: ClientAddresses = field(init=False)
    cursors: Cursors = field(init=False)
    lists: Lists = field(init=False)
    subscriptions: Subscriptions = field(init=False)
    preferences: AllPreferences = field(init=False)
    contacts: Contacts = field(init=False)
    mail_links: MailLinks = field(init=False)
    token_addresses: TokenAddresses = field(init=False)
    counts: Counts = field(init=False)
    shortcut: Shortcut = field(init=False)
    idempotency_key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "addresses", ClientAddresses(self.settings.trusted_proxies))
        object.__setattr__(self, "cursors", Cursors(self.master.derived("cursor")))
        object.__setattr__(self, "lists", Lists(self.pool))
        object.__setattr__(self, "subscriptions", Subscriptions(self.pool))
        object.__setattr__(self, "preferences", AllPreferences(self.pool))
        contacts = Contacts(self.pool, self.keyring)
        object.__setattr__(self, "contacts", contacts)
        object.__setattr__(self, "mail_links", MailLinks(self.master))
        addresses = TokenAddresses(contacts, asks=self.settings.sends_mail)
        object.__setattr__(self, "token_addresses", addresses)
        counts = Counts(self.metrics, self.access)
        object.__setattr__(self, "counts", counts)
        shortcut = Shortcut(self.pages, counts, self.sites.kept, lambda: self.drain.begun)
        object.__setattr__(self, "shortcut", shortcut)
        object.__setattr__(self, "idempotency_key", self.master.derived("idempotency"))


API: Final = web.AppKey("api", Api)
