"""What a limit is, and what its headers say.

The generic cell rate algorithm (ITU-T I.371, annex A): a limit of q writes in a window w is one number, its
theoretical arrival time, which every write moves on by an interval of w / q and which may lie at most w
ahead. So q writes may come at once, and then one in each interval. A refused write moves nothing: whoever
keeps asking is not kept out by it.

The headers are those of draft-ietf-httpapi-ratelimit-headers-11: `r` is how many writes may come now, `t` in
how many seconds there is one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

Kind = Literal["author", "address", "site"]

_SECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Limit:
    """`quota` writes in `window` seconds. `interval` and `room` are in microseconds."""

    kind: Kind
    quota: int
    window: int
    interval: int = field(init=False)
    room: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "room", self.window * _SECOND)
        object.__setattr__(self, "interval", self.window * _SECOND // self.quota)

    def wait(self, used: int) -> int:
        """Microseconds until there is room for a write; 0 or less where there is."""
        return used + self.interval - self.room


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits that one write is charged to."""

    limits: tuple[Limit, ...]
    header: str = field(init=False)
    """`RateLimit-Policy`."""

    def __post_init__(self) -> None:
        items = (f'"{one.kind}";q={one.quota};w={one.window}' for one in self.limits)
        object.__setattr__(self, "header", ", ".join(items))

    def left(self, used: Sequence[int]) -> str:
        """`RateLimit`, where that much of each window is used (microseconds)."""
        items = []
        for limit, taken in zip(self.limits, used, strict=True):
            remaining, part = divmod(limit.room - taken, limit.interval)
            seconds = -((part - limit.interval) // _SECOND)
            items.append(f'"{limit.kind}";r={remaining};t={seconds}')
        return ", ".join(items)


@lru_cache(maxsize=1024)
def policy_of(author: int | None, address: int | None, site: int | None) -> Policy:
    """The policy of these quotas: author's and address' a minute, the site's a second; None: no limit."""
    limits = []
    if author is not None:
        limits.append(Limit("author", author, 60))
    if address is not None:
        limits.append(Limit("address", address, 60))
    if site is not None:
        limits.append(Limit("site", site, 1))
    return Policy(tuple(limits))


@dataclass(frozen=True, slots=True)
class Charge:
    """One write and the keys of its limits, in the policy's order."""

    keys: tuple[bytes, ...]
    policy: Policy


Used = Sequence[int]
"""What was answered to a charge: of each limit's window, the microseconds used; -1 - used where refused."""
