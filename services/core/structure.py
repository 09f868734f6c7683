"""A thread's structure in columns of small integers: who stands below whom, states, votes and counts.

It folds as `services.core.thread.evolve` does, in a tenth of the memory and without a comment's text, author
or id: those are in the events that posted and edited it. Of the id it has four bytes, to see that an event
about a comment means this one. What a snapshot holds is loaded a segment at a time, when it is asked for:
whoever meets a segment that is not there raises `Missing`, has it loaded and asks again.

Inside, a comment is known by its ordinal: the first that was posted is 0.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple
from uuid import UUID

from schema.events.envelope import EPOCH, Recorded, micros
from services.core.ranking import RankedSort
from services.core.segments import (
    BELOW,
    COUNTS,
    CREATED,
    DEPTH,
    DOWN,
    EDITED,
    EDITOR,
    EDITORS,
    EMPTY,
    HELD,
    MARKS,
    NUMBER_OF,
    NUMBERS,
    OF_COMMENTS,
    PLACES,
    REVISION,
    SEGMENT,
    SHIFT,
    SINCE,
    STATE,
    STATES,
    TAGS,
    TEXT,
    TREE,
    UP,
    Base,
    Columns,
    Key,
    Missing,
    empty,
)
from services.core.thread import MAX_DEPTH, Comment, CommentState

_NO_ID: Final = UUID(int=0)
_MICROSECOND: Final = timedelta(microseconds=1)
_AS_POSTED: Final = (0, 0, 1, 0, 0, 0, 0, 0)
"""The marks of a new comment, behind its state."""
_VISIBLE: Final = NUMBER_OF[CommentState.VISIBLE]

_MANY: Final = 16
"""Where more segments of the tree are missing than this, all of it is loaded: 4 bytes a comment."""


class Step(NamedTuple):
    """An event as far as it changes structure."""

    version: int
    event_id: UUID
    type: str
    schema_version: int
    recorded_at: datetime
    data: bytes
    hash: bytes


AnyStep = Step | Recorded
"""A whole event will do as well."""

Payload = dict[str, Any]


class Structure:
    """A thread folded up to `version`: the segments of a snapshot, as far as they are loaded, and what was
    folded onto them.

    With `orders` false it keeps no orders and no counts of what lies below: for who folds a whole thread to
    write them down (`services.core.snapshot`).
    """

    def __init__(self, base: Base = EMPTY, *, orders: bool = True) -> None:
        self.base = base
        self.version, self.last_hash = base.version, base.hash
        self.site, self.key = base.site, base.key
        self.title, self.url, self.described_by = base.title, base.url, base.described_by
        self.closed, self.visible = base.closed, base.visible
        self.size = base.size
        self.segments: dict[Key, Columns] = {}
        self.new = {kind: empty(kind) for kind in OF_COMMENTS}
        """The comments behind those of the snapshot."""
        self._appends = [column.append for kind in OF_COMMENTS for column in self.new[kind]]
        self.orders = orders
        self.added: dict[int, list[int]] = {}
        """Who came into the order below each parent (its ordinal and one) since the snapshot."""
        self.revoted: dict[int, dict[int, tuple[int, int]]] = {}
        """Of each parent's replies in the snapshot those voted on since, with their votes there."""
        self.regrown: dict[int, set[int]] = {}
        """Of each parent's replies in the snapshot those that have more below them by now."""
        self.grown: dict[int, int] = {}
        """How many more comments lie below a comment than in the snapshot. See `settle`."""
        self._unsettled = base.size
        self._late: list[int] = []
        self.later: dict[tuple[int, RankedSort], list[tuple[float, float, int]]] = {}
        """What a reader has ranked already; emptied by every fold."""

    # --- segments ---------------------------------------------------------------------------------------

    def column(self, kind: str, ordinal: int) -> tuple[Columns, int]:
        """The columns of a kind that hold this comment, and its place in them. Raises Missing."""
        base = self.base.size
        if ordinal >= base:
            return self.new[kind], ordinal - base
        number = ordinal >> SHIFT
        found = self.segments.get((kind, number))
        if found is None:
            raise Missing([(kind, number)])
        return found, ordinal & (SEGMENT - 1)

    def load(self, key: Key, columns: Columns) -> None:
        """A segment of the snapshot. Raises ValueError where it is none of it."""
        kind, number = key
        whole = self.base.size if kind in OF_COMMENTS or kind == COUNTS else self.base.placed
        length = min(SEGMENT, whole - (number << SHIFT))
        if any(len(column) != length for column in columns):
            raise ValueError(f"{kind} {number} does not hold {length} comments")
        if kind == NUMBERS and not self._is_numbered(number, columns[0]):
            raise ValueError(f"{kind} {number} holds other comments")
        if kind == COUNTS:
            first, starts = self.base.starts[number], array("I")
            for count in columns[0]:
                starts.append(first)
                first += count
            columns = (columns[0], starts)
        # Never in the place of one that may have been folded onto.
        self.segments.setdefault(key, columns)

    def _is_numbered(self, number: int, posted: array[int]) -> bool:
        return posted[0] == self.base.firsts[number] and posted[-1] == self.base.lasts[number]

    # --- comments ---------------------------------------------------------------------------------------

    def posted(self, ordinal: int) -> int:
        """The version that posted this comment."""
        if ordinal < self.base.size:
            number = ordinal >> SHIFT
            if self._is_dense(number):
                return self.base.firsts[number] + (ordinal & (SEGMENT - 1))
        columns, index = self.column(NUMBERS, ordinal)
        return columns[0][index]

    def ordinal(self, posted: int) -> int | None:
        """The comment that this version posted; None where it posted none. Raises Missing."""
        base = self.base
        if not base.lasts or posted > base.lasts[-1]:
            numbers = self.new[NUMBERS][0]
            index = bisect_left(numbers, posted)
            found = index < len(numbers) and numbers[index] == posted
            return base.size + index if found else None
        number = bisect_right(base.firsts, posted) - 1
        if number < 0 or posted > base.lasts[number]:
            return None
        start = number << SHIFT
        if self._is_dense(number):
            return start + posted - base.firsts[number]
        numbers = self.column(NUMBERS, start)[0][0]
        index = bisect_left(numbers, posted)
        return start + index if numbers[index] == posted else None

    def _is_dense(self, number: int) -> bool:
        """Whether a segment's comments were posted one after the other, and nothing else in between."""
        base = self.base
        length = min(SEGMENT, base.size - (number << SHIFT))
        return base.lasts[number] - base.firsts[number] == length - 1

    def parent(self, ordinal: int) -> int:
        """The parent's ordinal and one; 0 for a root."""
        columns, index = self.column(TREE, ordinal)
        return columns[0][index]

    def time(self, ordinal: int) -> float:
        """What an order by time goes by: as Redis, which orders by a double."""
        columns, index = self.column(PLACES, ordinal)
        return float(columns[CREATED][index])

    def is_placed(self, ordinal: int) -> bool:
        """Whether the comment stands in an order: a held one does not."""
        columns, index = self.column(MARKS, ordinal)
        return columns[STATE][index] != HELD

    def votes(self, ordinal: int) -> tuple[int, int]:
        """How many votes are up, and down."""
        columns, index = self.column(MARKS, ordinal)
        return columns[UP][index], columns[DOWN][index]

    def descendants(self, ordinal: int, *, then: bool = False) -> int:
        """How many comments lie below; with `then`, how many did in the snapshot."""
        below = 0
        if ordinal < self.base.size:
            columns, index = self.column(MARKS, ordinal)
            below = columns[BELOW][index]
        return below if then else below + self.grown.get(ordinal, 0)

    def comment(self, ordinal: int) -> Comment:
        """The comment as far as its structure tells: without id, author, key and digest. Raises Missing."""
        missing: set[Key] = set()
        for kind in (PLACES, MARKS, TREE):
            try:
                self.column(kind, ordinal)
            except Missing as error:
                missing |= error.keys
        if missing:
            raise Missing(missing)
        (places, i), (marks, j) = self.column(PLACES, ordinal), self.column(MARKS, ordinal)
        posted, above = self.posted(ordinal), self.parent(ordinal)
        edited = marks[EDITED][j]
        return Comment(
            id=_NO_ID,
            posted=posted,
            parent=self.posted(above - 1) if above else 0,
            depth=places[DEPTH][i],
            created_at=_datetime(places[CREATED][i]),
            state=STATES[marks[STATE][j]],
            revision=marks[REVISION][j],
            edited_at=_datetime(edited) if edited else None,
            edited_by=EDITORS[marks[EDITOR][j]],
            version=posted + marks[SINCE][j],
            text_version=posted + marks[TEXT][j],
            up=marks[UP][j],
            down=marks[DOWN][j],
        )

    # --- folding ----------------------------------------------------------------------------------------

    def lacks(self, payloads: Iterable[Payload]) -> set[Key]:
        """The segments that have to be there before events with these payloads are folded."""
        base = self.base
        missing: set[Key] = set()
        if not base.lasts:
            return missing
        last = base.lasts[-1]
        for payload in payloads:
            subject, above = payload.get("posted"), payload.get("parent")
            for posted, wanted in ((subject, (NUMBERS, TAGS, MARKS, TREE)), (above, (NUMBERS,))):
                if type(posted) is not int or not 0 < posted <= last:
                    continue
                number = bisect_right(base.firsts, posted) - 1
                for kind in wanted:
                    if kind == NUMBERS and self._is_dense(number):
                        continue
                    if (kind, number) not in self.segments:
                        missing.add((kind, number))
        return missing

    def subject(self, payload: Payload) -> int:
        """The comment that an event is about. Raises ValueError where there is none, Missing."""
        posted, comment_id = payload["posted"], payload["comment_id"]
        ordinal = self.ordinal(posted)
        if ordinal is None:
            raise ValueError(f"no comment was posted at version {posted}")
        tags, index = self.column(TAGS, ordinal)
        if tags[0][index] != int(comment_id[-8:], 16):
            raise ValueError(f"no comment {comment_id} was posted at version {posted}")
        return ordinal

    def add(self, step: AnyStep, payload: Payload, parent: int, depth: int, state: CommentState) -> None:
        """A new comment below `parent` (its ordinal and one)."""
        imported, opens = payload.get("imported"), payload.get("opens")
        when = step.recorded_at if imported is None else datetime.fromisoformat(imported["created_at"])
        created, tag, number = micros(when), step.event_id.bytes[-4:], NUMBER_OF[state]
        if type(depth) is not int or not 0 <= depth <= MAX_DEPTH:
            raise ValueError(f"a comment at depth {depth}")
        if opens:
            self.site, self.key = opens["site"], opens["key"]
        values = (step.version, int.from_bytes(tag, "big"), created, depth, parent, number, *_AS_POSTED)
        for append, value in zip(self._appends, values, strict=True):
            append(value)
        ordinal = self.size
        self.size += 1
        self.visible += number == _VISIBLE
        if not self.orders or number == HELD:
            return
        siblings = self.added.get(parent)
        if siblings is None:
            self.added[parent] = [ordinal]
        elif (last := siblings[-1] - self.base.size) >= 0 and self.new[PLACES][CREATED][last] <= created:
            siblings.append(ordinal)
        else:
            self._list(parent, ordinal)

    def _list(self, parent: int, ordinal: int) -> None:
        """Put a comment in its place among those added below its parent."""
        siblings = self.added.setdefault(parent, [])
        if siblings and self._when(ordinal) < self._when(siblings[-1]):  # imported, or approved late
            insort(siblings, ordinal, key=self._when)
        else:
            siblings.append(ordinal)

    def _when(self, ordinal: int) -> tuple[float, int]:
        return self.time(ordinal), ordinal

    def move(self, ordinal: int, state: CommentState) -> None:
        """Give a comment another state. Raises Missing."""
        marks, index = self.column(MARKS, ordinal)
        parent = self.parent(ordinal)
        before, after = marks[STATE][index], NUMBER_OF[state]
        self.visible += (after == _VISIBLE) - (before == _VISIBLE)
        marks[STATE][index] = after
        if before == HELD != after and self.orders:
            self._list(parent, ordinal)
            if ordinal < self._unsettled:
                self._late.append(ordinal)

    def touch(self, ordinal: int, version: int) -> None:
        """An event about this comment was recorded. Raises Missing."""
        marks, index = self.column(MARKS, ordinal)
        marks[SINCE][index] = version - self.posted(ordinal)

    def vote(self, ordinal: int, up: int, down: int) -> None:
        """Add to a comment's votes. Raises Missing, OverflowError."""
        marks, index = self.column(MARKS, ordinal)
        if self.orders and ordinal < self.base.size:
            parent = self.parent(ordinal)
            before = marks[UP][index], marks[DOWN][index]
            self.revoted.setdefault(parent, {}).setdefault(ordinal, before)
        ups, downs = marks[UP][index] + up, marks[DOWN][index] + down
        if ups < 0 or downs < 0:
            raise OverflowError("more votes are withdrawn than were given")
        marks[UP][index], marks[DOWN][index] = ups, downs

    def settle(self) -> None:
        """Count what lies below each comment, where that has grown. Raises Missing.

        Done once for all that was folded: a comment in a deep thread has a thousand others above it.
        """
        if self._unsettled == self.size and not self._late:
            return
        tree, states = self.new[TREE][0], self.new[MARKS][STATE]
        base, first = self.base.size, self._unsettled
        below: dict[int, int] = {}
        for ordinal in range(self.size - 1, first - 1, -1):
            carried = below.get(ordinal, 0) + (states[ordinal - base] != HELD)
            if carried and (parent := tree[ordinal - base]):
                below[parent - 1] = below.get(parent - 1, 0) + carried
        moved: dict[int, int] = dict.fromkeys(self._late, 1)
        # A parent was posted before its replies: from the last to the first, each is passed once.
        heap = [-ordinal for ordinal in {*moved, *(o for o in below if o < first)}]
        heap.sort()
        queued, regrown, missing = set(heap), dict[int, list[int]](), set[Key]()
        while heap:
            ordinal = -heappop(heap)
            try:
                parent = self.parent(ordinal)
            except Missing as error:
                missing |= error.keys
                continue
            if ordinal in below and ordinal < base:
                regrown.setdefault(parent, []).append(ordinal)
            if parent:
                below[parent - 1] = below.get(parent - 1, 0) + below.get(ordinal, 0) + moved.get(ordinal, 0)
                if 1 - parent not in queued:
                    queued.add(1 - parent)
                    heappush(heap, 1 - parent)
        if missing:
            raise Missing(self._all_of(TREE) if len(missing) > _MANY else missing)
        for ordinal, more in below.items():
            self.grown[ordinal] = self.grown.get(ordinal, 0) + more
        for parent, ordinals in regrown.items():
            self.regrown.setdefault(parent, set()).update(ordinals)
        self._unsettled = self.size
        self._late.clear()

    def _all_of(self, kind: str) -> Iterable[Key]:
        keys = ((kind, number) for number in range(len(self.base.firsts)))
        return (key for key in keys if key not in self.segments)


def _datetime(microseconds: int) -> datetime:
    return EPOCH + microseconds * _MICROSECOND
