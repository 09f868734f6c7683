"""What people want to be told of, by mail and at all; and forgetting somebody, with all that is their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal
from zoneinfo import available_timezones

import asyncpg
import orjson

from services.errors import FieldInvalid
from services.eventlog.inbox import Inbox
from services.eventlog.queries import QUERIES

Mode = Literal["now", "hourly", "daily", "weekly", "off"]
"""When somebody's mail goes: each notification at once, all of an hour, a day, a week in one, or none."""

REASONS: Final[Mapping[str, bool]] = {
    "reply": True,
    "mention": True,
    "follow": True,
    "ancestor": False,
    "moderation": True,
}
"""What one may be told of, and whether one is unless one says otherwise (contract, section 11)."""

BLOCKED: Final = 1_000
"""People that one may block."""

_OWN: Final = (
    "forget_contacts",
    "forget_deliveries",
    "forget_preferences",
    "forget_subscriptions",
    "forget_untold",
)


@dataclass(frozen=True, slots=True)
class Preferences:
    """What somebody wants. `mail` is None where they did not say; `reasons` holds what they did say."""

    mail: Mode | None
    reasons: Mapping[str, bool]
    quiet: Mapping[str, str] | None
    blocked: tuple[str, ...]


NOTHING_SAID: Final = Preferences(None, {}, None, ())


class AllPreferences:
    """The preferences of all sites' people."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def of(self, site: str, author_id: str) -> Preferences:
        """What somebody wants; nothing in particular where they never said."""
        row = await self._pool.fetchrow(QUERIES["preferences"], site, author_id)
        return NOTHING_SAID if row is None else _preferences(row)

    async def change(self, site: str, author_id: str, changes: Mapping[str, object]) -> Preferences:
        """Change what is named (`mail`, `reasons`, `quiet`, `blocked`); None is the default.

        Raises FieldInvalid where the zone of `quiet` is none that Postgres knows.
        """
        try:
            row = await self._pool.fetchrow(
                QUERIES["prefer"], site, author_id, orjson.dumps(changes).decode()
            )
        except asyncpg.InvalidParameterValueError:
            raise FieldInvalid("quiet.zone", "is no time zone") from None
        assert row is not None
        return _preferences(row)


def _preferences(row: asyncpg.Record) -> Preferences:
    quiet = row["quiet"]
    return Preferences(
        row["mail"],
        orjson.loads(row["reasons"]),
        None if quiet is None else orjson.loads(quiet),
        tuple(row["blocked"]),
    )


@cache
def zones() -> frozenset[str]:
    """The time zones that there are (IANA), by name."""
    return frozenset(available_timezones() - {"localtime", "Factory"})


async def forget(pool: asyncpg.Pool[Any], site: str, author_id: str) -> None:
    """Delete all that is somebody's own beside their comments: what they follow and want, their addresses,
    their inbox, what is on its way to them. Done again, it does nothing.

    By which names threads knew them goes with the events of their erasure, as it came with their comments.
    What others keep still names people by their id: events, others' inboxes, and whom they block.
    """
    for query in _OWN:
        await pool.execute(QUERIES[query], site, author_id)
    await Inbox(pool).empty(site, author_id)
