"""Deliveries: who claims what, what comes of it, and who looks after what is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.core.schedule import ATTEMPTS, FAILURES_TO_OPEN, longest_wait
from services.eventlog.deliveries import (
    REASON,
    TO_ONE_ENDPOINT,
    Again,
    Dead,
    Deliveries,
    Delivery,
    Dropped,
    Later,
    Outcome,
    Sent,
    Wanted,
)
from services.eventlog.queries import QUERIES
from services.workers.caretaker import dismiss
from services.workers.deliverer import LOOK_S, Deliverer
from services.workers.metrics import WorkerMetrics
from services.workers.undelivered import Undelivered
from tests.processes import until
from tests.receiving import Desk, Slot
from tests.writer import SITE, writer

MINUTE = 60.0


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    async with writer(database_url) as log:
        desk = Desk(log)
        await desk.site()
        yield desk


async def mails(desk: Desk, count: int, *, due: str = "now()") -> list[UUID]:
    """Enter so many mails, the first due first."""
    ids = [uuid4() for _ in range(count)]
    for number, one in enumerate(ids):
        await desk.pool.execute(
            "insert into deliveries (delivery_id, site, channel, kind, recipient_id, next_at)"
            f" values ($1, $2, 'mail', 'notification', 'ann', {due} + $3 * interval '1 ms' - interval '1 s')",
            *(one, SITE, number),
        )
    return ids


async def claimed(desk: Desk) -> Delivery:
    (delivery,) = await desk.deliveries.claim("mail", 1, MINUTE)
    return delivery


# --- claiming ----------------------------------------------------------------------------------------------


async def test_the_oldest_due_is_claimed_first_and_nothing_that_is_not_due(desk: Desk) -> None:
    later = await mails(desk, 1, due="now() + interval '1 hour'")
    ids = await mails(desk, 3)
    first = await desk.deliveries.claim("mail", 2, MINUTE)
    assert [one.id for one in first] == ids[:2]
    assert [one.attempts for one in first] == [1, 1]
    assert [one.id for one in await desk.deliveries.claim("mail", 9, MINUTE)] == ids[2:]
    assert await desk.deliveries.claim("mail", 9, MINUTE) == []
    assert await desk.deliveries.claim("webhook", 9, MINUTE) == []
    assert (await desk.one(later[0])).delivery.attempts == 0


async def test_what_somebody_waits_for_goes_before_digests(desk: Desk) -> None:
    ids = await mails(desk, 4)
    await desk.pool.execute("update deliveries set kind = 'digest' where delivery_id = any($1)", ids[:2])
    got = [one.id for _ in range(2) for one in await desk.deliveries.claim("mail", 3, MINUTE)]
    assert (set(got[:2]), set(got[2:])) == (set(ids[2:]), set(ids[:2]))


async def test_several_claim_at_once_and_nothing_twice(desk: Desk) -> None:
    ids = await mails(desk, 100)
    got = await asyncio.gather(*(desk.deliveries.claim("mail", 10, MINUTE) for _ in range(16)))
    rest = await desk.deliveries.claim("mail", 100, MINUTE)  # of two at once, one may pass over the other's
    assert sorted(one.id for some in (*got, rest) for one in some) == sorted(ids)


async def test_whose_claim_has_run_out_loses_it_to_another(desk: Desk) -> None:
    (id_,) = await mails(desk, 1)
    slow = await claimed(desk)
    await desk.due()
    quick = await claimed(desk)
    assert (slow.id, slow.attempts, quick.attempts) == (id_, 1, 2)
    assert await desk.deliveries.record(slow, Dead("too late"), 0.5) == "dead"
    await desk.deliveries.record(slow, Again("too late"), 0.0)
    await desk.deliveries.record(slow, Later(datetime.now(UTC)), 0.0)
    row = await desk.one(id_)
    assert (row.state, row.reason, row.delivery.attempts) == ("pending", None, 2)
    assert await desk.deliveries.claim("mail", 1, MINUTE) == []
    await desk.deliveries.record(slow, Sent(), 0.5)
    assert (await desk.one(id_)).state == "sent", "sent is sent, whoever says it"
    await desk.deliveries.record(quick, Dead("it was there before"), 0.5)
    assert (await desk.one(id_)).state == "sent"


async def webhooks(desk: Desk, names: str, each: int) -> dict[str, UUID]:
    """Endpoints of these names, each with so many deliveries."""
    made = {name: (await desk.endpoint(f"https://{name}.example/")).id for name in names}
    for comment in await desk.comments(each):
        await desk.tell(comment)
    return made


def number_to(claims: list[Delivery], endpoint: UUID) -> int:
    return sum(one.endpoint_id == endpoint for one in claims)


async def test_every_endpoint_has_its_turn_whatever_waits_for_the_others(desk: Desk) -> None:
    busy = (await desk.endpoint("https://busy.example/")).id
    for comment in await desk.comments(12):
        await desk.tell(comment)
    quiet = (await webhooks(desk, "q", 1))["q"]
    claims = await desk.deliveries.claim("webhook", 2, MINUTE)
    assert {one.endpoint_id for one in claims} == {busy, quiet}
    under_way = {busy: 1, quiet: 1}
    claims = await desk.deliveries.claim("webhook", 100, MINUTE, under_way)
    assert number_to(claims, busy) == TO_ONE_ENDPOINT - 1
    assert number_to(claims, quiet) == 0
    assert await desk.deliveries.claim("webhook", 100, MINUTE, {busy: TO_ONE_ENDPOINT}) == []


async def test_who_fails_is_tried_one_at_a_time_and_not_at_all_while_its_circuit_is_open(desk: Desk) -> None:
    made = await webhooks(desk, "ab", 6)
    await desk.endpoints.failed(made["a"], 0)
    claims = await desk.deliveries.claim("webhook", 100, MINUTE)
    assert (number_to(claims, made["a"]), number_to(claims, made["b"])) == (1, TO_ONE_ENDPOINT)
    await desk.endpoints.failed(made["a"], MINUTE)
    await desk.due()
    await desk.pool.execute(
        "update webhook_endpoints set open_until = now() + interval '1 min' where failures > 0"
    )
    claims = await desk.deliveries.claim("webhook", 100, MINUTE)
    assert number_to(claims, made["a"]) == 0
    await desk.endpoints.succeeded(made["a"])
    assert number_to(await desk.deliveries.claim("webhook", 100, MINUTE), made["a"]) == TO_ONE_ENDPOINT


async def test_an_event_is_entered_once_for_each_endpoint_and_part(desk: Desk) -> None:
    await webhooks(desk, "abc", 1)
    off = (await desk.endpoints.of(SITE))[0].id
    await desk.endpoints.switch_off(off, "tea", mails=False)
    (comment,) = await desk.comments(1)
    for _ in range(2):
        await desk.tell(comment)
    about = '{"comment_id": "x", "recipients": []}'
    await desk.pool.execute(QUERIES["enter_webhooks"], [SITE], [comment], [about], ["another part"])
    rows = await desk.pool.fetch("select endpoint_id from deliveries where event_id = $1", comment)
    assert len(rows) == 4
    assert off not in {row["endpoint_id"] for row in rows}


# --- what comes of it --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "state", "reason"),
    [
        (Sent(), "sent", None),
        (Dropped("not wanted"), "dropped", "not wanted"),
        (Dead("nobody there"), "dead", "nobody there"),
    ],
)
async def test_what_has_ended_is_left_alone(
    desk: Desk, outcome: Outcome, state: str, reason: str | None
) -> None:
    (id_,) = await mails(desk, 1)
    assert await desk.deliveries.record(await claimed(desk), outcome, 0.5) == state
    await desk.due()
    row = await desk.one(id_)
    assert (row.state, row.reason) == (state, reason)
    assert row.ended_at is not None
    assert await desk.deliveries.claim("mail", 1, MINUTE) == []


async def test_what_failed_waits_and_after_the_last_attempt_it_is_dead(desk: Desk) -> None:
    (id_,) = await mails(desk, 1)
    for attempt in range(1, ATTEMPTS + 1):
        await desk.due()
        delivery = await claimed(desk)
        assert delivery.attempts == attempt
        became = await desk.deliveries.record(delivery, Again("no tea"), 0.5)
        row = await desk.one(id_)
        if attempt < ATTEMPTS:
            assert (became, row.state, row.reason) == ("again", "pending", "no tea")
            waits = (row.next_at - datetime.now(UTC)).total_seconds()
            half = longest_wait(attempt) / 2
            assert half - 30 < waits <= half
    row = await desk.one(id_)
    assert row.state == "dead"
    assert row.reason == f"{ATTEMPTS} attempts; the last: no tea"


async def test_quiet_hours_are_no_attempt(desk: Desk) -> None:
    (id_,) = await mails(desk, 1)
    at = datetime.now(UTC) + timedelta(hours=8)
    for _ in range(3):
        await desk.due()
        assert await desk.deliveries.record(await claimed(desk), Later(at), 0.5) == "later"
    row = await desk.one(id_)
    assert (row.delivery.attempts, row.next_at, row.state) == (0, at, "pending")


async def test_a_reason_is_kept_short_and_printable(desk: Desk) -> None:
    (id_,) = await mails(desk, 1)
    await desk.deliveries.record(await claimed(desk), Dead("a\x1b[31m\r\nb\x00\u202e" + "c" * 10_000), 0.5)
    reason = (await desk.one(id_)).reason
    assert reason is not None
    assert reason.startswith("a [31m b ccc")
    assert len(reason) == REASON


async def test_a_retry_keeps_the_id_and_what_was_sent_is_not_sent_again(desk: Desk) -> None:
    first, second, third = await mails(desk, 3)
    for outcome in (Dead("x"), Sent(), Dropped("y")):
        await desk.deliveries.record(await claimed(desk), outcome, 0.5)
    assert await desk.deliveries.retry(first)
    assert not await desk.deliveries.retry(second)
    delivery = await claimed(desk)
    assert (delivery.id, delivery.attempts) == (first, 1)
    await desk.deliveries.record(delivery, Dead("again"), 0.5)
    assert await desk.deliveries.retry_dead("another", None, 10) == 0
    assert await desk.deliveries.retry_dead(SITE, "webhook", 10) == 0
    assert await desk.deliveries.retry_dead(SITE, "mail", 10) == 1
    assert (await desk.one(first)).state == "pending"
    assert (await desk.one(third)).state == "dropped"


async def test_a_listing_goes_on_from_page_to_page(desk: Desk) -> None:
    ids = await mails(desk, 7)
    seen, after = [], None
    while page := await desk.deliveries.listed(Wanted(SITE, "pending", "mail"), after, 3):
        seen += [one.delivery.id for one in page]
        after = (page[-1].delivery.created_at, page[-1].delivery.id)
    assert sorted(seen) == sorted(ids)
    assert await desk.deliveries.listed(Wanted("another"), None, 3) == []


# --- the loop ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(*deliverers: Deliverer) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.run()) for one in deliverers]
    try:
        yield
    finally:
        for one in deliverers:
            one.stop()
        for task in tasks:
            await dismiss(task)


def counts() -> tuple[CollectorRegistry, WorkerMetrics]:
    registry = CollectorRegistry()
    return registry, WorkerMetrics(registry)


async def ends(desk: Desk, **states: int) -> None:
    await until(desk.states, f"deliveries {states}", lambda found: found == states)


async def answered(outcome: Outcome) -> Outcome:
    return outcome


async def test_several_deliverers_share_what_is_due(desk: Desk) -> None:
    ids = await mails(desk, 60)
    slots = [Slot("mail", lambda _: answered(Sent())) for _ in range(3)]
    registry, metrics = counts()
    async with running(*(Deliverer(desk.deliveries, [slot], metrics) for slot in slots)):
        await ends(desk, sent=60)
    assert sorted(one.id for slot in slots for one in slot.given) == sorted(ids)
    labels = {"channel": "mail", "outcome": "sent"}
    assert registry.get_sample_value("threadlog_deliveries_total", labels) == 60


async def test_no_more_are_sent_at_once_than_the_channel_takes(desk: Desk) -> None:
    await mails(desk, 20)
    most = now = 0
    all_in = asyncio.Event()

    async def send(_: Delivery) -> Outcome:
        nonlocal most, now
        now += 1
        most = max(most, now)
        if now == 4:
            all_in.set()
        await all_in.wait()
        await asyncio.sleep(0)
        now -= 1
        return Sent()

    _, metrics = counts()
    async with running(Deliverer(desk.deliveries, [Slot("mail", send, at_once=4)], metrics)):
        await ends(desk, sent=20)
    assert most == 4


async def test_an_endpoint_that_hangs_holds_up_nobody_else(desk: Desk) -> None:
    made = await webhooks(desk, "ab", 20)
    hangs, ended = made["a"], asyncio.Event()

    async def send(delivery: Delivery) -> Outcome:
        if delivery.endpoint_id == hangs:
            await ended.wait()
        return Sent()

    _, metrics = counts()
    slot = Slot("webhook", send, at_once=2 * TO_ONE_ENDPOINT)
    async with running(Deliverer(desk.deliveries, [slot], metrics)):
        await ends(desk, sent=20, pending=20)
        assert number_to(slot.given, hangs) == TO_ONE_ENDPOINT
        ended.set()
        await ends(desk, sent=40)


async def test_a_channel_that_is_not_there_claims_nothing(desk: Desk) -> None:
    (id_,) = await mails(desk, 1)
    await webhooks(desk, "a", 1)
    _, metrics = counts()
    async with running(Deliverer(desk.deliveries, [Slot("webhook", lambda _: answered(Sent()))], metrics)):
        await ends(desk, sent=1, pending=1)
    assert (await desk.one(id_)).delivery.attempts == 0


async def test_whatever_a_channel_raises_is_tried_again(desk: Desk) -> None:
    (id_,) = await mails(desk, 1)

    async def send(_: Delivery) -> Outcome:
        raise RuntimeError("what the mail said")

    _, metrics = counts()
    async with running(Deliverer(desk.deliveries, [Slot("mail", send)], metrics)):
        row = await until(lambda: desk.one(id_), "a reason", lambda found: found.reason is not None)
    assert row.state == "pending"
    assert "what the mail said" not in str(row.reason)


async def test_who_hangs_is_given_up_before_its_lease_ends(desk: Desk) -> None:
    (id_,) = await mails(desk, 1)

    async def send(_: Delivery) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    _, metrics = counts()
    async with running(Deliverer(desk.deliveries, [Slot("mail", send)], metrics, lease=0.4)):
        row = await until(lambda: desk.one(id_), "a reason", lambda found: found.reason is not None)
    assert row.reason == "not sent within 0.3 s"


async def test_the_end_is_quick_and_leaves_what_was_under_way_to_others(desk: Desk) -> None:
    (id_,) = await mails(desk, 1)
    begun = asyncio.Event()

    async def send(_: Delivery) -> Outcome:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    _, metrics = counts()
    deliverer = Deliverer(desk.deliveries, [Slot("mail", send)], metrics)
    task = asyncio.create_task(deliverer.run())
    await asyncio.wait_for(begun.wait(), 30)
    deliverer.stop()
    await asyncio.wait_for(task, 30)
    row = await desk.one(id_)
    assert (row.state, row.reason) == ("pending", None)


class Counting(Deliveries):
    """Deliveries whose looks are counted."""

    looks = 0

    async def claim(self, *arguments: Any) -> list[Delivery]:
        self.looks += 1
        return await super().claim(*arguments)


async def test_an_idle_channel_looks_only_now_and_then(desk: Desk) -> None:
    counting = Counting(desk.pool)
    _, metrics = counts()
    begun = asyncio.get_running_loop().time()
    async with running(Deliverer(counting, [Slot("mail", lambda _: answered(Sent()))], metrics)):
        await until(lambda: answered_number(counting), "three looks", lambda looks: looks >= 3)
    assert counting.looks <= 1 + (asyncio.get_running_loop().time() - begun) / LOOK_S


async def answered_number(counting: Counting) -> int:
    return counting.looks


async def test_who_is_woken_looks_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.workers.deliverer.LOOK_S", 3600.0)
    _, metrics = counts()
    slot = Slot("mail", lambda _: answered(Sent()))
    deliverer = Deliverer(desk.deliveries, [slot], metrics)
    async with running(deliverer):
        await mails(desk, 1)

        async def woken() -> dict[str, int]:
            deliverer.wake()
            return await desk.states()

        await until(woken, "it is sent", lambda found: found == {"sent": 1})


# --- what is left ------------------------------------------------------------------------------------------


async def look(desk: Desk) -> CollectorRegistry:
    registry, metrics = counts()
    async with desk.pool.acquire() as connection:
        await Undelivered(metrics).look(connection)  # type: ignore[arg-type]
    return registry


async def test_what_waits_for_who_is_off_or_gone_is_ended(desk: Desk) -> None:
    made = await webhooks(desk, "abc", 3)
    await desk.endpoints.switch_off(made["a"], "tea", mails=False)
    await desk.endpoints.remove(SITE, made["b"])
    await look(desk)
    rows = await desk.pool.fetch(
        "select distinct endpoint_id, state, reason, ended_at is null from deliveries"
    )
    assert {tuple(row) for row in rows} == {
        (made["a"], "dead", "the endpoint is switched off", False),
        (made["b"], "dropped", "the endpoint was removed", False),
        (made["c"], "pending", None, True),
    }
    await desk.endpoints.enable(SITE, made["a"])
    assert await desk.deliveries.retry_dead(SITE, None, 100) == 3
    assert await desk.states() == {"pending": 6, "dropped": 3}


async def test_what_ended_long_ago_is_forgotten(desk: Desk) -> None:
    old, young, waiting = await mails(desk, 3)
    for _ in range(2):
        await desk.deliveries.record(await claimed(desk), Sent(), 0.5)
    await desk.pool.execute("update deliveries set created_at = created_at - interval '90 days'")
    for id_, days in ((old, 31), (young, 29)):
        await desk.pool.execute(
            "update deliveries set ended_at = now() - make_interval(days => $2) where delivery_id = $1",
            id_,
            days,
        )
    await look(desk)
    assert await desk.deliveries.one(old) is None
    assert (await desk.one(young)).state == "sent"
    assert (await desk.one(waiting)).state == "pending"


async def test_a_replaced_secret_is_forgotten_once_it_signs_nothing(desk: Desk) -> None:
    made = await desk.endpoint("https://a.example/")
    await desk.endpoints.rotate_secret(SITE, made.id)
    kept = "select wrapped_before is not null from webhook_endpoints"
    await look(desk)
    assert await desk.pool.fetchval(kept)
    await desk.pool.execute("update webhook_endpoints set before_until = now() - interval '1 s'")
    await look(desk)
    assert not await desk.pool.fetchval(kept)


async def test_what_is_due_late_and_dead_is_counted(desk: Desk) -> None:
    made = await webhooks(desk, "abc", 2)
    await mails(desk, 3)
    await desk.deliveries.record(await claimed(desk), Dead("x"), 0.5)
    await desk.pool.execute(
        "update deliveries set next_at = next_at - interval '1 hour' where state = 'pending'"
    )
    for _ in range(FAILURES_TO_OPEN):
        await desk.endpoints.failed(made["a"], 0)
    await desk.endpoints.failed(made["b"], MINUTE)
    await desk.endpoints.switch_off(made["c"], "tea", mails=False)
    registry = await look(desk)

    def value(name: str, **labels: str) -> float:
        found = registry.get_sample_value(f"threadlog_{name}", labels)
        assert found is not None
        return found

    assert value("deliveries_due", channel="mail") == 2
    assert value("deliveries_due", channel="webhook") == 4
    assert value("deliveries_dead", channel="mail") == 1
    assert value("deliveries_dead", channel="webhook") == 2
    assert 3600 < value("deliveries_late_seconds", channel="mail") < 7200
    assert {state: value("webhook_endpoints", state=state) for state in ("closed", "open", "off")} == {
        "closed": 1,
        "open": 1,
        "off": 1,
    }
    late = {one.channel: one.late for one in await desk.deliveries.standing()}
    assert late["webhook"] < MINUTE, "of an endpoint whose circuit was open nothing is late before it closed"
    await desk.endpoints.succeeded(made["a"])
    late = {one.channel: one.late for one in await desk.deliveries.standing()}
    assert late["webhook"] > 3600
