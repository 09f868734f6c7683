"""The scores that order comments: the greater comes first, and equal ones go by time, oldest first.

Most comments have a score of 0 in each of these orders: nobody has voted on them, or replied.
"""

from __future__ import annotations

from math import sqrt
from typing import Final, Literal

Sort = Literal["oldest", "newest", "best", "controversial", "replies"]
RankedSort = Literal["best", "controversial", "replies"]
RANKED: Final[tuple[RankedSort, ...]] = ("best", "controversial", "replies")

_Z: Final = 1.96
"""The standard normal quantile of a 95 % interval."""
_ZZ: Final = _Z * _Z


def best(up: int, down: int) -> float:
    """The lower bound of Wilson's interval for the share of votes that are up, 0 to 1; 0 without an up vote.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of
    the American Statistical Association 22 (1927), 209-212.
    """
    if up <= 0:
        return 0.0
    votes = up + down
    share = up / votes
    spread = _Z * sqrt((share * (1 - share) + _ZZ / (4 * votes)) / votes)
    return (share + _ZZ / (2 * votes) - spread) / (1 + _ZZ / votes)


def controversial(up: int, down: int) -> float:
    """Many votes, evenly divided: their number by how even they are (0 to 1); 0 where either is missing."""
    if up <= 0 or down <= 0:
        return 0.0
    return (up + down) * (min(up, down) / max(up, down))


def score(sort: RankedSort, up: int, down: int, descendants: int) -> float:
    """The score of a comment with these votes and that many comments below it."""
    match sort:
        case "best":
            return best(up, down)
        case "controversial":
            return controversial(up, down)
        case "replies":
            return float(descendants)
