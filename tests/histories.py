"""Random histories of one thread, and the same thread told in both ways: folded whole, and from snapshots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from hypothesis import strategies as st

from schema.events.envelope import Recorded
from services.core.page import FoldIndex, PageRequest
from services.core.ranking import Sort
from services.core.segments import OF_COMMENTS, Base, Key, Missing
from services.core.snapshot import decode, head_json, read_head, whole, written
from services.core.steps import fold, read_payloads
from services.core.structure import Payload, Step, Structure
from services.core.thread import ThreadState, evolve
from tests import given as facts
from tests.factories import BLOG, at, id_of

_R = TypeVar("_R")

SORTS: Sequence[Sort] = ("oldest", "newest", "best", "controversial", "replies")

Happening = tuple[int, int, int, int]
HAPPENINGS = st.tuples(st.integers(0, 22), st.integers(0, 60), st.integers(0, 4), st.integers(-3, 3))
"""What happens, to which comment, by whom, how much earlier than now it was."""


@st.composite
def happenings(draw: st.DrawFn, most: int = 90) -> list[Happening]:
    """What happens in a thread: few things that matter to a failure, or many at random."""
    if draw(st.booleans()):
        return draw(st.lists(HAPPENINGS, min_size=1, max_size=most))
    chance = Random(draw(st.integers(0, 2**32)))
    count = chance.randint(1, most)
    return [
        (chance.randint(0, 22), chance.randint(0, 60), chance.randint(0, 4), chance.randint(-3, 3))
        for _ in range(count)
    ]


@dataclass(frozen=True, slots=True)
class History:
    """The events of a thread; `posted` are the names of its comments."""

    events: list[Recorded]
    names: list[str]

    def thread(self, version: int) -> ThreadState:
        """The thread folded up to this version."""
        thread = ThreadState(BLOG.stream_id, BLOG.site, BLOG.key)
        for event in self.events[:version]:
            evolve(thread, event)
        return thread

    def index(self, version: int) -> FoldIndex:
        """The thread at this version, ready to be paged; its nodes are empty."""
        return FoldIndex(self.thread(version), defaultdict(bytes))


def history_of(happenings: Sequence[Happening]) -> History:
    """What these made of a thread."""
    thread = ThreadState(BLOG.stream_id, BLOG.site, BLOG.key)
    events: list[Recorded] = []
    names: list[str] = []
    votes: dict[tuple[str, str], int] = {}
    for number, (kind, which, who, earlier) in enumerate(happenings):
        fact = _fact(kind, number, names, which, f"v{who}", earlier, votes)
        event = facts.recorded(fact, thread)
        evolve(thread, event)
        events.append(event)
    return History(events, names)


def _fact(
    kind: int,
    number: int,
    names: list[str],
    which: int,
    who: str,
    earlier: int,
    votes: dict[tuple[str, str], int],
) -> facts.Fact:
    second = number // 3
    name, about = f"c{number}", names[which % len(names)] if names else ""
    event_id = id_of(f"event {number}")
    if kind < 4 or not names:
        names.append(name)
        return facts.posted(name, second=second, when=at(10 * earlier) if earlier else None)
    if kind < 11:
        names.append(name)
        return facts.replied(name, to=about, second=second)
    if kind < 15:
        value, previous = earlier % 3 - 1, votes.get((about, who), 0)
        votes[about, who] = value
        fact = facts.voted(about, value, by=who, previous=previous, second=second)
        return replace(fact, event_id=event_id)
    match kind:
        case 15:
            fact = facts.edited(about, f"text {number}", revision=2 + number, second=second)
        case 16:
            fact = facts.hidden(about, second=second)
        case 17:
            fact = facts.removed(about, second=second)
        case 18:
            fact = facts.erased(about, second=second)
        case 19:
            fact = facts.approved(about, second=second)
        case 20:
            fact = facts.hidden_by_moderator(about, second=second)
        case 21:
            fact = facts.restored(about, second=second)
        case _:
            fact = facts.reported(about, by=who, second=second)
    return replace(fact, event_id=event_id)


def requests(names: Sequence[str]) -> st.SearchStrategy[PageRequest]:
    """Pages of a thread with these comments; some of a comment that there is not."""
    ids = st.sampled_from([id_of(name) for name in (*names, "nobody")])
    plain = st.builds(
        PageRequest,
        sort=st.sampled_from(SORTS),
        limit=st.integers(1, 8),
        replies=st.integers(0, 4),
        depth=st.integers(0, 4),
        parent_id=st.none() | ids,
    )
    focused = st.builds(PageRequest, sort=st.sampled_from(SORTS), replies=st.integers(0, 3), focus=ids)
    return plain | focused


# --- from snapshots ----------------------------------------------------------------------------------------


def steps_of(events: Sequence[Recorded]) -> tuple[list[Step], list[Payload]]:
    """The events as the structure is folded from them."""
    steps = [
        Step(e.version, e.event_id, e.type, e.schema_version, e.recorded_at, e.data, e.hash) for e in events
    ]
    payloads, stopped = read_payloads(steps)
    assert stopped is None
    return steps, payloads


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot as it would be stored."""

    base: Base
    segments: dict[Key, bytes]

    def structure(self) -> Structure:
        """The thread at the snapshot's version, nothing of it loaded."""
        return Structure(self.base)

    def load(self, structure: Structure, keys: frozenset[Key] | set[Key]) -> None:
        """Load these segments."""
        for key in keys:
            structure.load(key, decode(key[0], self.segments[key]))


NOTHING = Stored(Base(), {})


def snapshot(events: Sequence[Recorded], before: Stored = NOTHING) -> Stored:
    """A snapshot made of the one before it and the events behind that."""
    last = before.structure()
    before.load(last, {key for key in before.segments if key[0] in OF_COMMENTS})
    thread = whole(last)
    fold(thread, *steps_of(events))
    base, segments = written(thread)
    return Stored(read_head(head_json(base), base.hash), dict(segments))


def fold_onto(structure: Structure, stored: Stored, events: Sequence[Recorded]) -> None:
    """Fold events onto a thread on a snapshot, loading what they need."""
    steps, payloads = steps_of(events)
    stored.load(structure, structure.lacks(payloads))
    fold(structure, steps, payloads)


def asked(structure: Structure, stored: Stored, ask: Callable[[], _R]) -> _R:
    """What `ask` gives once what it misses is loaded; it never misses the same twice."""
    while True:
        try:
            return ask()
        except Missing as error:
            missing = error.keys
        assert missing
        assert not missing & structure.segments.keys()
        stored.load(structure, missing)
