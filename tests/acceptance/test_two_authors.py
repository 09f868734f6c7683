"""Two authors talk, and each hears of the other once: in the inbox, on the stream, by mail and by webhook."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
from pydantic import SecretStr

from tests.inboxes import Follower, following
from tests.mailbox import BASE, FROM, Mailbox, mailbox, part
from tests.processes import SECRET, Answer, S, Threadlog, threadlog, until
from tests.receiving import LOOPBACK, Receiver, receiving
from tests.writer import SITE

AUTHORS = ("ann", "bob")


@dataclass(slots=True)
class Scene:
    """An API, a worker, a mail server, and the site's own receiver of webhooks."""

    log: Threadlog
    box: Mailbox
    receiver: Receiver
    secret: str

    def token(self, sub: str) -> str:
        """What the site signs for somebody whose address it knows."""
        claims = {"iss": SITE, "sub": sub, "name": sub.title(), "email": f"{sub}@example.org"}
        return jwt.encode(claims | {"exp": int(time.time()) + 3600}, SECRET, algorithm="HS256")

    async def ask(self, sub: str, method: str, path: str, body: object = None) -> Answer:
        """A request of theirs, which must succeed."""
        signed = {"Authorization": f"Bearer {self.token(sub)}"}
        answer = await self.log.client.send(method, S + path, body, headers=signed)
        assert answer.status < 300, answer
        return answer

    async def say(self, sub: str, text: str, to: str | None = None) -> str:
        """Post a comment; its id."""
        body: dict[str, object] = {
            "body": text,
            "thread": {"title": "Talk therapy", "url": "https://blog.example/t"},
        }
        if to is not None:
            body["parent_id"] = to
        return str((await self.ask(sub, "POST", "/threads/t/comments", body)).json["id"])

    async def inbox(self, sub: str) -> list[tuple[str, str, str]]:
        """What they were told of: the reason, who, and the text."""
        answer = await self.ask(sub, "GET", "/me/notifications")
        return [(one["reason"], one["actor"]["id"], one["comment"]["body"]) for one in answer.json["items"]]


@pytest.fixture
async def scene(database_url: str, redis_url: str, broker_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        box = await stack.enter_async_context(mailbox())
        receiver = await stack.enter_async_context(receiving())
        log = await stack.enter_async_context(threadlog(database_url, redis_url, broker_url, tmp_path))
        log.settings = log.settings.model_copy(
            update={
                "smtp_url": SecretStr(box.url),
                "mail_from": FROM,
                "public_url": BASE,
                "webhook_allow_private": (LOOPBACK,),
            }
        )
        code, out, err = await log.run("site", "webhook", "add", SITE, f"{receiver.url}/hook")
        assert code == 0, err
        secret = next(word for word in out.split() if word.startswith("whsec_"))
        await log.api()
        log.worker()
        yield Scene(log, box, receiver, secret)


async def test_two_authors_hear_of_each_other(scene: Scene) -> None:
    for author in AUTHORS:
        await scene.ask(author, "PATCH", "/me/preferences", {"mail": "now"})
    streams = {
        author: Follower([scene.log.client.base], f"{S}/me/notifications/live", scene.token(author))
        for author in AUTHORS
    }

    def has_two(follower: Follower) -> bool:
        return len(follower.seen) >= 2

    async with following(streams["ann"], has_two), following(streams["bob"], has_two):
        root = await scene.say("ann", "Does it *help*?")
        answer = await scene.say("bob", "It did help me.", root)
        question = await scene.say("ann", "For how long?", answer)
        await scene.say("bob", "A year, @Ann.", question)
        await scene.say("ann", "Thank you, @[bob]!")

    told = {
        "ann": [("reply", "bob", "A year, @Ann."), ("reply", "bob", "It did help me.")],
        "bob": [("mention", "ann", "Thank you, @[bob]!"), ("reply", "ann", "For how long?")],
    }
    ids: dict[str, list[str]] = {}
    for author in AUTHORS:
        assert await scene.inbox(author) == told[author]
        items = (await scene.ask(author, "GET", "/me/notifications")).json["items"]
        ids[author] = [one["id"] for one in reversed(items)]
        assert streams[author].seen == ids[author], "the stream tells the same, in the order of the inbox"

    async def mails() -> dict[str, list[str]]:
        return {
            author: [
                part(mail, "plain")
                for mail, (_, to) in zip(scene.box.mails, scene.box.envelopes, strict=True)
                if to == [f"{author}@example.org"]
            ]
            for author in AUTHORS
        }

    by_mail = await until(mails, "four mails", lambda found: sum(map(len, found.values())) >= 4)
    for author in AUTHORS:
        for _, _, text in told[author]:
            assert [text in mail for mail in by_mail[author]].count(True) == 1, (text, by_mail[author])
    assert len(set(scene.box.ids)) == 4

    async def hooked() -> list[tuple[str, str]]:
        bodies = [got.opened(scene.secret)["data"] for got in scene.receiver.got]
        return sorted((one["event_id"], each["id"]) for one in bodies for each in one["recipients"])

    items = {
        author: (await scene.ask(author, "GET", "/me/notifications")).json["items"] for author in AUTHORS
    }
    expected = sorted((one["event_id"], author) for author in AUTHORS for one in items[author])
    assert await until(hooked, "four webhooks", lambda found: len(found) >= 4) == expected

    # Nothing follows: all that was to be delivered was, and once.
    async def waiting() -> int:
        return int(
            await scene.log.parts.pool.fetchval("select count(*) from deliveries where state <> 'sent'")
        )

    await until(waiting, "nothing waits", lambda count: count == 0)
    assert len(scene.box.mails) == 4
    assert await hooked() == expected


async def test_a_guest_is_told_by_mail_once_they_have_confirmed_their_address(scene: Scene) -> None:
    client, pool = scene.log.client, scene.log.parts.pool
    changed = await client.send("PATCH", f"{S}/settings", {"guests": True}, sub="root", roles=("admin",))
    assert changed.status == 200
    joined = await client.send("POST", f"{S}/guests", {"name": "Gil", "email": "gil@example.org"})
    signed = {"Authorization": f"Bearer {joined.json['token']}"}
    path = f"{S}/threads/t/comments"
    asked = await client.send("POST", path, {"body": "May a guest ask?"}, headers=signed)
    assert asked.status == 201, asked.raw

    async def to_gil() -> list[str]:
        envelopes = zip(scene.box.mails, scene.box.envelopes, strict=True)
        return [part(mail, "plain") for mail, (_, to) in envelopes if to == ["gil@example.org"]]

    # Nobody is written to but to be asked whether the address is theirs.
    await scene.say("ann", "Before you confirmed.", asked.json["id"])
    (question,) = await until(to_gil, "gil is asked", lambda found: len(found) >= 1)
    await until(
        lambda: pool.fetchval("select version from notifier_checkpoints"),
        "ann's reply was told, to whom it may be",
        lambda version: version == 2,
    )
    link = re.search(rf"{re.escape(BASE)}(/v1/sites/{SITE}/confirm\?token=\S+)", question)
    assert link is not None, question
    assert (await client.send("POST", link[1])).status == 200

    await scene.say("bob", "They may, @Gil.", asked.json["id"])

    async def entered() -> int:
        return int(
            await pool.fetchval(
                "update deliveries set next_at = now() where kind = 'digest' and state = 'pending' "
                "and next_at > now() returning 1"
            )
            or 0
        )

    await until(entered, "the hour's mail is entered, and due", lambda count: count == 1)
    mails = await until(to_gil, "gil is told", lambda found: len(found) >= 2)
    assert "They may, @Gil." in mails[1]
    assert "Before you confirmed." not in mails[1]
    assert len(mails) == 2
