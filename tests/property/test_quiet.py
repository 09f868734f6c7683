"""Quiet hours, on the days when clocks change and on all others."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.quiet import quiet_until

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
)
CHANGES = {
    "Europe/Berlin": [(2026, 3, 29), (2026, 10, 25)],
    "America/New_York": [(2026, 3, 8), (2026, 11, 1)],
    "America/Sao_Paulo": [(2018, 11, 4), (2019, 2, 16)],  # at midnight
    "Australia/Lord_Howe": [(2026, 4, 5), (2026, 10, 4)],  # by half an hour
}
MINUTES = st.integers(0, 24 * 60 - 1)


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, datetime]:
    zone = draw(st.sampled_from(ZONES))
    near = CHANGES.get(zone, [(2026, 6, 1)])
    day = datetime(*draw(st.sampled_from(near)), tzinfo=UTC)
    return zone, day + timedelta(
        minutes=draw(st.integers(-36 * 60, 60 * 60)), seconds=draw(st.integers(0, 59))
    )


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def inside(begin: int, end: int, local: datetime) -> bool:
    """Whether a clock on the wall stands between the two, minute by minute around the day."""
    now = local.hour * 60 + local.minute
    return (now - begin) % 1440 < (end - begin) % 1440


@given(moments(), MINUTES, MINUTES)
def test_quiet_hours_last_until_the_clock_on_the_wall_says_so(
    when: tuple[str, datetime], begin: int, end: int
) -> None:
    zone, present = when
    wall = ZoneInfo(zone)
    until = quiet_until({"from": clock(begin), "to": clock(end), "zone": zone}, present)
    assert (until is not None) == inside(begin, end, present.astimezone(wall))
    if until is None:
        return
    assert until.tzinfo is UTC
    assert present < until <= present + timedelta(hours=26)
    shown = until.astimezone(wall)
    exists = shown.time() == time(end // 60, end % 60)
    if not exists:  # left out when clocks went forward: as much later as they went
        assert shown.utcoffset() != (until - timedelta(hours=2)).astimezone(wall).utcoffset()
    # No moment before it, as the minutes go by, shows the end.
    moment = present
    while moment < until:
        assert moment.astimezone(wall).time().replace(second=0) != time(end // 60, end % 60)
        moment += timedelta(minutes=1)


@pytest.mark.parametrize(
    ("begin", "end", "zone", "present", "until"),
    [
        ("22:00", "07:00", "Europe/Berlin", "2026-11-23T22:30+00:00", "2026-11-24T06:00+00:00"),
        ("22:00", "07:00", "Europe/Berlin", "2026-11-23T05:59+00:00", "2026-11-23T06:00+00:00"),
        ("22:00", "07:00", "Europe/Berlin", "2026-11-23T06:00+00:00", None),
        ("22:00", "07:00", "Europe/Berlin", "2026-11-23T20:59+00:00", None),
        ("22:00", "07:00", "Europe/Berlin", "2026-11-23T21:00+00:00", "2026-11-24T06:00+00:00"),
        ("12:00", "13:00", "Asia/Kolkata", "2026-11-23T06:45+00:00", "2026-11-23T07:30+00:00"),
        # 02:30 is left out: what would be it, had clocks not changed.
        ("22:00", "02:30", "Europe/Berlin", "2026-03-29T00:59+00:00", "2026-03-29T01:30+00:00"),
        # 02:30 comes twice: the first one, and once that is over, the second.
        ("22:00", "02:30", "Europe/Berlin", "2026-10-25T00:10+00:00", "2026-10-25T00:30+00:00"),
        ("22:00", "02:30", "Europe/Berlin", "2026-10-25T00:40+00:00", None),
        ("22:00", "02:30", "Europe/Berlin", "2026-10-25T01:10+00:00", "2026-10-25T01:30+00:00"),
        ("00:00", "00:00", "UTC", "2026-11-23T00:00+00:00", None),
        ("22:00", "07:00", "Nowhere/At_All", "2026-11-23T23:00+00:00", "2026-11-24T07:00+00:00"),
    ],
)
def test_some_nights(begin: str, end: str, zone: str, present: str, until: str | None) -> None:
    found = quiet_until({"from": begin, "to": end, "zone": zone}, datetime.fromisoformat(present))
    assert found == (None if until is None else datetime.fromisoformat(until))
