"""Commands, complete as the API makes them: ids chosen, text sealed.

The functions seal nothing really (`words`) and serve the pure core; a `Writer` seals under the keys of a
real keyring and serves the log. A comment may go by a name: `id_of("c1")` is always the same UUIDv7.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from services.core.addresses import event_id_at, new_event_id, site_stream_id, thread_stream_id
from services.core.commands import (
    Action,
    Actor,
    ChangeSettings,
    ChangeThread,
    DeleteComment,
    Description,
    EditComment,
    EraseComments,
    Idempotency,
    Import,
    ModerateComment,
    PostComment,
    ReportComment,
    Sealed,
    VoteComment,
)
from services.eventlog.keys import Keyring

Named = str | UUID
START: Final = datetime(2026, 11, 23, 5, 0, 0, 123456, tzinfo=UTC)
LONG_AGO: Final = datetime(2015, 9, 3, 21, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Place:
    """A thread, as clients name it."""

    site: str = "blog"
    key: str = "2015/09/talk-therapy"

    @property
    def stream_id(self) -> UUID:
        return thread_stream_id(self.site, self.key)


BLOG: Final = Place()


def at(seconds: float) -> datetime:
    """A time this many seconds after START."""
    return START + timedelta(seconds=seconds)


def id_of(name: Named) -> UUID:
    """The id that goes by a name; an id goes by itself."""
    return name if isinstance(name, UUID) else event_id_at(START, name.encode())


def fresh_id() -> UUID:
    """An id that nobody has, of now."""
    return new_event_id(time.time_ns() // 1_000_000, os.urandom(10))


def key_id_of(author: str) -> UUID:
    """The id of the author's key where there is no keyring."""
    return UUID(bytes=hashlib.sha256(author.encode()).digest()[:16], version=4)


def mac_of(body: str) -> str:
    """The digest by which a text of `words` is known."""
    return hashlib.sha256(body.encode()).hexdigest()[:32]


def words(body: str, by: str = "ann") -> Sealed:
    """A text that only looks sealed."""
    return Sealed(b"sealed:" + body.encode(), key_id_of(by), mac_of(body))


def once(key: str, request: str = "POST", by: str = "ann") -> Idempotency:
    """What the API makes of an Idempotency-Key and the request that it came with."""
    return Idempotency(
        hashlib.sha256(f"{by} {key}".encode()).digest(), hashlib.sha256(request.encode()).digest()
    )


def described(title: str | None = "Talk therapy", url: str | None = "https://blog.example/t") -> Description:
    """What a client says of its page."""
    return Description(title, url)


def imported(source_id: str = "17", when: datetime = LONG_AGO, *, tombstone: bool = False) -> Import:
    """Where an imported comment comes from."""
    return Import(when, source_id, tombstone)


def post(
    name: Named | None = None,
    *,
    by: str = "ann",
    text: Sealed | None = None,
    to: Named | None = None,
    describe: Description | None = None,
    imported: Import | None = None,
    place: Place = BLOG,
    idempotency: Idempotency | None = None,
    correlation_id: str | None = None,
) -> PostComment:
    """Post a comment (below `to`), named `name` or anew."""
    tombstone = imported is not None and imported.tombstone
    return PostComment(
        site=place.site,
        key=place.key,
        stream_id=place.stream_id,
        event_id=fresh_id() if name is None else id_of(name),
        actor=Actor(None if tombstone else by),
        correlation_id=correlation_id,
        idempotency=idempotency,
        text=None if tombstone else text or words(f"{name or 'anything'}", by),
        parent_id=None if to is None else id_of(to),
        describe=describe,
        imported=imported,
    )


def reply(name: Named | None = None, *, to: Named, **said: Any) -> PostComment:
    """Post a comment below `to`; all else as for `post`."""
    return post(name, to=to, **said)


def edit(
    comment: Named,
    *,
    by: str = "ann",
    moderator: bool = False,
    revision: int = 1,
    text: Sealed | None = None,
    event: Named | None = None,
    place: Place = BLOG,
    idempotency: Idempotency | None = None,
) -> EditComment:
    """Give a comment a new text."""
    return EditComment(
        site=place.site,
        key=place.key,
        stream_id=place.stream_id,
        event_id=fresh_id() if event is None else id_of(event),
        actor=Actor(by, moderator),
        idempotency=idempotency,
        comment_id=id_of(comment),
        revision=revision,
        text=text or words("another text", by),
    )


def delete(
    comment: Named,
    *,
    by: str = "ann",
    moderator: bool = False,
    event: Named | None = None,
    place: Place = BLOG,
    idempotency: Idempotency | None = None,
) -> DeleteComment:
    """Take a comment back, or remove it."""
    return DeleteComment(
        site=place.site,
        key=place.key,
        stream_id=place.stream_id,
        event_id=fresh_id() if event is None else id_of(event),
        actor=Actor(by, moderator),
        idempotency=idempotency,
        comment_id=id_of(comment),
    )


def report(
    comment: Named,
    *,
    by: str | None = "bob",
    reason: str = "spam",
    detail: Sealed | None = None,
    event: Named | None = None,
    place: Place = BLOG,
    idempotency: Idempotency | None = None,
) -> ReportComment:
    """Report a comment."""
    return ReportComment(
        site=place.site,
        key=place.key,
        stream_id=place.stream_id,
        event_id=fresh_id() if event is None else id_of(event),
        actor=Actor(by),
        idempotency=idempotency,
        comment_id=id_of(comment),
        reason=reason,
        detail=detail,
    )


def vote(
    comment: Named,
    value: Literal[-1, 0, 1] = 1,
    *,
    by: str | None = "bob",
    event: Named | None = None,
    place: Place = BLOG,
    idempotency: Idempotency | None = None,
) -> VoteComment:
    """Vote on a comment."""
    return VoteComment(
        site=place.site,
        key=place.key,
        stream_id=place.stream_id,
        event_id=fresh_id() if event is None else id_of(event),
        actor=Actor(by),
        idempotency=idempotency,
        comment_id=id_of(comment),
        value=value,
    )


def moderate(
    comment: Named,
    action: Action,
    *,
    reason: Sealed | None = None,
    by: str = "mod",
    moderator: bool = True,
    event: Named | None = None,
    place: Place = BLOG,
    idempotency: Idempotency | None = None,
) -> ModerateComment:
    """Decide about a comment."""
    return ModerateComment(
        site=place.site,
        key=place.key,
        stream_id=place.stream_id,
        event_id=fresh_id() if event is None else id_of(event),
        actor=Actor(by, moderator),
        idempotency=idempotency,
        comment_id=id_of(comment),
        action=action,
        reason=reason,
    )


def change_thread(
    describe: dict[Literal["title", "url"], str | None] | None = None,
    *,
    closed: bool | None = None,
    by: str = "mod",
    moderator: bool = True,
    event: Named | None = None,
    place: Place = BLOG,
) -> ChangeThread:
    """PATCH T: describe, close, reopen."""
    return ChangeThread(
        site=place.site,
        key=place.key,
        stream_id=place.stream_id,
        event_id=fresh_id() if event is None else id_of(event),
        actor=Actor(by, moderator),
        describe=describe or {},
        closed=closed,
    )


def change_settings(
    changes: dict[str, Any], *, by: str = "admin", event: Named | None = None, site: str = "blog"
) -> ChangeSettings:
    """PATCH S/settings."""
    return ChangeSettings(
        site=site,
        stream_id=site_stream_id(site),
        event_id=fresh_id() if event is None else id_of(event),
        actor=Actor(by, moderator=True),
        changes=changes,
    )


def erase(
    *comments: Named,
    of: str = "ann",
    event: Named | None = None,
    cause: Named = "erasure",
    place: Place = BLOG,
) -> EraseComments:
    """Mark comments of `of` as erased."""
    return EraseComments(
        site=place.site,
        key=place.key,
        stream_id=place.stream_id,
        event_id=fresh_id() if event is None else id_of(event),
        actor=Actor(None),
        key_id=key_id_of(of),
        comment_ids=tuple(id_of(comment) for comment in comments),
        cause=id_of(cause),
    )


class Writer:
    """Makes commands to one thread whose texts are sealed under real keys."""

    def __init__(self, keyring: Keyring, place: Place = BLOG) -> None:
        self.keyring = keyring
        self.place = place

    async def post(
        self, body: str = "as *written*", *, by: str = "ann", event: UUID | None = None, **said: Any
    ) -> PostComment:
        """As the function `post`, with `body` sealed under the author's key."""
        event = event or fresh_id()
        key = await self.keyring.for_author(self.place.site, by)
        text = key.sealed(event, self.place.stream_id, {"body": body, "name": by.title()})
        return post(event, by=by, text=text, place=self.place, **said)

    async def reply(self, to: UUID, body: str = "a reply", **said: Any) -> PostComment:
        """A comment below `to`."""
        return await self.post(body, to=to, **said)

    async def edit(
        self,
        comment: UUID,
        body: str,
        *,
        by: str = "ann",
        author: str | None = None,
        event: UUID | None = None,
        **said: Any,
    ) -> EditComment:
        """As the function `edit`, sealed under the key of `author` (`by`, unless said)."""
        event = event or fresh_id()
        key = await self.keyring.for_author(self.place.site, author or by)
        text = key.sealed(event, self.place.stream_id, {"body": body})
        return edit(comment, by=by, event=event, text=text, place=self.place, **said)

    async def report(
        self,
        comment: UUID,
        *,
        by: str = "bob",
        detail: str | None = None,
        event: UUID | None = None,
        **said: Any,
    ) -> ReportComment:
        """As the function `report`, with the detail sealed under the reporter's key."""
        event = event or fresh_id()
        sealed = None
        if detail is not None:
            key = await self.keyring.for_author(self.place.site, by)
            sealed = key.sealed(event, self.place.stream_id, {"detail": detail})
        return report(comment, by=by, detail=sealed, event=event, place=self.place, **said)

    def delete(self, comment: UUID, **said: Any) -> DeleteComment:
        """As the function `delete`."""
        return delete(comment, place=self.place, **said)

    def vote(self, comment: UUID, value: Literal[-1, 0, 1] = 1, **said: Any) -> VoteComment:
        """As the function `vote`."""
        return vote(comment, value, place=self.place, **said)

    def moderate(self, comment: UUID, action: Action, **said: Any) -> ModerateComment:
        """As the function `moderate`."""
        return moderate(comment, action, place=self.place, **said)

    def change(
        self, describe: dict[Literal["title", "url"], str | None] | None = None, **said: Any
    ) -> ChangeThread:
        """As the function `change_thread`."""
        return change_thread(describe, place=self.place, **said)
