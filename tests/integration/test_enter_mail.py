"""Which mails a notification enters, for whom, and when they are due."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.eventlog.contacts import Contacts
from services.eventlog.keys import Keyring, MasterKey
from services.eventlog.preferences import AllPreferences
from services.eventlog.queries import QUERIES
from tests.writer import MASTER_KEY, SITE, new_id

ANN = "ann@example.org"


class Desk:
    """Where mails are entered."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self.pool = pool
        self.contacts = Contacts(pool, Keyring(pool, MasterKey(MASTER_KEY)))
        self.preferences = AllPreferences(pool)

    async def tell(self, *who: str, event: UUID | None = None, notification: UUID | None = None) -> None:
        """Enter what the notifier would for one notification each."""
        await self.pool.execute(
            QUERIES["enter_mail"],
            SITE,
            [event or new_id() for _ in who],
            list(who),
            [notification or new_id() for _ in who],
        )

    async def entered(self) -> list[tuple[str, str]]:
        rows = await self.pool.fetch(
            "select recipient_id, kind from deliveries order by recipient_id, created_at"
        )
        return [tuple(row) for row in rows]

    async def confirmed(self, author: str, email: str) -> None:
        await self.contacts.keep(SITE, author, "given", email)
        [given] = [one for one in await self.contacts.all(SITE, author) if one.source == "given"]
        await self.contacts.confirm(SITE, author, given.mac)


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=4) as pool:
        yield Desk(pool)


async def test_by_default_mail_is_hourly_for_whoever_the_site_vouches_for(desk: Desk) -> None:
    await desk.contacts.keep(SITE, "ann", "token", ANN)
    await desk.confirmed("bob", "bob@example.org")
    await desk.contacts.keep(SITE, "cem", "given", "unconfirmed@example.org")
    await desk.confirmed("guest:gil", "gil@example.org")
    await desk.contacts.keep(SITE, "guest:gus", "given", "unconfirmed@example.org")
    await desk.tell("ann", "bob", "cem", "dee", "guest:gil", "guest:gus")
    assert await desk.entered() == [("ann", "digest"), ("guest:gil", "digest")]


@pytest.mark.parametrize(
    ("mode", "kinds"),
    [
        ("now", ["notification", "notification"]),
        ("hourly", ["digest"]),
        ("daily", ["digest"]),
        ("weekly", ["digest"]),
        ("off", []),
        (None, ["digest"]),
    ],
)
async def test_two_notifications_are_two_mails_or_one_digest(
    desk: Desk, mode: str | None, kinds: list[str]
) -> None:
    await desk.contacts.keep(SITE, "ann", "token", ANN)
    await desk.preferences.change(SITE, "ann", {"mail": mode})
    await desk.tell("ann", "ann")
    if mode != "now":
        await desk.tell("ann")
    assert [kind for _, kind in await desk.entered()] == kinds


async def test_the_same_notification_enters_one_mail_whoever_tells_of_it_again(desk: Desk) -> None:
    await desk.contacts.keep(SITE, "ann", "token", ANN)
    await desk.preferences.change(SITE, "ann", {"mail": "now"})
    event, notification = new_id(), new_id()
    for _ in range(2):
        await desk.tell("ann", event=event, notification=notification)
    [row] = await desk.pool.fetch("select * from deliveries")
    assert (row["event_id"], row["about"]) == (event, f'{{"notification_id": "{notification}"}}')
    assert await desk.pool.fetchval("select next_at <= now() from deliveries")


async def test_a_refused_address_gets_nothing_and_a_confirmed_one_takes_its_place(desk: Desk) -> None:
    await desk.contacts.keep(SITE, "ann", "token", ANN)
    [token] = await desk.contacts.all(SITE, "ann")
    await desk.contacts.refused(SITE, "ann", token.mac)
    await desk.tell("ann")
    assert await desk.entered() == []
    await desk.confirmed("ann", "other@example.org")
    await desk.tell("ann")
    assert await desk.entered() == [("ann", "digest")]


async def test_a_new_address_is_written_to_after_an_old_one_was_refused(desk: Desk) -> None:
    await desk.contacts.keep(SITE, "ann", "token", ANN)
    [token] = await desk.contacts.all(SITE, "ann")
    await desk.contacts.refused(SITE, "ann", token.mac)
    await desk.contacts.keep(SITE, "ann", "token", ANN)
    assert await desk.contacts.usable(SITE, "ann") is None
    await desk.contacts.keep(SITE, "ann", "token", "new@example.org")
    await desk.tell("ann")
    assert await desk.entered() == [("ann", "digest")]


DUE = [
    ("now", "UTC", "2026-11-23T05:10:00+00:00", "2026-11-23T05:10:00+00:00"),
    ("hourly", "Asia/Kolkata", "2026-11-23T05:10:00+00:00", "2026-11-23T06:00:00+00:00"),
    ("hourly", "UTC", "2026-11-23T05:00:00+00:00", "2026-11-23T06:00:00+00:00"),
    # Eight in the morning, where they live.
    ("daily", "UTC", "2026-11-23T07:59:59+00:00", "2026-11-23T08:00:00+00:00"),
    ("daily", "UTC", "2026-11-23T08:00:00+00:00", "2026-11-24T08:00:00+00:00"),
    ("daily", "Europe/Berlin", "2026-11-23T07:10:00+00:00", "2026-11-24T07:00:00+00:00"),
    ("daily", "America/New_York", "2026-11-23T07:10:00+00:00", "2026-11-23T13:00:00+00:00"),
    # Also on the days when clocks change there.
    ("daily", "Europe/Berlin", "2026-03-28T12:00:00+00:00", "2026-03-29T06:00:00+00:00"),
    ("daily", "Europe/Berlin", "2026-10-24T12:00:00+00:00", "2026-10-25T07:00:00+00:00"),
    # On Monday.
    ("weekly", "UTC", "2026-11-23T07:59:00+00:00", "2026-11-23T08:00:00+00:00"),
    ("weekly", "UTC", "2026-11-23T08:00:00+00:00", "2026-11-30T08:00:00+00:00"),
    ("weekly", "Europe/Berlin", "2026-10-22T08:00:00+00:00", "2026-10-26T07:00:00+00:00"),
    ("weekly", "Pacific/Auckland", "2026-11-22T19:30:00+00:00", "2026-11-29T19:00:00+00:00"),
    ("weekly", "Pacific/Auckland", "2026-11-22T18:30:00+00:00", "2026-11-22T19:00:00+00:00"),
]


async def test_when_a_mail_is_due(desk: Desk) -> None:
    for mode, zone, present, due in DUE:
        found = await desk.pool.fetchval(
            "select mail_due($1, $2, $3)", mode, zone, datetime.fromisoformat(present)
        )
        assert found == datetime.fromisoformat(due), (mode, zone, present)


async def test_a_digest_goes_a_minute_after_it_is_due_so_that_what_is_being_told_is_in_it(desk: Desk) -> None:
    await desk.contacts.keep(SITE, "ann", "token", ANN)
    quiet = {"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"}
    await desk.preferences.change(SITE, "ann", {"mail": "daily", "quiet": quiet})
    before = await desk.pool.fetchval("select mail_due('daily', 'Europe/Berlin', now())")
    await desk.tell("ann")
    after = await desk.pool.fetchval("select mail_due('daily', 'Europe/Berlin', now())")
    found = await desk.pool.fetchval("select next_at - interval '1 minute' from deliveries")
    assert found in (before, after)


async def test_many_are_entered_at_once(desk: Desk) -> None:
    for number in range(40):
        await desk.contacts.keep(SITE, f"u-{number}", "token", f"u-{number}@example.org")
    await desk.tell(*(f"u-{number}" for number in range(80)))
    assert len(await desk.entered()) == 40
