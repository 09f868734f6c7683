"""A thread of a real log, in which anything may happen: for tests of what follows the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal
from uuid import UUID

from services.core.addresses import site_stream_id, thread_stream_id
from services.core.commands import (
    Action,
    Actor,
    ChangeSettings,
    ChangeThread,
    DeleteComment,
    Description,
    EditComment,
    ModerateComment,
    PostComment,
    ReportComment,
    Sealed,
    VoteComment,
)
from services.errors import Refusal
from services.eventlog.appenders import Appenders
from services.eventlog.batch import Appended
from services.eventlog.keys import Keyring
from services.settings import Settings
from services.wiring import Resources
from tests.writer import MASTER_KEY, SITE, new_id

PEOPLE = ("ann", "bob", "cem", "dee")
THRESHOLD = 2


@dataclass(slots=True)
class Talk:
    """One thread of SITE. Its verbs give what was appended, and raise what the log refuses with."""

    appenders: Appenders
    keyring: Keyring
    key: str = "talk"
    ids: list[UUID] = field(default_factory=list)
    """The comments, in the order of their posting."""

    @property
    def stream_id(self) -> UUID:
        return thread_stream_id(SITE, self.key)

    def _at(self, author: str, *, moderator: bool = False) -> dict[str, Any]:
        return {
            "site": SITE,
            "stream_id": self.stream_id,
            "key": self.key,
            "event_id": new_id(),
            "actor": Actor(author, moderator),
        }

    async def _seal(self, author: str, event_id: UUID, text: dict[str, str]) -> Sealed:
        key = await self.keyring.for_author(SITE, author)
        return key.sealed(event_id, self.stream_id, text)

    async def post(
        self, author: str = "ann", body: str = "as *written*", *, to: UUID | None = None, title: str = ""
    ) -> UUID:
        """Post a comment, below `to` where it is given; its id."""
        at = self._at(author)
        text = await self._seal(author, at["event_id"], {"body": body, "name": author.title()})
        describe = Description(title, None) if title else None
        posted = await self.appenders.submit(PostComment(**at, text=text, parent_id=to, describe=describe))
        self.ids.append(posted.event_id)
        return posted.event_id

    async def edit(self, comment: UUID, body: str, *, author: str = "ann", revision: int = 1) -> Appended:
        """Give a comment of `author` a new text."""
        at = self._at(author)
        text = await self._seal(author, at["event_id"], {"body": body})
        return await self.appenders.submit(
            EditComment(**at, comment_id=comment, revision=revision, text=text)
        )

    async def delete(self, comment: UUID, *, author: str = "ann", moderator: bool = False) -> Appended:
        """Take a comment back, or remove another's."""
        return await self.appenders.submit(
            DeleteComment(**self._at(author, moderator=moderator), comment_id=comment)
        )

    async def report(self, comment: UUID, *, author: str = "dee") -> Appended:
        """Report a comment; the second report hides it."""
        return await self.appenders.submit(
            ReportComment(**self._at(author), comment_id=comment, reason="spam")
        )

    async def moderate(self, comment: UUID, action: Action, reason: str = "", *, of: str = "ann") -> Appended:
        """Decide about a comment of author `of`, whose key seals the reason."""
        at = self._at("mod", moderator=True)
        sealed = await self._seal(of, at["event_id"], {"reason": reason}) if reason else None
        return await self.appenders.submit(
            ModerateComment(**at, comment_id=comment, action=action, reason=sealed)
        )

    async def vote(self, comment: UUID, value: Literal[-1, 0, 1] = 1, *, author: str = "bob") -> Appended:
        """Vote on a comment, change the vote or withdraw it (0)."""
        return await self.appenders.submit(VoteComment(**self._at(author), comment_id=comment, value=value))

    async def describe(self, title: str, *, closed: bool | None = None) -> Appended:
        """Name the thread; close or reopen it."""
        at = self._at("mod", moderator=True)
        return await self.appenders.submit(ChangeThread(**at, describe={"title": title}, closed=closed))

    async def anything(self, chance: Random) -> None:
        """Whatever comes to somebody's mind; what the rules refuse is let be."""
        author = chance.choice(PEOPLE)
        comment = chance.choice(self.ids) if self.ids else None
        try:
            match chance.randrange(16) if comment is not None else 0:
                case 7 | 8:
                    assert comment is not None
                    await self.edit(comment, f"in other words, {chance.random()}", author=author)
                case 9:
                    assert comment is not None
                    await self.delete(comment, author=author, moderator=chance.random() < 0.5)
                case 10:
                    assert comment is not None
                    await self.report(comment, author=author)
                case 11 | 12:
                    assert comment is not None
                    await self.vote(comment, chance.choice((-1, 0, 1)), author=author)
                case 14 | 15:
                    assert comment is not None
                    action: Action = chance.choice(("approve", "hide", "restore", "restore", "remove"))
                    await self.moderate(comment, action)
                case 13:
                    await self.describe(f"about {chance.random()}")
                case 0 | 1:
                    await self.post(author, f"to all, {chance.random()}")
                case _:
                    await self.post(author, f"to you, {chance.random()}", to=comment)
        except Refusal:
            return


def settings_of(database_url: str, redis_url: str) -> Settings:
    """The settings of a process on these servers, whose keys `tests.writer` knows too."""
    return Settings.load(database_url=database_url, redis_url=redis_url, master_key=MASTER_KEY)


@asynccontextmanager
async def talking(parts: Resources, key: str = "talk", *, threshold: int = THRESHOLD) -> AsyncIterator[Talk]:
    """A thread to talk in, at a site where `threshold` reports hide a comment."""
    appenders = Appenders(parts.settings.database_url, parts.lanes)
    await appenders.start()
    try:
        await parts.sites.add(SITE, bytes(32))
        await appenders.submit(
            ChangeSettings(
                site=SITE,
                stream_id=site_stream_id(SITE),
                event_id=new_id(),
                actor=Actor("admin", moderator=True),
                changes={"report_threshold": threshold},
            )
        )
        yield Talk(appenders, parts.keyring, key)
    finally:
        await appenders.stop()
