"""Which comments a page shows, and in what order (contract, sections 1 and 2).

`FoldIndex` picks them from a folded thread, in memory; `services/readmodel/scripts/page.lua` picks the same
ones from Redis. A property test holds the two together.

Order by time is (`created_at`, posting version). Held comments stand in no order and in no count: whoever
may see them is answered from elsewhere.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self, overload
from uuid import UUID

from schema.events.envelope import micros
from services.core.node import PARENT_BYTES, hidden_author
from services.core.ranking import RANKED, RankedSort, Sort, score
from services.core.thread import PATH_LENGTH, Comment, CommentState, ThreadState
from services.errors import CommentNotFound, CursorInvalid, ParentNotFound

MAX_PAGE: Final = 500
"""How many comments a page holds at most, replies included."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a list goes on: behind the comment posted at `posted`, which had this score when it was shown (0
    in the orders of time). A comment whose score has not changed since is neither lost nor shown again."""

    posted: int
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A page of the roots, or of one comment's replies where `parent_id` names it.

    `limit` comments, below each the first `replies` replies, `depth` levels of them. `after` is the last
    comment of the page before. With `focus`, which goes with neither, the page has that comment, the last 32
    above it, one below the other, and its first replies.
    """

    sort: Sort = "oldest"
    limit: int = 50
    replies: int = 3
    depth: int = 3
    parent_id: UUID | None = None
    after: Place | None = None
    focus: UUID | None = None


class Picked(NamedTuple):
    """A comment on a page: its posting version and its parent's, its node, how many replies it has, how many
    comments lie below it, how many replies the page shows, and its score in the page's order (0 in those of
    time)."""

    posted: int
    parent: int
    raw: bytes
    children: int
    descendants: int
    shown: int
    score: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Columns(Sequence[Picked]):
    """The comments of a page side by side: a tuple of each kind of value instead of one of each comment.

    A page of 200 comments is read and written without an object for each of them, which the garbage
    collector would have to look at.
    """

    posted: tuple[int, ...] = ()
    raws: Sequence[bytes] = ()
    children: tuple[int, ...] = ()
    descendants: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()

    @classmethod
    def of(cls, picked: Sequence[Picked]) -> Self:
        """These comments."""
        if isinstance(picked, cls):
            return picked
        posted, _, raws, children, descendants, shown, scores = zip(*picked, strict=True) if picked else _NONE
        return cls(posted, raws, children, descendants, shown, scores)

    def __len__(self) -> int:
        return len(self.posted)

    @overload
    def __getitem__(self, at: int) -> Picked: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Picked]: ...
    def __getitem__(self, at: int | slice) -> Picked | Sequence[Picked]:
        return tuple(self)[at]

    def __iter__(self) -> Iterator[Picked]:
        parents = (int.from_bytes(raw[:PARENT_BYTES], "big") for raw in self.raws)
        columns = (self.posted, parents, self.raws, self.children, self.descendants, self.shown, self.scores)
        return map(Picked, *columns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


_NONE: Final = ((),) * len(Picked._fields)


@dataclass(frozen=True, slots=True)
class Selection:
    """A page's comments, breadth first: `roots` of them stand at its top, below the comment posted at
    `parent` (0: they are roots of the thread), and `more` tells whether the list goes on.

    `ancestors` are the last 32 ids above the page's top, root first, the parent's own included. The first
    `pathed` comments stand there for what is below them: each shows the one next to it, out of order.
    `overlay` are the authors who may see more of this thread than everybody, as text of theirs is not public;
    None where there are very many of them, or where whoever picked the page does not know.
    """

    picked: Sequence[Picked]
    roots: int
    more: bool
    parent: int = 0
    ancestors: tuple[UUID, ...] = ()
    pathed: int = 0
    overlay: frozenset[str] | None = None


class Row(NamedTuple):
    """One thing that a view holds, to compare two views by.

    `kind` and what `value` is there:

    - "nodes", by posting version: (parent, created_at in microseconds, node)
    - "ids", by id: posting version
    - "descendants", by posting version: (children, comments below, sorts in which a child has a score, the
      first children by time)
    - "overlay", by posting version: the author who alone sees its text
    - "size", at 0: how many nodes, ids, descendants and overlay there are, and roots in each list
    - "order", "best", "controversial", "replies", by the parent's posting version (0: the roots): the posting
      versions of those who have a place in the list, in order, each with its time in microseconds, or with
      its score and then its time
    """

    kind: str
    at: int | UUID | bytes
    value: object

    @property
    def key(self) -> tuple[str, int | UUID | bytes]:
        """What it is the value of."""
        return self.kind, self.at


FIRST: Final = 5
"""Replies that a view names beside their number, so that most pages need not look them up."""

OVERLAY: Final = 1000
"""Comments whose text is not public, in the overlay that a page is given with; of more it has none."""


class FoldIndex:
    """A folded thread, ready to be paged: the page's script in memory."""

    def __init__(self, thread: ThreadState, nodes: Mapping[int, bytes]) -> None:
        """`nodes` gives the node of each posting version; only those of comments on a page are asked for."""
        self.thread = thread
        self._nodes = nodes
        self.comments: dict[int, Comment] = {}
        self.descendants: dict[int, int] = {}
        """Posting version to the number of comments below it, where there are any."""
        self._children: dict[int, list[int]] = {}
        self._times: dict[int, float] = {}
        self._orders: dict[tuple[int, RankedSort], Sequence[int]] = {}
        placed = [c for c in thread.comments.values() if c.state is not CommentState.HELD]
        placed.sort(key=lambda comment: comment.posted)
        for comment in placed:
            self.comments[comment.posted] = comment
            # Redis orders by a double, so this must too: they differ from the year 2255 on.
            self._times[comment.posted] = float(micros(comment.created_at))
            self._children.setdefault(comment.parent, []).append(comment.posted)
        for children in self._children.values():
            children.sort(key=self._times.__getitem__)  # stable: of equal times the first posted comes first
        hidden = [c.author_id for c in placed if c.state is CommentState.HIDDEN and c.author_id is not None]
        self.overlay = frozenset(hidden) if len(hidden) <= OVERLAY else None
        for comment in reversed(placed):  # a reply is posted after its parent
            if comment.parent:
                below = self.descendants.get(comment.posted, 0) + 1
                self.descendants[comment.parent] = self.descendants.get(comment.parent, 0) + below

    def node(self, posted: int) -> bytes:
        """The node of the comment posted at this version."""
        return self._nodes[posted]

    def page(self, request: PageRequest) -> Selection:
        """The comments of the page asked for.

        Raises ParentNotFound where the parent is no comment of the thread, CommentNotFound where the comment
        in focus is none, CursorInvalid where `after` is not in the list.
        """
        sort = request.sort
        if request.focus is not None:
            return self._focused(request, request.focus)
        parent, ancestors = 0, list[UUID]()
        if request.parent_id is not None:
            comment = self._placed(request.parent_id)
            if comment is None:
                raise ParentNotFound(request.parent_id)
            parent, ancestors = comment.posted, self._path(comment)
        start = 0 if request.after is None else self._behind(parent, request.after, sort)
        top = self._slice(parent, sort, start, request.limit)
        return Selection(
            picked=self._filled(request, [(posted, parent) for posted in top], 0),
            roots=len(top),
            more=len(self._children.get(parent, ())) > start + len(top),
            parent=parent,
            ancestors=tuple(ancestors[-PATH_LENGTH:]),
            overlay=self.overlay,
        )

    def _focused(self, request: PageRequest, comment_id: UUID) -> Selection:
        comment = self._placed(comment_id)
        if comment is None:
            raise CommentNotFound(comment_id)
        chain = [comment.posted]
        while comment.parent and len(chain) <= PATH_LENGTH:
            comment = self.comments[comment.parent]
            chain.append(comment.posted)
        chain.reverse()
        order = list(zip(chain, (comment.parent, *chain), strict=False))
        return Selection(
            picked=self._filled(request, order, len(chain) - 1),
            roots=1,
            more=False,
            parent=comment.parent,
            ancestors=tuple(self._path(comment)[:-1][-PATH_LENGTH:]),
            pathed=len(chain) - 1,
            overlay=self.overlay,
        )

    def _filled(self, request: PageRequest, order: list[tuple[int, int]], pathed: int) -> tuple[Picked, ...]:
        """The comments in `order`, as (posting version, parent's), with their first replies, breadth first;
        each of the first `pathed` shows the one behind it instead."""
        shown = [1] * pathed
        level_end, level = len(order), 0
        while len(shown) < len(order):
            if len(shown) == level_end:
                level_end, level = len(order), level + 1
            posted = order[len(shown)][0]
            wanted = min(request.replies, MAX_PAGE - len(order)) if level < request.depth else 0
            below = self._slice(posted, request.sort, 0, wanted)
            order.extend((child, posted) for child in below)
            shown.append(len(below))
        return tuple(
            self._picked(posted, above, count, request.sort)
            for (posted, above), count in zip(order, shown, strict=True)
        )

    def comment(self, comment_id: UUID) -> tuple[Picked, tuple[UUID, ...]] | None:
        """One comment and its path; None where the thread has no such comment."""
        comment = self._placed(comment_id)
        if comment is None:
            return None
        path = self._path(comment)[:-1]
        return self._picked(comment.posted, comment.parent, 0, "oldest"), tuple(path[-PATH_LENGTH:])

    def children(self, posted: int) -> Sequence[int]:
        """The replies to the comment posted at this version (0: the roots), oldest first."""
        return self._children.get(posted, ())

    def rows(self) -> Iterator[Row]:
        """Everything that a view of this thread holds, beside its head."""
        hidden = 0
        for posted, comment in self.comments.items():
            raw = self._nodes[posted]
            yield Row("nodes", posted, (comment.parent, micros(comment.created_at), raw))
            yield Row("ids", comment.id, posted)
            if (author := hidden_author(raw)) is not None:
                hidden += 1
                yield Row("overlay", posted, author)
        roots = [len(self.children(0)), 0, 0, 0]
        for parent, children in self._children.items():
            yield Row("order", parent, tuple((child, self._times[child]) for child in children))
            scored: list[RankedSort] = []
            for number, sort in enumerate(RANKED, 1):
                scores = [(child, self.score(child, sort)) for child in self._ranked(parent, sort)]
                places = tuple((child, score, self._times[child]) for child, score in scores if score)
                if places:
                    yield Row(sort, parent, places)
                    scored.append(sort)
                if not parent:
                    roots[number] = len(places)
            if parent:
                below = self.descendants[parent]
                yield Row(
                    "descendants", parent, (len(children), below, tuple(scored), tuple(children[:FIRST]))
                )
        count, parents = len(self.comments), len(self._children) - (0 in self._children)
        yield Row("size", 0, " ".join(map(str, (count, count, parents, hidden, *roots))))

    def _placed(self, comment_id: UUID) -> Comment | None:
        comment = self.thread.comments.get(comment_id)
        return None if comment is None or comment.posted not in self.comments else comment

    def _picked(self, posted: int, parent: int, shown: int, sort: Sort) -> Picked:
        children, below = len(self.children(posted)), self.descendants.get(posted, 0)
        score = self.score(posted, sort)
        return Picked(posted, parent, self._nodes[posted], children, below, shown, score)

    def score(self, posted: int, sort: Sort) -> float:
        """The comment's score in this order; 0 in those of time."""
        if sort == "oldest" or sort == "newest":
            return 0.0
        comment = self.comments[posted]
        return score(sort, comment.up, comment.down, self.descendants.get(posted, 0))

    def _path(self, comment: Comment) -> list[UUID]:
        """The ids of its last 32 ancestors, root first, then its own."""
        path = [comment.id]
        while comment.parent and len(path) <= PATH_LENGTH:
            comment = self.comments[comment.parent]
            path.append(comment.id)
        path.reverse()
        return path

    def _behind(self, parent: int, place: Place, sort: Sort) -> int:
        """How many comments of the list come before what follows on `place`."""
        if place.posted not in self.comments or self.comments[place.posted].parent != parent:
            raise CursorInvalid(f"version {place.posted} posted no comment of this list")
        own = self._times[place.posted], place.posted
        if sort == "oldest" or sort == "newest":
            children = self.children(parent)
            rank = bisect_left(children, own, key=lambda c: (self._times[c], c))
            return len(children) - rank if sort == "newest" else rank + 1
        return bisect_right(
            self._ranked(parent, sort),
            (-place.score, *own),
            key=lambda c: (-self.score(c, sort), self._times[c], c),
        )

    def _slice(self, parent: int, sort: Sort, start: int, count: int) -> Sequence[int]:
        if sort == "newest":
            children = self.children(parent)
            end = max(len(children) - start, 0)
            return children[max(end - count, 0) : end][::-1]
        ordered = self.children(parent) if sort == "oldest" else self._ranked(parent, sort)
        return ordered[start : start + count]

    def _ranked(self, parent: int, sort: RankedSort) -> Sequence[int]:
        """The replies to `parent` by score; sorted once."""
        ranked = self._orders.get((parent, sort))
        if ranked is None:
            # Stable: of equal scores the oldest comes first.
            ranked = sorted(self.children(parent), key=lambda child: -self.score(child, sort))
            self._orders[parent, sort] = ranked
        return ranked
