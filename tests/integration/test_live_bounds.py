"""What bounds live streams: how many one address has, and how many threads are read at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from uuid import UUID

import pytest

from services.api.live import places
from services.api.live.frames import Note, Told
from services.api.live.places import Places
from services.api.live.telling import Teller
from services.core.addresses import thread_stream_id
from services.eventlog.checkpoints import DeadLetters
from services.readmodel.announcements import Announcer
from services.workers.hints import Looked
from services.workers.projector import Following
from tests.integration.api_client import SITE, Client, S, client_of
from tests.listening import listening
from tests.processes import until

LIVE = f"{S}/threads/story/live"


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(
        database_url,
        redis_url,
        broker_url,
        unlimited=True,
        max_streams_per_address=2,
        trusted_proxies="127.0.0.1",
    ) as opened:
        yield opened


def base_of(client: Client) -> str:
    return f"http://{client.running.host}:{client.running.port}"


@pytest.mark.parametrize(
    ("own", "others"),
    [
        (("203.0.113.7", "203.0.113.7", "203.0.113.7"), "203.0.113.8"),
        (("2001:db8::1", "2001:db8::2", "2001:db8::3"), "2001:db8:0:1::1"),
    ],
    ids=["IPv4", "a network of IPv6"],
)
async def test_one_address_has_so_many_streams_and_others_have_theirs(
    client: Client, own: Sequence[str], others: str
) -> None:
    hub = client.running.api.live

    async def open_streams() -> int:
        return hub.streams

    async with AsyncExitStack() as stack:
        for address in own[:2]:
            headers = {"X-Forwarded-For": address}
            await stack.enter_async_context(listening(base_of(client), LIVE, headers=headers))
        more = {"X-Forwarded-For": own[2]}
        async with asyncio.timeout(30):  # one that is let in would not end
            refused = await client.get(LIVE, headers=more | {"Accept": "text/event-stream"})
        assert (refused.status, refused.code) == (503, "overloaded")
        assert int(refused.headers["Retry-After"]) > 0
        polled = await client.get(LIVE, headers=more | {"Accept": "application/json"})
        assert polled.status == 200
        async with listening(base_of(client), LIVE, headers={"X-Forwarded-For": others}):
            assert hub.streams == 3
    await until(open_streams, "no stream is left", lambda count: count == 0)
    async with listening(base_of(client), LIVE, headers=more):
        assert hub.streams == 1


async def test_threads_that_are_slow_to_read_hold_up_no_other(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = [thread_stream_id(SITE, f"slow-{number}") for number in range(places.AT_ONCE)]
    parts = client.running.resources
    announcer = Announcer(parts.redis)
    following = Following(parts.projector, DeadLetters(parts.pool, "1.0"), announce=announcer.moved)
    waiting: set[UUID] = set()
    go_on = asyncio.Event()
    told = Teller.told

    async def told_slowly(
        self: Teller, stream_id: UUID, site: str, notes: Sequence[Note], version: int
    ) -> list[Told]:
        if stream_id in slow:
            waiting.add(stream_id)
            await go_on.wait()
        return await told(self, stream_id, site, notes, version)

    monkeypatch.setattr(Teller, "told", told_slowly)

    async def all_slow() -> bool:
        return waiting == set(slow)

    async with AsyncExitStack() as stack:
        streams = []
        for number in range(places.AT_ONCE):
            path = f"{S}/threads/slow-{number}/live"
            headers = {"X-Forwarded-For": f"203.0.113.{number}"}
            streams.append(await stack.enter_async_context(listening(base_of(client), path, headers=headers)))
            await client.post("of a slow one", at=f"{S}/threads/slow-{number}")
        await following.project(slow, Looked.now())
        await until(all_slow, "all places are taken by slow readings")
        async with listening(base_of(client), LIVE) as stream:
            await client.post("of a quick one")
            await following.project([thread_stream_id(SITE, "story")], Looked.now())
            assert (await stream.event()).body == "of a quick one"
        go_on.set()
        for one in streams:
            assert (await one.event()).body == "of a slow one"
    await announcer.stop()


async def test_readings_that_are_set_aside_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "AT_ONCE", 2)
    monkeypatch.setattr(places, "ASIDE", 3)
    monkeypatch.setattr(places, "PATIENCE_S", 0.001)
    room, go_on = Places(), asyncio.Event()
    inside = 0

    async def read() -> None:
        nonlocal inside
        async with room.held():
            inside += 1
            await go_on.wait()
            inside -= 1

    async def count() -> int:
        return inside

    readings = [asyncio.create_task(read()) for _ in range(9)]
    await until(count, "five of them read", lambda found: found == 5)
    for _ in range(1000):  # turns of the loop, in which a sixth would come in
        await asyncio.sleep(0)
    assert inside == 5
    go_on.set()
    await asyncio.gather(*readings)
    readings = [asyncio.create_task(read()) for _ in range(9)]
    await asyncio.gather(*readings)
    assert inside == 0
