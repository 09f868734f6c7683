"""Quiet hours: when somebody wants no mail, by the clock on their wall."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_DAY = timedelta(days=1)


def quiet_until(quiet: Mapping[str, str], present: datetime) -> datetime | None:
    """When the quiet hours end that `present` (aware) lies in, in UTC; None where it lies in none.

    `quiet` is a preference (contract, section 11): `from`, which belongs to them, `to`, which does not, and
    the `zone`; where both are the same time, none are quiet. Of an end that the clocks show twice the first
    one yet to come counts, and one that they leave out is where it would be had they not changed (RFC 5545,
    section 3.3.5). A zone that is not known here is taken for UTC.
    """
    begin, end = time.fromisoformat(quiet["from"]), time.fromisoformat(quiet["to"])
    local = present.astimezone(_zone(quiet["zone"]))
    clock = local.time()
    inside = begin <= clock < end if begin <= end else clock >= begin or clock < end
    if not inside:
        return None
    wall = datetime.combine(local.date() + (_DAY if clock >= end else timedelta()), end, local.tzinfo)
    first = wall.astimezone(UTC)
    return first if first > present else wall.replace(fold=1).astimezone(UTC)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")
