"""Which threads a verification looks at: all of a selection, those with events since a time, or a sample."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from random import Random
from typing import Final
from uuid import UUID

from services.core.addresses import check_site
from services.errors import SiteNotFound
from services.eventlog.log import NIL, ThreadName
from services.eventlog.queries import QUERIES
from services.ops.exits import UsageRefused
from services.ops.selection import thread_named
from services.wiring import Resources

_PAGE: Final = 1_000
_STREAMS: Final = 10_000
"""Streams looked at by one statement where only some of them are wanted."""

_AGO: Final = re.compile(r"(\d+)\s*(s|m|h|d|w)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SAMPLE: Final = re.compile(r"(\d+)|(\d+(?:\.\d+)?)\s*%")
_MISSES: Final = 20
"""So many draws for each thread of a sample, at most: they may meet threads that were drawn already."""


def time_of(given: str, now: datetime | None = None) -> datetime:
    """A time: RFC 3339 with its zone, or how long ago, as in 90s, 15m, 2h, 3d, 1w. Raises UsageRefused."""
    if ago := _AGO.fullmatch(given.strip()):
        try:
            return (now or datetime.now(UTC)) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        except OverflowError as error:
            raise UsageRefused(f"{given}: is before all time") from error
    try:
        when = datetime.fromisoformat(given.strip())
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise UsageRefused(f"{given}: takes a time with its zone, as in 2026-11-23T05:00:00Z, or as 2h or 3d")
    return when


def sample_of(given: str) -> tuple[int | None, float]:
    """How many threads, or what part of them (0 to 1): `100`, or `2.5%`. Raises UsageRefused."""
    match = _SAMPLE.fullmatch(given.strip())
    if match is None:
        raise UsageRefused(f"--sample {given}: a number of threads, or a percentage as 5%")
    if match[1] is not None:
        if int(match[1]) == 0:
            raise UsageRefused("--sample 0: takes at least one thread")
        return int(match[1]), 0.0
    part = float(match[2]) / 100
    if not 0 < part <= 1:
        raise UsageRefused(f"--sample {given}: above 0% and up to 100%")
    return None, part


@dataclass(frozen=True, slots=True)
class Choice:
    """One thread, those of a site, or all; of these those with an event since then, or a sample."""

    site: str | None = None
    thread: str | None = None
    since: datetime | None = None
    sample: tuple[int | None, float] | None = None
    seed: int = 0

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return self.site is None and self.thread is None and self.since is None and self.sample is None

    async def count(self, found: Resources) -> int | None:
        """How many threads there are to be looked at; None where only looking tells."""
        if self.thread is not None:
            return 1
        if self.since is not None:
            return None
        total = int(await found.pool.fetchval(QUERIES["thread_count"], self.site))
        return total if self.sample is None else min(self._sampled(total), total)

    async def threads(self, found: Resources) -> AsyncIterator[ThreadName]:
        """The threads, in no order. Raises SiteNotFound, and UsageRefused for a thread without events."""
        if self.site is not None and await found.sites.get(check_site(self.site)) is None:
            raise SiteNotFound(self.site)
        if self.site is not None and self.thread is not None:
            yield await thread_named(found, self.site, self.thread)
            return
        if self.sample is not None:
            walk = self._drawn(found)
        elif self.since is not None:
            walk = self._since(found, self.since)
        else:
            walk = self._all(found)
        async for name in walk:
            yield name

    async def _all(self, found: Resources) -> AsyncIterator[ThreadName]:
        after = NIL
        while names := await found.log.threads(self.site, after, _PAGE):
            for name in names:
                yield name
            after = names[-1].stream_id

    async def _since(self, found: Resources, when: datetime) -> AsyncIterator[ThreadName]:
        after = NIL
        while rows := await found.pool.fetch(QUERIES["threads_since"], after, self.site, _STREAMS, when):
            for *name, wanted in rows:
                if wanted:
                    yield ThreadName(*name)
            after = rows[-1]["stream_id"]

    async def _drawn(self, found: Resources) -> AsyncIterator[ThreadName]:
        """Stream ids are hashes, spread evenly: the first thread behind an id at random is any of them."""
        total = int(await found.pool.fetchval(QUERIES["thread_count"], self.site))
        wanted = self._sampled(total)
        if wanted >= total:
            async for name in self._all(found):
                yield name
            return
        chance, drawn = Random(self.seed), set[UUID]()  # noqa: S311 - a sample, no secret
        for _ in range(_MISSES * wanted):
            behind = UUID(int=chance.getrandbits(128))
            names = await found.log.threads(self.site, behind, 1)
            names = names or await found.log.threads(self.site, NIL, 1)
            if names and names[0].stream_id not in drawn:
                drawn.add(names[0].stream_id)
                yield names[0]
            if len(drawn) == wanted:
                return

    def _sampled(self, total: int) -> int:
        assert self.sample is not None
        count, part = self.sample
        return ceil(part * total) if count is None else count
