"""What a mail tells of: notifications, chosen once, and looked at again each time that it is tried."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.core.addresses import new_event_id
from services.eventlog.deliveries import Delivery
from services.eventlog.queries import QUERIES

SHOWN: Final = 100
"""Notifications that one mail shows, the newest; the others it counts."""

_SLACK: Final = timedelta(hours=1)
"""What was told so long before a digest was entered may be in it: the one before it may have been sent while
the notifier had not committed, and clocks differ."""


@dataclass(frozen=True, slots=True)
class Told:
    """One notification in a mail."""

    reason: str
    stream_id: UUID
    comment_id: UUID


@dataclass(frozen=True, slots=True)
class Switched:
    """A webhook endpoint that was switched off."""

    url: str
    owner: str | None
    reason: str


class Mailing:
    """The notifications that go by mail, and a site's own templates for it."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def notification(self, delivery: Delivery, notification_id: UUID) -> tuple[Told, bool] | None:
        """The notification that a mail is about, and whether it was read; None where it is gone, or another
        mail told of it."""
        row = await self._pool.fetchrow(
            QUERIES["take_notification"], delivery.site, delivery.recipient_id, notification_id, delivery.id
        )
        return (
            None if row is None else (Told(row["reason"], row["stream_id"], row["comment_id"]), row["read"])
        )

    async def digest(self, delivery: Delivery) -> tuple[list[Told], int]:
        """What a digest shows, newest first, and of how many. Chosen at its first attempt: any later one
        tells of the same."""
        since = new_event_id(int((delivery.created_at - _SLACK).timestamp() * 1000), bytes(10))
        whose = (delivery.site, delivery.recipient_id, delivery.id, since)
        rows = await self._pool.fetch(QUERIES["digest"], *whose, SHOWN)
        if not rows:
            await self._pool.execute(QUERIES["take_digest"], *whose)
            rows = await self._pool.fetch(QUERIES["digest"], *whose, SHOWN)
        told = [Told(row["reason"], row["stream_id"], row["comment_id"]) for row in rows]
        return told, rows[0]["total"] if rows else 0

    async def to_be_shown(self, recipient_id: str, told: Collection[Told]) -> set[UUID]:
        """Those of the comments that the recipient may see now, in threads that they did not mute."""
        rows = await self._pool.fetch(
            QUERIES["to_be_shown"],
            recipient_id,
            [one.stream_id for one in told],
            [one.comment_id for one in told],
        )
        return {row["comment_id"] for row in rows}

    async def switched_off(self, site: str, endpoint_id: UUID) -> Switched | None:
        """The endpoint, if it is switched off."""
        row = await self._pool.fetchrow(QUERIES["endpoint_switched_off"], endpoint_id, site)
        return None if row is None else Switched(row["url"], row["owner"], row["disabled_reason"] or "")


class SiteTemplates:
    """The templates that sites have put in the place of ours."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def all(self, site: str) -> list[tuple[str, str, datetime]]:
        """Names, sources and since when."""
        rows = await self._pool.fetch(QUERIES["site_templates"], site)
        return [(row["name"], row["source"], row["changed_at"]) for row in rows]

    async def put(self, site: str, name: str, source: str) -> bool:
        """Keep a template that `check_own` let pass. False where there is no such site."""
        return bool(await self._pool.fetchval(QUERIES["set_site_template"], site, name, source))

    async def remove(self, site: str, name: str) -> bool:
        """Go back to ours. False where there was no other."""
        return bool(await self._pool.fetchval(QUERIES["remove_site_template"], site, name))
