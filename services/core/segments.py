"""The segments that a thread's structure lies in: their kinds and columns, and what is told beside them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from schema.events.envelope import GENESIS
from services.core.ranking import RankedSort
from services.core.thread import CommentState

SHIFT: Final = 9
SEGMENT: Final = 1 << SHIFT
"""How many comments a segment holds, or how many places of an order."""

Columns = tuple["array[int]", ...]
Key = tuple[str, int]
"""A segment: its kind, and its number."""

NUMBERS: Final = "number"
"""The version that posted each comment."""
TAGS: Final = "tag"
"""The last four bytes of its id, big-endian."""
PLACES: Final = "place"
"""Its time in microseconds, its depth."""
TREE: Final = "parent"
"""Its parent's ordinal and one; 0 for a root."""
MARKS: Final = "mark"
"""What events about it change, in the order of the constants below."""
COUNTS: Final = "count"
"""How many replies it has that stand in an order; once loaded, also where those begin in it."""
ORDER: Final = "order"
"""The ordinals of the roots in order of time, then those of each comment's replies, comment by comment."""
RANK_KINDS: Final[dict[RankedSort, str]] = {"best": "best", "controversial": "divided", "replies": "reply"}
"""The same places by score: each has the number among its siblings in order of time. A segment in which every
list is in order of time is left out."""

TYPES: Final[dict[str, str]] = {
    NUMBERS: "I",
    TAGS: "I",
    PLACES: "qH",
    TREE: "I",
    MARKS: "BIIIqBIII",
    COUNTS: "I",
    ORDER: "I",
    **dict.fromkeys(RANK_KINDS.values(), "I"),
}
"""The columns of each kind, as the codes of Python's `array`: B, H, I, q take 1, 2, 4, 8 bytes."""

OF_COMMENTS: Final = (NUMBERS, TAGS, PLACES, TREE, MARKS)

CREATED, DEPTH = 0, 1
STATE, SINCE, TEXT, REVISION, EDITED, EDITOR, UP, DOWN, BELOW = range(9)
"""State; version and text version, counted from the posting; revision; time of the last edit (0: none) and
who made it; votes; comments below it, those of the snapshot's time."""

STATES: Final = tuple(CommentState)
NUMBER_OF: Final = {state: number for number, state in enumerate(STATES)}
HELD: Final = NUMBER_OF[CommentState.HELD]
EDITORS: Final = (None, "author", "moderator")


class Missing(Exception):
    """Segments that have to be loaded first."""

    def __init__(self, keys: Iterable[Key]) -> None:
        super().__init__()
        self.keys = frozenset(keys)


@dataclass(frozen=True, slots=True)
class Base:
    """What a snapshot tells beside its segments. `firsts`, `lasts` and `starts` are, of each segment of
    comments, the first and last posting version, and where the replies of its first comment begin in the
    order; `ranked` are the segments there are of each ranked order; `placed` is the length of the order."""

    version: int = 0
    hash: bytes = GENESIS
    site: str = ""
    key: str = ""
    title: str | None = None
    url: str | None = None
    described_by: str | None = None
    closed: bool = False
    visible: int = 0
    size: int = 0
    roots: int = 0
    placed: int = 0
    firsts: tuple[int, ...] = ()
    lasts: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    ranked: dict[str, frozenset[int]] = field(default_factory=dict)


EMPTY: Final = Base()


def empty(kind: str) -> Columns:
    """No comments."""
    return tuple(array(code) for code in TYPES[kind])
