"""Which comments a page shows, picked from a thread's structure: as `services.core.page.FoldIndex` does, but
touching only the segments that the page needs.

Every function here may raise Missing: it is called again once those segments are loaded. As many as can be
told are asked for at once, so that a page is a matter of a few rounds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from services.core.page import MAX_PAGE, PageRequest, Place
from services.core.ranking import RankedSort, Sort, score
from services.core.segments import COUNTS, ORDER, RANK_KINDS, SEGMENT, SHIFT, Key, Missing
from services.core.structure import Structure
from services.core.thread import PATH_LENGTH, Comment
from services.errors import CursorInvalid

_R = TypeVar("_R")
_T = TypeVar("_T")

Rank = tuple[float, float, int]
"""What comments are ordered by: the score's negative, the time, the ordinal."""


class Drafted(NamedTuple):
    """A comment on a page, without id, author and text; `children` and the rest as in `page.Picked`."""

    comment: Comment
    parent: int
    children: int
    descendants: int
    shown: int
    score: float


@dataclass(frozen=True, slots=True)
class Draft:
    """A page as its structure tells it. `ancestors` are the posting versions of the last 32 comments above
    its top; all else is as in `page.Selection`."""

    drafted: tuple[Drafted, ...]
    roots: int
    more: bool
    parent: int = 0
    ancestors: tuple[int, ...] = ()
    pathed: int = 0


class Picker:
    """Picks pages from one thread. It keeps nothing: `structure` may be folded on between two pages."""

    def __init__(self, structure: Structure) -> None:
        self._s = structure

    def page(self, request: PageRequest, named: int | None = None) -> Draft:
        """The page asked for. `named` is the posting version of the comment that `parent_id` or `focus`
        names. Raises CursorInvalid, LookupError where no comment was posted there; Missing."""
        self._s.settle()
        parent, ancestors = 0, list[int]()
        if named is not None:
            ordinal = self._placed(named)
            if request.focus is not None:
                return self._focused(request, ordinal)
            parent, ancestors = ordinal + 1, self._path(ordinal)
        start = None
        if request.after is not None:
            start = self._rank_of(parent, request.after)
        top = self._slice(parent, request.sort, start, request.limit + 1)
        more, top = len(top) > request.limit, top[: request.limit]
        above = named or 0
        return Draft(
            drafted=self._filled(request, [(ordinal, above) for ordinal in top], 0),
            roots=len(top),
            more=more,
            parent=above,
            ancestors=self._posted(ancestors),
        )

    def comment(self, named: int) -> tuple[Drafted, tuple[int, ...]]:
        """One comment, and the posting versions of its last 32 ancestors, root first. Raises as `page`."""
        self._s.settle()
        ordinal = self._placed(named)
        path = self._path(ordinal)[:-1]
        [drafted] = self._drafted([(ordinal, self._above(ordinal))], [0], "oldest")
        return drafted, self._posted(path)

    def _placed(self, posted: int) -> int:
        ordinal = self._s.ordinal(posted)
        if ordinal is None or not self._s.is_placed(ordinal):
            raise LookupError(posted)
        return ordinal

    def _above(self, ordinal: int) -> int:
        parent = self._s.parent(ordinal)
        return self._s.posted(parent - 1) if parent else 0

    def _path(self, ordinal: int) -> list[int]:
        """The last 32 comments above this one, root first, then it."""
        path = [ordinal]
        while (parent := self._s.parent(path[-1])) and len(path) <= PATH_LENGTH:
            path.append(parent - 1)
        path.reverse()
        return path

    def _posted(self, path: Sequence[int]) -> tuple[int, ...]:
        return tuple(_each(self._s.posted, path[-PATH_LENGTH:]))

    def _focused(self, request: PageRequest, ordinal: int) -> Draft:
        chain = self._path(ordinal)
        posted = _each(self._s.posted, chain)
        above = self._above(chain[0])
        return Draft(
            drafted=self._filled(request, list(zip(chain, (above, *posted), strict=False)), len(chain) - 1),
            roots=1,
            more=False,
            parent=above,
            ancestors=self._posted(self._path(chain[0])[:-1]),
            pathed=len(chain) - 1,
        )

    def _filled(self, request: PageRequest, order: list[tuple[int, int]], pathed: int) -> tuple[Drafted, ...]:
        """As `FoldIndex._filled`, a level at a time."""
        shown = [1] * pathed
        level_end, level = len(order), 0
        missing: set[Key] = set()
        while len(shown) < len(order):
            if len(shown) == level_end:
                if missing:
                    break
                level_end, level = len(order), level + 1
            ordinal = order[len(shown)][0]
            wanted = min(request.replies, MAX_PAGE - len(order)) if level < request.depth else 0
            below: Sequence[int] = ()
            try:
                if wanted > 0:
                    below = self._slice(ordinal + 1, request.sort, None, wanted)
                    posted = self._s.posted(ordinal)
                    order.extend((child, posted) for child in below)
            except Missing as error:
                missing |= error.keys
            shown.append(len(below))
        if missing:
            raise Missing(missing)
        return self._drafted(order, shown, request.sort)

    def _drafted(
        self, order: Sequence[tuple[int, int]], shown: Sequence[int], sort: Sort
    ) -> tuple[Drafted, ...]:
        def drafted(place: int) -> Drafted:
            ordinal, above = order[place]
            comment, (_, replies) = _both(lambda: self._s.comment(ordinal), lambda: self._range(ordinal + 1))
            return Drafted(
                comment,
                above,
                replies + len(self._s.added.get(ordinal + 1, ())),
                self._s.descendants(ordinal),
                shown[place],
                self._score(ordinal, sort),
            )

        return tuple(_each(drafted, range(len(order))))

    # --- lists ------------------------------------------------------------------------------------------

    def _range(self, parent: int) -> tuple[int, int]:
        """Where the replies to `parent` (its ordinal and one) begin in the snapshot's order, and how many
        there are."""
        base = self._s.base
        if parent == 0:
            return 0, base.roots
        if parent > base.size:
            return 0, 0
        columns, index = self._s.column(COUNTS, parent - 1)
        return columns[1][index], columns[0][index]

    def _member(self, first: int, place: int, sort: Sort) -> int:
        """The comment at this place of a list that begins at `first`."""
        if sort != "oldest" and sort != "newest":
            kind = RANK_KINDS[sort]
            number = (first + place) >> SHIFT
            if number in self._s.base.ranked.get(kind, ()):
                place = self._segment((kind, number))[(first + place) & (SEGMENT - 1)]
        return self._segment((ORDER, (first + place) >> SHIFT))[(first + place) & (SEGMENT - 1)]

    def _segment(self, key: Key) -> Sequence[int]:
        found = self._s.segments.get(key)
        if found is None:
            raise Missing([key])
        return found[0]

    def _rank_of(self, parent: int, place: Place) -> Rank:
        """Where a list goes on. Raises CursorInvalid."""
        ordinal = self._s.ordinal(place.posted)
        if ordinal is None or not self._s.is_placed(ordinal) or self._s.parent(ordinal) != parent:
            raise CursorInvalid(f"version {place.posted} posted no comment of this list")
        return -place.score, self._s.time(ordinal), ordinal

    def _slice(self, parent: int, sort: Sort, after: Rank | None, count: int) -> Sequence[int]:
        """The first `count` replies to `parent` (its ordinal and one) behind `after`."""
        if sort == "oldest":
            return self._oldest(parent, after, count)
        if sort == "newest":
            return self._newest(parent, after, count)
        return self._ranked(parent, sort, after, count)

    def _oldest(self, parent: int, after: Rank | None, count: int) -> Sequence[int]:
        first, length = self._range(parent)
        added = self._s.added.get(parent, [])
        begin, added_begin = 0, 0
        if after is not None:
            own = after[1:]
            added_begin = bisect_right(added, own, key=self._when)
            begin = bisect_right(range(length), own, key=self._dated(first))
        members = self._members(first, range(begin, min(begin + count, length)), "oldest")
        return self._merged(members, added[added_begin : added_begin + count], self._when)[:count]

    def _newest(self, parent: int, after: Rank | None, count: int) -> Sequence[int]:
        first, length = self._range(parent)
        added = self._s.added.get(parent, [])
        end, added_end = length, len(added)
        if after is not None:
            own = after[1:]
            added_end = bisect_left(added, own, key=self._when)
            end = bisect_left(range(length), own, key=self._dated(first))
        members = self._members(first, range(max(end - count, 0), end), "newest")
        both = self._merged(members, added[max(added_end - count, 0) : added_end], self._when)
        return both[::-1][:count]

    def _ranked(self, parent: int, sort: RankedSort, after: Rank | None, count: int) -> Sequence[int]:
        first, length = self._range(parent)
        later, gone = self._later(parent, sort)
        begin, later_begin = 0, 0
        if after is not None:
            later_begin = bisect_right(later, after)
            begin = bisect_right(
                range(length),
                after,
                key=lambda place: self._then(parent, self._member(first, place, sort), sort),
            )
        members: list[int] = []
        while begin < length and len(members) < count:
            end = min(begin + count, length)
            some = self._members(first, range(begin, end), sort)
            members += (ordinal for ordinal in some if ordinal not in gone)
            begin = end
        come = [rank[2] for rank in later[later_begin : later_begin + count]]
        return self._merged(members[:count], come, lambda ordinal: self._rank(ordinal, sort))[:count]

    def _members(self, first: int, places: range, sort: Sort) -> list[int]:
        return _each(lambda place: self._member(first, place, sort), places)

    def _merged(
        self, members: list[int], come: list[int], key: Callable[[int], tuple[float, ...]]
    ) -> list[int]:
        """Two ordered lists as one."""
        if not come or not members:
            return members or come
        both = members + come
        keys = _each(key, both)
        return [ordinal for _, ordinal in sorted(zip(keys, both, strict=True))]

    def _when(self, ordinal: int) -> tuple[float, int]:
        return self._s.time(ordinal), ordinal

    def _dated(self, first: int) -> Callable[[int], tuple[float, int]]:
        return lambda place: self._when(self._member(first, place, "oldest"))

    # --- scores -----------------------------------------------------------------------------------------

    def _score(self, ordinal: int, sort: Sort) -> float:
        if sort == "oldest" or sort == "newest":
            return 0.0
        return score(sort, *self._s.votes(ordinal), self._s.descendants(ordinal))

    def _rank(self, ordinal: int, sort: RankedSort) -> Rank:
        return -self._score(ordinal, sort), self._s.time(ordinal), ordinal

    def _then(self, parent: int, ordinal: int, sort: RankedSort) -> Rank:
        """What the snapshot has ordered this reply by."""
        votes = self._s.revoted.get(parent, {}).get(ordinal) or self._s.votes(ordinal)
        points = score(sort, *votes, self._s.descendants(ordinal, then=True))
        return -points, self._s.time(ordinal), ordinal

    def _later(self, parent: int, sort: RankedSort) -> tuple[list[Rank], Iterable[int]]:
        """The replies that came or changed since the snapshot, by rank, and which of them it has too."""
        gone: set[int] | dict[int, tuple[int, int]]
        gone = self._s.regrown.get(parent, set()) if sort == "replies" else self._s.revoted.get(parent, {})
        ranked = self._s.later.get((parent, sort))
        if ranked is None:
            ranked = _each(lambda ordinal: self._rank(ordinal, sort), {*gone, *self._s.added.get(parent, ())})
            ranked.sort()
            self._s.later[parent, sort] = ranked
        return ranked, gone


def _each(function: Callable[[_T], _R], arguments: Iterable[_T]) -> list[_R]:
    """The function of each argument. Raises Missing for all of them at once."""
    found: list[_R] = []
    missing: set[Key] = set()
    for argument in arguments:
        try:
            found.append(function(argument))
        except Missing as error:
            missing |= error.keys
    if missing:
        raise Missing(missing)
    return found


def _both(first: Callable[[], _T], second: Callable[[], _R]) -> tuple[_T, _R]:
    """What both give. Raises Missing for both at once."""
    try:
        found = first()
    except Missing as error:
        try:
            second()
        except Missing as other:
            raise Missing(error.keys | other.keys) from None
        raise
    return found, second()
