"""Who must have been told of what: plain and slow, written from the contract and nothing else.

It sees the log as a list of happenings, what people want at the moment that the notifier comes by, and where
the notifier's pages begin and end; it knows nothing of statements, digests and transactions.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

Level = Literal["all", "mentions", "muted"]
STRENGTH = ("reply", "mention", "follow", "ancestor", "moderation")


@dataclass(slots=True)
class Wanted:
    """What one person wants of a whole site."""

    off: set[str] = field(default_factory=set)
    on: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Event:
    """One event of the log. `names` are what its text names: (kind, name or id)."""

    id: UUID
    kind: Literal["post", "edit", "hide", "show", "remove", "delete", "other"]
    comment: UUID
    actor: str
    name: str = ""
    names: tuple[tuple[Literal["name", "id"], str], ...] = ()
    imported: bool = False


@dataclass(slots=True)
class Comment:
    """One comment as it stands at the end of the log."""

    author: str
    parent: UUID | None
    state: str = "visible"


@dataclass(slots=True)
class World:
    """A site as the log and its people have it."""

    logs: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    comments: dict[UUID, Comment] = field(default_factory=dict)
    levels: dict[tuple[str, str], Level] = field(default_factory=dict)
    wanted: dict[str, Wanted] = field(default_factory=lambda: defaultdict(Wanted))
    reachable: set[str] = field(default_factory=set)
    """Guests who have confirmed an address."""
    follows_on_post: bool = False


_Told = tuple[int, Event, list[str]]
"""An event with its version, and whom its text was the first to name."""


@dataclass(slots=True)
class Reference:
    """The inboxes: of each person the events they were told of, and why."""

    world: World
    inbox: dict[str, dict[UUID, str]] = field(default_factory=lambda: defaultdict(dict))
    _done: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _bears: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    """Of each thread: names and who bore them, in the order of the posts."""
    _now: dict[UUID, list[str]] = field(default_factory=lambda: defaultdict(list))
    _ever: dict[UUID, list[str]] = field(default_factory=lambda: defaultdict(list))
    _of: dict[tuple[str, UUID], UUID] = field(default_factory=dict)
    """By which event somebody was told of a comment."""
    _waiting: dict[UUID, list[_Told]] = field(default_factory=lambda: defaultdict(list))

    def come_by(self, thread: str, page: int) -> bool:
        """The notifier reads one page of a thread and tells of it; whether there may be another."""
        log, start = self.world.logs[thread], self._done[thread]
        events = log[start : start + page]
        self._done[thread] = start + len(events)
        fresh = [self._names(thread, event) for event in events]
        told: list[_Told] = []
        decisions: dict[tuple[UUID, str], Event] = {}
        for version, (event, new) in enumerate(zip(events, fresh, strict=True), start + 1):
            if event.imported or event.kind == "other":
                continue
            state = self.world.comments[event.comment].state
            if event.kind == "post" or (event.kind == "edit" and new):
                if state == "visible":
                    told.append((version, event, new))
                elif state == "hidden":
                    self._waiting[event.comment].append((version, event, new))
            elif event.kind == "show" and state == "visible":
                told += self._waiting.pop(event.comment, [])
            elif (event.kind, state) in (("hide", "hidden"), ("remove", "removed")):
                decisions[event.comment, event.kind] = event
            if event.kind in ("remove", "delete"):
                self._waiting.pop(event.comment, None)
        began = self._follow(thread, told)
        for version, event, new in told:
            self._tell(thread, version, event, new, began)
        for event in decisions.values():
            comment = self.world.comments[event.comment]
            self._each(thread, event, comment, {"moderation": [comment.author]})
        return len(events) == page

    def _names(self, thread: str, event: Event) -> list[str]:
        """Whom the event's text names that no text of its comment named before."""
        if event.kind not in ("post", "edit"):
            return []
        named: list[str] = []
        for kind, what in event.names:
            person = what if kind == "id" else self._bearer(thread, what)
            if person is not None and person not in named:
                named.append(person)
        new = [person for person in named if person not in self._ever[event.comment]]
        self._now[event.comment] = named
        self._ever[event.comment] += new
        if event.kind == "post" and not event.actor.startswith("import:"):
            self._bears[thread].append((event.name, event.actor))
        return new

    def _bearer(self, thread: str, name: str) -> str | None:
        """The last to post under this name, or, where nobody has, under its first word."""
        for each in (name, name.split(maxsplit=1)[0]):
            for borne, who in reversed(self._bears[thread]):
                if borne.lower() == each.lower():
                    return who
        return None

    def _follow(self, thread: str, told: list[_Told]) -> dict[str, int]:
        """Authors of posts follow, where that is the site's way; who has begun to, and with which version."""
        world, began = self.world, dict[str, int]()
        if world.follows_on_post:
            for version, event, _ in told:
                key = (thread, event.actor)
                if event.kind == "post" and key not in world.levels and not event.actor.startswith("guest:"):
                    world.levels[key] = "all"
                    began[event.actor] = version
        return began

    def _tell(self, thread: str, version: int, event: Event, new: list[str], began: dict[str, int]) -> None:
        comment = self.world.comments[event.comment]
        whom = {"mention": [person for person in new if person in self._now[event.comment]]}
        if event.kind == "post":
            whom["follow"] = [
                who
                for (where, who), level in self.world.levels.items()
                if where == thread and level == "all" and began.get(who, 0) < version
            ]
            above = comment.parent
            whom["reply"] = [] if above is None else [self.world.comments[above].author]
            whom["ancestor"] = []
            while above is not None:
                whom["ancestor"].append(self.world.comments[above].author)
                above = self.world.comments[above].parent
        self._each(thread, event, comment, whom)

    def _each(self, thread: str, event: Event, comment: Comment, whom: dict[str, list[str]]) -> None:
        for reason in STRENGTH:
            for person in whom.get(reason, ()):
                if not self._hears(thread, person, reason, event, comment):
                    continue
                of = (
                    event.id
                    if reason == "moderation"
                    else self._of.setdefault((person, event.comment), event.id)
                )
                if of != event.id:
                    continue  # they were told of another text of this comment
                self.inbox[person].setdefault(event.id, reason)

    def _hears(self, thread: str, person: str, reason: str, event: Event, comment: Comment) -> bool:
        world, wanted = self.world, self.world.wanted[person]
        level = world.levels.get((thread, person))
        if person == event.actor or person.startswith("import:") or level == "muted":
            return False
        if person.startswith("guest:") and person not in world.reachable:
            return False
        if level == "mentions" and reason in ("follow", "ancestor"):
            return False
        if reason != "moderation" and wanted.blocked & {event.actor, comment.author}:
            return False
        return reason in wanted.on or (reason != "ancestor" and reason not in wanted.off)
