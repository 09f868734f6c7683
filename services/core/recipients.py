"""Who is told of one event in a thread (contract, section 11).

The strongest reason counts, and each person is told of an event once:
- `reply`: the author of the comment that was replied to.
- `mention`: those whom the text names; of an edit only those whom no text of the comment named before.
- `follow`: the followers of the thread, of every new comment.
- `ancestor`: earlier authors on the way up from the comment, as far as its path goes, who asked for that.
- `moderation`: the author whose comment was hidden or removed. It is the site that decides: who it was is not
  told, least of all who reported.

Nobody is told of what they did themselves, or of somebody whom they blocked; nor does one hear who has muted
the thread. At the level `mentions` one hears of what is said to oneself, mentions and replies, and of
decisions on one's own comment, whatever else one has asked for: it is for who does not want to follow a
thread by writing in it. A reason that somebody has switched off leaves the next one: who wants no replies,
but follows, is told as a follower. Guests have no inbox to read, and are told where they have confirmed an
address. Who was imported is nobody here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

IMPORTED: Final = "import:"
"""How the id of somebody begins who only exists on another system."""
GUEST: Final = "guest:"


class Reason(StrEnum):
    """Why somebody is told, the strongest reason first."""

    REPLY = "reply"
    MENTION = "mention"
    FOLLOW = "follow"
    ANCESTOR = "ancestor"
    MODERATION = "moderation"


WANTED: Final[Mapping[str, bool]] = {
    Reason.REPLY: True,
    Reason.MENTION: True,
    Reason.FOLLOW: True,
    Reason.ANCESTOR: False,
    Reason.MODERATION: True,
}
"""Which reasons count for somebody who has not said so."""

_AT_MENTIONS: Final = frozenset({Reason.REPLY, Reason.MENTION, Reason.MODERATION})


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one person wants to hear in one thread: their level there (None: they chose none), the reasons
    that they have switched on or off, whom they blocked, and whether a guest can be reached."""

    level: str | None = None
    reasons: Mapping[str, bool] = field(default_factory=dict)
    blocked: frozenset[str] = frozenset()
    reached: bool = False


UNSAID: Final = Wishes()
"""Of somebody who has said nothing."""


@dataclass(frozen=True, slots=True)
class Happening:
    """An event that people may be told of, and whom it concerns. `event_id` is that of the event that brought
    the text, or of the decision; `created_at` is when it was recorded, `author_id` the comment's author."""

    event_id: UUID
    stream_id: UUID
    comment_id: UUID
    version: int
    actor_id: str | None
    author_id: str | None
    created_at: datetime
    parent_author: str | None = None
    named: tuple[str, ...] = ()
    followers: tuple[str, ...] = ()
    ancestors: tuple[str, ...] = ()
    moderated: str | None = None

    def concerned(self) -> Iterator[tuple[Reason, str]]:
        """Whom it concerns and why, the strongest reason first."""
        if self.parent_author is not None:
            yield Reason.REPLY, self.parent_author
        for person in self.named:
            yield Reason.MENTION, person
        for person in self.followers:
            yield Reason.FOLLOW, person
        for person in self.ancestors:
            yield Reason.ANCESTOR, person
        if self.moderated is not None:
            yield Reason.MODERATION, self.moderated


@dataclass(frozen=True, slots=True)
class Notice:
    """One person to be told of one event."""

    recipient_id: str
    reason: Reason
    event_id: UUID
    stream_id: UUID
    comment_id: UUID
    actor_id: str | None
    created_at: datetime


def recipients(happening: Happening, wishes: Mapping[str, Wishes]) -> tuple[Notice, ...]:
    """Who is told of it; `wishes` has those who have said something."""
    told: dict[str, Notice] = {}
    for reason, person in happening.concerned():
        if person not in told and _hears(reason, person, happening, wishes.get(person, UNSAID)):
            told[person] = Notice(
                person,
                reason,
                happening.event_id,
                happening.stream_id,
                happening.comment_id,
                None if reason is Reason.MODERATION else happening.actor_id,
                happening.created_at,
            )
    return tuple(told.values())


def _hears(reason: Reason, person: str, happening: Happening, wishes: Wishes) -> bool:
    if person == happening.actor_id or person.startswith(IMPORTED):
        return False
    if person.startswith(GUEST) and not wishes.reached:
        return False
    if wishes is UNSAID:
        return WANTED[reason]
    if wishes.level == "muted" or (wishes.level == "mentions" and reason not in _AT_MENTIONS):
        return False
    if reason is not Reason.MODERATION and wishes.blocked & {happening.actor_id, happening.author_id}:
        return False
    return wishes.reasons.get(reason, WANTED[reason])
