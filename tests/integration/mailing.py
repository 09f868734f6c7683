"""A site whose readers get mail: real API, real Postgres, real mail server, and the channel between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

from services.core.addresses import thread_stream_id
from services.eventlog.contacts import Contacts
from services.eventlog.deliveries import Deliveries, Delivery, Outcome
from services.eventlog.mailing import Mailing, SiteTemplates
from services.eventlog.maillinks import MailLinks
from services.eventlog.preferences import AllPreferences
from services.workers.channels.mail import MailChannel
from services.workers.channels.smtp import MailServer
from services.workers.notifier import Notifier
from tests.integration.api_client import SITE, Client, client_of
from tests.mailbox import BASE, FROM, Mailbox, mailbox

STORY = thread_stream_id(SITE, "story")
TITLE = "Talk & therapy"
URL = "https://news.example/story"


@dataclass(slots=True)
class Post:
    """What the tests of mail stand on. `ann@example.org` is vouched for by her token."""

    client: Client
    box: Mailbox
    server: MailServer
    channel: MailChannel

    @property
    def pool(self) -> Any:
        return self.client.running.resources.pool

    @property
    def contacts(self) -> Contacts:
        return Contacts(self.pool, self.client.running.resources.keyring)

    @property
    def preferences(self) -> AllPreferences:
        return AllPreferences(self.pool)

    @property
    def templates(self) -> SiteTemplates:
        return SiteTemplates(self.pool)

    async def talk(self, *bodies: str, by: str = "bob", thread: str = "story") -> list[Any]:
        """Ann posts, once, and others reply to her; the replies."""
        at = f"/v1/sites/{SITE}/threads/{thread}"
        body = {"body": "a question", "thread": {"title": TITLE, "url": URL}}
        first = await self.client.send("POST", f"{at}/comments", body, sub="ann")
        assert first.status == 201, first.raw
        return [await self.client.post(one, to=first.json["id"], sub=by, at=at) for one in bodies]

    async def told(self, thread: str = "story") -> None:
        """The notifier tells of all that was posted."""
        notifier = Notifier(self.pool, self.client.running.resources.keyring, mails=True)
        await notifier.notify(thread_stream_id(SITE, thread))

    async def entered(self) -> list[dict[str, Any]]:
        rows = await self.pool.fetch("select * from deliveries order by next_at, created_at, delivery_id")
        return [dict(row) for row in rows]

    async def due(self) -> list[Delivery]:
        """Claim all that was entered, as if it were due."""
        await self.pool.execute("update deliveries set next_at = now() where state = 'pending'")
        return await Deliveries(self.pool).claim("mail", 100, 60)

    async def sent(self) -> list[Outcome]:
        """Claim all, send it and record what came of it."""
        outcomes = []
        for delivery in await self.due():
            outcomes.append(await self.channel.send(delivery))
            await Deliveries(self.pool).record(delivery, outcomes[-1], 0.5)
        return outcomes

    async def one(self) -> EmailMessage:
        """Send all, of which one mail comes."""
        await self.sent()
        [mail] = self.box.mails
        return mail

    async def confirmation(self, author: str, email: str) -> None:
        """Somebody gives an address, and is asked whether it is theirs."""
        await self.contacts.keep(SITE, author, "given", email)
        assert await self.contacts.ask(SITE, author, email)


@asynccontextmanager
async def post_of(
    database_url: str, redis_url: str, broker_url: str, *, step: float = 10.0
) -> AsyncIterator[Post]:
    """All of it."""
    async with AsyncExitStack() as stack:
        box = await stack.enter_async_context(mailbox())
        given = {"smtp_url": box.url, "mail_from": FROM, "public_url": BASE}
        client = await stack.enter_async_context(
            client_of(database_url, redis_url, broker_url, unlimited=True, **given)
        )
        made = client.running.resources
        server = MailServer(box.url, FROM, step=step)
        contacts = Contacts(made.pool, made.keyring)
        channel = MailChannel(
            server,
            sites=made.sites,
            contacts=contacts,
            preferences=AllPreferences(made.pool),
            mailing=Mailing(made.pool),
            templates=SiteTemplates(made.pool),
            reader=made.reader,
            links=MailLinks(made.master),
            sender=FROM,
            base=BASE,
        )
        stack.push_async_callback(channel.close)
        await contacts.keep(SITE, "ann", "token", "ann@example.org")
        yield Post(client, box, server, channel)
