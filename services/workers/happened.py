"""What follows from a thread's new events: whom they concern, given how the comments stand after they were
read.

No input or output: telling.py reads what this needs, and writes what comes of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from schema.events.envelope import Recorded
from services.core.recipients import Happening
from services.core.tellable import Step
from services.errors import PoisonEvent
from services.projection.names import Said, ThreadNames

_VISIBLE: Final = "visible"
_FINAL: Final = ("removed", "deleted", "erased")
_DECIDED: Final = {"hide": "hidden", "remove": "removed"}


@dataclass(slots=True)
class Thread:
    """A thread whose new events were read. It was told of up to `version`, and its names are folded up to
    `named`, which may lie before that; `follows`, `asks` and `hooked` tell whether its site has authors
    follow where they post, has somebody who wants to hear as an ancestor, and has endpoints. `steps` go up to
    `reached`, where `error` ended them or the page was `full`."""

    stream_id: UUID
    site: str
    version: int
    named: int
    follows: bool = False
    asks: bool = False
    hooked: bool = False
    is_new: bool = False
    steps: list[tuple[Step, Said]] = field(default_factory=list)
    reached: int = 0
    full: bool = False
    error: PoisonEvent | None = None
    names: ThreadNames = field(default_factory=ThreadNames)

    @property
    def moves(self) -> bool:
        """Whether anything was read."""
        return self.reached > self.named or self.is_new

    @property
    def fresh(self) -> list[Step]:
        """What people were not told of yet."""
        return [step for step, _ in self.steps if step.event.version > self.version]


@dataclass(slots=True)
class Told:
    """What a transaction did: how many notifications it wrote, to whom on which site, in which threads
    followers are left to be told, and which threads another notifier was quicker in."""

    count: int = 0
    people: list[tuple[str, str]] = field(default_factory=list)
    fanned: list[UUID] = field(default_factory=list)
    passed: set[UUID] = field(default_factory=set)


class Standing(NamedTuple):
    comment_id: UUID
    stream_id: UUID
    author_id: str | None
    state: str
    path: bytes
    parent_author: str | None


class Untold(NamedTuple):
    stream_id: UUID
    comment_id: UUID
    version: int
    event_id: UUID
    people: Collection[str]
    type: str
    actor_id: str | None
    recorded_at: Any


@dataclass(slots=True)
class Decided:
    """What follows from the steps: whom they concern, which texts must wait, and which no longer do. `posts`
    brought a comment, which concerns followers and earlier authors too."""

    happenings: list[Happening] = field(default_factory=list)
    posts: set[UUID] = field(default_factory=set)
    waiting: list[tuple[UUID, UUID, int, UUID, str]] = field(default_factory=list)
    ended: list[tuple[UUID, UUID]] = field(default_factory=list)


class Deciding:
    """Decides about the new events of some threads. `standings` has the comments that they are about,
    `untold` the texts of each that nobody was told of yet."""

    def __init__(
        self,
        threads: Mapping[UUID, Thread],
        standings: Mapping[UUID, Standing],
        untold: dict[UUID, list[Untold]],
    ) -> None:
        self._threads = threads
        self._standings = standings
        self._untold = untold

    def decide(self, new: Mapping[tuple[UUID, int], tuple[str, ...]]) -> Decided:
        """What follows; `new` has whom the text at a version of a thread was the first to name."""
        decided = Decided()
        for thread in self._threads.values():
            decisions: dict[tuple[UUID, str], Happening] = {}
            for step in thread.fresh:
                if step.what in ("remove", "delete", "erase"):
                    decided.ended.append((thread.stream_id, step.comment_id))
                standing = self._standings.get(step.comment_id)
                if standing is None or standing.stream_id != thread.stream_id or step.imported:
                    continue
                if step.what == "show":
                    self._show(standing, thread, decided)
                elif step.what in ("post", "edit"):
                    self._text(
                        step, standing, thread, new.get((thread.stream_id, step.event.version), ()), decided
                    )
                elif _DECIDED.get(step.what) == standing.state:
                    happening = _happening(step.event, standing)
                    decisions[step.comment_id, step.what] = replace(happening, moderated=standing.author_id)
            decided.happenings += decisions.values()
        return decided

    def _text(
        self, step: Step, standing: Standing, thread: Thread, named: tuple[str, ...], decided: Decided
    ) -> None:
        """A new text: told of where everyone may see it, else it waits for that."""
        is_post, event = step.what == "post", step.event
        if not is_post and not named:
            return
        if standing.state == _VISIBLE:
            happening = _happening(event, standing)
            happening = replace(
                happening,
                named=_still(named, standing, thread),
                parent_author=standing.parent_author if is_post else None,
            )
            decided.happenings.append(happening)
            if is_post:
                decided.posts.add(event.event_id)
        elif standing.state not in _FINAL:
            people = orjson.dumps(named).decode()
            decided.waiting.append(
                (thread.stream_id, standing.comment_id, event.version, event.event_id, people)
            )

    def _show(self, standing: Standing, thread: Thread, decided: Decided) -> None:
        """A comment was approved or restored: its texts that nobody was told of are told of now."""
        if standing.state != _VISIBLE:
            return
        for untold in self._untold.pop(standing.comment_id, ()):
            is_post = untold.type != "CommentEdited"
            decided.happenings.append(
                Happening(
                    event_id=untold.event_id,
                    stream_id=untold.stream_id,
                    comment_id=untold.comment_id,
                    version=untold.version,
                    actor_id=untold.actor_id,
                    author_id=standing.author_id,
                    created_at=untold.recorded_at,
                    parent_author=standing.parent_author if is_post else None,
                    named=_still(untold.people, standing, thread),
                )
            )
            if is_post:
                decided.posts.add(untold.event_id)
            decided.ended.append((untold.stream_id, untold.comment_id))


def _happening(event: Recorded, standing: Standing) -> Happening:
    return Happening(
        event_id=event.event_id,
        stream_id=event.stream_id,
        comment_id=standing.comment_id,
        version=event.version,
        actor_id=event.actor_id,
        author_id=standing.author_id,
        created_at=event.recorded_at,
    )


def _still(people: Collection[str], standing: Standing, thread: Thread) -> tuple[str, ...]:
    """Those of the people whom the comment's last text names, too."""
    now = thread.names.mentioned.get(standing.comment_id)
    return () if now is None else tuple(person for person in people if person in now.people)
