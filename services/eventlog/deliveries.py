"""Deliveries: what is to leave for somewhere else, one row each, until it went out or cannot.

A row is claimed for some seconds, the claim committed, the thing sent, and what came of it recorded. Whoever
dies between sending and recording leaves the row to be claimed again: at least once, always under the same
id, which is the mail's Message-ID and the webhook's webhook-id. docs/notifications.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import asyncpg

from services.core.schedule import ATTEMPTS, wait
from services.eventlog.queries import QUERIES

WEBHOOK: Final = "webhook"
MAIL: Final = "mail"
CHANNELS: Final = (MAIL, WEBHOOK)

TO_ONE_ENDPOINT: Final = 4
"""How many one process sends to an endpoint at once."""
REASON: Final = 200
"""Characters of a reason that are kept."""
KEPT_DAYS: Final = 30
"""How long what was sent, or could not be, is kept."""
COUNTED: Final = 10_000
"""More than so many deliveries of one kind are not counted."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One thing to be sent. `attempts` counts the present one; `about` holds ids, and no content."""

    id: UUID
    site: str
    channel: str
    kind: str
    recipient_id: str | None
    endpoint_id: UUID | None
    event_id: UUID | None
    about: dict[str, Any]
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Sent:
    """It was taken."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """It is not wanted any more: nothing was sent, and nothing will be."""

    reason: str


@dataclass(frozen=True, slots=True)
class Again:
    """It failed in a way that may pass. `after`: seconds that the other side asks for."""

    reason: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """It failed for good."""

    reason: str


@dataclass(frozen=True, slots=True)
class Later:
    """It is not to go before `at` (UTC): this was no attempt."""

    at: datetime


Outcome = Sent | Dropped | Again | Dead | Later
Ended = Literal["sent", "dropped", "dead"]
Recorded = Literal[Ended, "again", "later"]
OUTCOMES: Final[tuple[Recorded, ...]] = ("sent", "again", "later", "dropped", "dead")
State = Literal["pending", Ended]


@dataclass(frozen=True, slots=True)
class Listed:
    """A delivery as it stands. `next_at` is when it is due, or, while it is sent, when it is given up for
    lost."""

    delivery: Delivery
    state: State
    next_at: datetime
    reason: str | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which deliveries: those of a site, in a state, of a channel; None is any."""

    site: str | None = None
    state: State | None = None
    channel: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A channel's deliveries. `due` and `dead` are counted up to COUNTED; `late` is for how many seconds the
    oldest that could go has been due: what waits for an endpoint whose circuit is open could not."""

    channel: str
    due: int
    dead: int
    late: float


class Channel(Protocol):
    """A way out."""

    @property
    def name(self) -> str:
        """Which deliveries are its: `mail` or `webhook`."""

    @property
    def at_once(self) -> int:
        """How many it sends at once, in one process, at most."""

    async def send(self, delivery: Delivery) -> Outcome:
        """Send one, within some seconds. An exception counts as Again."""


class Deliveries:
    """The deliveries of all sites."""

    def __init__(self, pool: asyncpg.Pool[Any] | asyncpg.Connection[Any]) -> None:
        self._pool = pool

    async def claim(
        self, channel: str, limit: int, lease: float, under_way: Mapping[UUID, int] | None = None
    ) -> list[Delivery]:
        """At most `limit` due ones of a channel, oldest first and digests last, for `lease` seconds.

        Webhooks are taken in turn from each endpoint whose circuit is closed; `under_way` counts what this
        process is sending to an endpoint already.
        """
        if channel == WEBHOOK:
            busy = under_way or {}
            rows = await self._pool.fetch(
                QUERIES["claim_webhooks"], limit, lease, list(busy), list(busy.values()), TO_ONE_ENDPOINT
            )
        else:
            # What somebody waits for goes before digests, however many of these are due at eight.
            rows = await self._pool.fetch(QUERIES["claim_first"], channel, limit, lease)
            if len(rows) < limit:
                rows += await self._pool.fetch(QUERIES["claim_digests"], channel, limit - len(rows), lease)
        return [_delivery(row) for row in rows]

    async def record(self, delivery: Delivery, outcome: Outcome, drawn: float) -> Recorded:
        """Write down what came of a claimed one; what it counts as. `drawn` is in [0, 1).

        Where the lease had ended and another has claimed it since, only Sent is taken from this one.
        """
        attempts = delivery.attempts
        match outcome:
            case Sent():
                return await self._end(delivery, "sent", None)
            case Dropped(reason):
                return await self._end(delivery, "dropped", reason)
            case Dead(reason):
                return await self._end(delivery, "dead", reason)
            case Again(reason) if attempts >= ATTEMPTS:
                return await self._end(delivery, "dead", f"{attempts} attempts; the last: {reason}")
            case Again(reason, after):
                seconds = wait(attempts, drawn, after)
                reason = readable(reason)
                await self._pool.execute(QUERIES["put_off_delivery"], delivery.id, seconds, reason, attempts)
                return "again"
            case Later(at):
                await self._pool.execute(QUERIES["leave_delivery"], delivery.id, at, attempts)
                return "later"

    async def _end(self, delivery: Delivery, state: Ended, reason: str | None) -> Recorded:
        said = None if reason is None else readable(reason)
        await self._pool.execute(QUERIES["end_delivery"], delivery.id, state, said, delivery.attempts)
        return state

    async def listed(self, wanted: Wanted, after: tuple[datetime, UUID] | None, limit: int) -> list[Listed]:
        """Those that are wanted, newest first, at most `limit`, from behind `after` on."""
        rows = await self._pool.fetch(
            QUERIES["listed_deliveries"],
            *(wanted.site, wanted.state, wanted.channel),
            *(after or (None, None)),
            limit,
        )
        return [_listed(row) for row in rows]

    async def one(self, delivery_id: UUID) -> Listed | None:
        """A delivery by its id."""
        row = await self._pool.fetchrow(QUERIES["delivery"], delivery_id)
        return None if row is None else _listed(row)

    async def retry(self, delivery_id: UUID) -> bool:
        """Have one sent now, whatever its attempts, under the same id; False where it was sent already."""
        return await self._pool.fetchval(QUERIES["retry_delivery"], delivery_id) is not None

    async def retry_dead(self, site: str, channel: str | None, limit: int) -> int:
        """Have dead ones of a site sent now, oldest first, at most `limit`; how many."""
        channels = CHANNELS if channel is None else (channel,)
        return len(await self._pool.fetch(QUERIES["retry_dead_deliveries"], site, channels, limit))

    async def standing(self) -> list[Standing]:
        """How many are due and dead, by channel."""
        return [Standing(*row) for row in await self._pool.fetch(QUERIES["deliveries_standing"], COUNTED)]

    async def bury(self, limit: int) -> int:
        """End what waits for endpoints that are switched off or gone, at most `limit` of each; how many."""
        return _count(await self._pool.execute(QUERIES["bury_deliveries"], limit))

    async def remove_old(self, limit: int) -> int:
        """Delete what ended more than KEPT_DAYS ago, at most `limit`; how many."""
        return _count(await self._pool.execute(QUERIES["remove_old_deliveries"], KEPT_DAYS, limit))


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])


def readable(reason: str) -> str:
    """A reason as it is kept: one line of what can be printed, some characters long."""
    line = " ".join("".join(one if one.isprintable() else " " for one in reason).split())
    return line if len(line) <= REASON else line[: REASON - 1] + "…"


def _listed(row: asyncpg.Record) -> Listed:
    return Listed(_delivery(row), row["state"], row["next_at"], row["reason"], row["ended_at"])


def _delivery(row: asyncpg.Record) -> Delivery:
    return Delivery(
        id=row["delivery_id"],
        site=row["site"],
        channel=row["channel"],
        kind=row["kind"],
        recipient_id=row["recipient_id"],
        endpoint_id=row["endpoint_id"],
        event_id=row["event_id"],
        about=json.loads(row["about"]),
        attempts=row["attempts"],
        created_at=row["created_at"],
    )
