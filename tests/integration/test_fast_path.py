"""The shortcut: a request that came before is answered with what the ordinary way would have answered."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import time
from collections.abc import AsyncIterator
from itertools import product
from random import Random

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from services.api.app import create_app
from services.api.connections import Runner
from services.api.pages.freshness import AHEAD_S, FRESH_S
from services.api.pages.memory import Entry
from services.api.pages.shortcut import LONGEST
from tests.integration.api_client import SITE, Client, S, T, client_of
from tests.integration.remembering import COMMENTS, Remembering, Reply, Wire, remembering, request

ROUTE = "/v1/sites/{site}/threads/{thread}/comments"


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True) as running:
        yield running


@pytest.fixture
async def there(client: Client) -> AsyncIterator[Remembering]:
    async with remembering(client) as running:
        await running.client.post("many words " * 300)
        await running.advance()
        yield running


async def repeated(there: Remembering, raw: bytes) -> tuple[Reply, Reply]:
    """The first answer, and one that took the shortcut: what comes a second time is learnt."""
    async with there.wire() as wire:
        await wire.ask(raw)
        first = await wire.ask(raw)
        before = there.short
        second = await wire.ask(raw)
        assert there.short == before + 1
        return first, second


async def never_short(there: Remembering, raw: bytes, times: int = 3) -> list[Reply]:
    """The answers to a request that is to go the ordinary way each time."""
    before = there.short
    async with there.wire() as wire:
        replies = [await wire.ask(raw) for _ in range(times)]
    assert there.short == before
    return replies


VARIANTS = list(
    product(
        ("GET", "HEAD"),
        (None, "gzip", "br", "zstd", "gzip, deflate, br, zstd"),
        (None, "https://a.example"),
        (False, True),
    )
)


@pytest.mark.parametrize(("method", "coding", "origin", "has"), VARIANTS)
async def test_both_ways_answer_the_same(
    there: Remembering, method: str, coding: str | None, origin: str | None, *, has: bool
) -> None:
    given: dict[str, str] = {}
    if coding:
        given["Accept_Encoding"] = coding
    if origin:
        given["Origin"] = origin
    if has:
        given["If_None_Match"] = f'"x", {(await there.ask(**given))["Etag"]}'
    first, second = await repeated(there, request(COMMENTS, method, **given))
    assert first.status == (304 if has else 200)
    assert second == dataclasses.replace(first, headers=second.headers)
    assert second.lasting == first.lasting
    assert second["X-Request-ID"] != first["X-Request-ID"]
    assert len(second["X-Request-ID"]) == len(first["X-Request-ID"])
    # And as aiohttp puts it, where the connection is to be closed.
    closing = await there.ask(COMMENTS, method, Connection="close", **given)
    assert closing["Connection"] == "close"
    assert set(closing.lasting) - {("Connection", "close")} == set(second.lasting)
    assert closing.body == second.body


@pytest.mark.parametrize("path", [T, COMMENTS, f"{COMMENTS}?limit=1", f"{COMMENTS}?min_version=1"])
async def test_pages_and_threads_take_it(there: Remembering, path: str) -> None:
    first, second = await repeated(there, request(path))
    assert (first.status, second.lasting, second.body) == (200, first.lasting, first.body)


async def test_a_comment_takes_it(there: Remembering) -> None:
    comment = await there.client.post("two")
    first, second = await repeated(there, request(f"{COMMENTS}/{comment['id']}?min_version=2"))
    assert (first.status, second.body) == (200, first.body)


async def test_any_connection_takes_it_from_its_first_request_on(there: Remembering) -> None:
    for _ in range(2):
        await there.ask()
        assert there.short == 0
    for times in range(1, 4):
        await there.ask()
        assert there.short == times


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request(X_Request_ID="mine"), 200),
        (request(Authorization="Bearer x"), 401),
        (request(Threadlog_Act_As="ann"), 400),
        (request(Accept="text/html"), 406),
        (request(f"{COMMENTS}?limit=0"), 400),
        (request("/healthz"), 200),
        (request(f"{S}/threads/story/nothing"), 404),
        (request(method="DELETE"), 405),
        (request(Content_Length="0"), 200),
        (request(Content_Length="2") + b"{}", 200),
        (request(Transfer_Encoding="chunked") + b"0\r\n\r\n", 200),
        (request(X_Long="x" * LONGEST), 200),
        (request(Upgrade="h2c", Connection="Upgrade"), 200),
    ],
    ids=lambda value: value[:60].decode() if isinstance(value, bytes) else str(value),
)
async def test_all_else_goes_the_ordinary_way(there: Remembering, raw: bytes, status: int) -> None:
    assert [reply.status for reply in await never_short(there, raw)] == [status] * 3


async def test_http_1_0_is_answered_as_such(there: Remembering) -> None:
    old = request().replace(b"HTTP/1.1", b"HTTP/1.0")
    for _ in range(2):
        async with there.wire() as wire:
            assert dict((await wire.ask(old)).headers).get("Connection") != "keep-alive"
    assert there.short == 0


async def test_a_head_of_its_own_each_time_is_not_learnt(there: Remembering) -> None:
    async with there.wire() as wire:
        for number in range(50):
            await wire.ask(request(Traceparent=str(number)))
    assert len(there.api.shortcut) == 0


async def test_heads_are_learnt_up_to_a_bound(client: Client) -> None:
    async with remembering(client, heads=5) as there, there.wire() as wire:
        for number in range(20):
            raw = request(T, X_Number=str(number))
            for _ in range(3):
                await wire.ask(raw)
            assert there.short == number + 1
        assert len(there.api.shortcut) == 5


async def test_heads_that_were_learnt_keep_no_answer(client: Client) -> None:
    """What the memory has forgotten, or replaced, is held by nothing else: neither is it without a bound."""

    def held() -> int:
        gc.collect()
        return sum(type(one) is Entry and b"not for ever" in one.body for one in gc.get_objects())

    threads, limits = range(6), (1, 2, 3)
    async with remembering(client, 240_000) as there, there.wire() as wire:
        for number in threads:
            await there.client.post("not for ever " * 700, at=f"{S}/threads/t{number}")
        for number, limit in product(threads, limits):
            for _ in range(3):
                await wire.ask(request(f"{S}/threads/t{number}/comments?limit={limit}"))
        assert len(there.api.shortcut) == len(threads) * len(limits)
        assert held() == len(there.api.pages) < len(there.api.shortcut)


async def test_somebody_signed_in_is_never_answered_for_somebody_else(there: Remembering) -> None:
    token = f"Bearer {there.client.token('ann')}"
    for reply in await never_short(there, request(Authorization=token)):
        assert reply["Cache-Control"].startswith("private")
    assert (await there.ask())["Cache-Control"].startswith("public")


async def test_it_is_taken_only_while_the_page_is_known_to_be_fresh(there: Remembering) -> None:
    async with there.wire() as wire:
        for _ in range(2):
            await wire.ask(request())
        looks, taken = there.api.pages.looks.looks, there.short
        there.clock.now += FRESH_S * 1.1
        await wire.ask(request())
        assert (there.short, there.api.pages.looks.looks) == (taken, looks + 1)
        # In good time before that, it is looked at while all are answered.
        there.clock.now += AHEAD_S * 1.1
        await wire.ask(request())
        assert there.short == taken + 1
        [slot] = there.api.pages
        while slot.entry is not None and slot.entry.stamp.checked < there.clock.now:
            await asyncio.sleep(0)
        assert there.api.pages.looks.looks == looks + 2
        there.clock.now += AHEAD_S * 1.1
        await wire.ask(request())
        assert there.short == taken + 2


async def test_a_change_shows(there: Remembering) -> None:
    async with there.wire() as wire:
        for _ in range(3):
            assert b"something else" not in (await wire.ask(request())).body
        await there.client.post("something else")
        await there.advance()
        there.clock.now += FRESH_S * 1.1
        for _ in range(3):
            reply = await wire.ask(request())
            assert b"something else" in reply.body
            assert reply["Threadlog-Version"] == "2"


async def test_a_change_of_the_sites_settings_shows(there: Remembering) -> None:
    describe = {"url": "https://a.example/story"}
    await there.client.send("PATCH", T, describe, sub="mod", roles=("moderator",))
    await there.advance()
    there.clock.now += FRESH_S * 1.1
    async with there.wire() as wire:
        for _ in range(3):
            assert b"https://a.example/story#comment-" in (await wire.ask(request())).body
        change = {"comment_url": "https://b.example/{id}"}
        await there.client.send("PATCH", f"{S}/settings", change, sub="boss", roles=("admin",))
        there.api.sites.forget(SITE)
        for _ in range(3):
            assert b"https://b.example/" in (await wire.ask(request())).body


async def test_when_the_process_drains_nobody_takes_it(there: Remembering) -> None:
    await repeated(there, request())
    there.api.drain.begun = True
    try:
        await never_short(there, request())
    finally:
        there.api.drain.begun = False


async def test_every_answer_is_counted(there: Remembering) -> None:
    async with there.wire() as wire:
        for _ in range(10):
            await wire.ask(request())
    assert there.short >= 8
    found = {
        sample.labels["status"]: sample.value
        for family in text_string_to_metric_families(there.api.metrics.exposition().decode())
        for sample in family.samples
        if sample.name == "threadlog_request_seconds_count" and sample.labels["route"] == ROUTE
        if sample.labels["method"] == "GET"
    }
    assert found == {"200": 10}


async def test_heads_in_pieces_and_several_at_once_are_answered_in_order(there: Remembering) -> None:
    one, two = request(), request(f"{COMMENTS}?limit=1")
    async with there.wire() as wire:
        expected = [await wire.ask(one), await wire.ask(two)]
        for pieces in (
            [one + two],
            [one[:20], one[20:] + two],
            [one[:-2], one[-2:] + two[:-4], two[-4:]],
            [one + two[:9], two[9:]],
        ):
            for piece in pieces:
                wire.writer.write(piece)
                await wire.writer.drain()
                await asyncio.sleep(0)
            for reply in expected:
                got = await wire.read()
                assert (got.body, got.lasting) == (reply.body, reply.lasting)


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /healthz HTTP/1.1\r\nX-More: ",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
    ],
)
async def test_what_belongs_to_another_request_is_none_of_its_own(there: Remembering, begun: bytes) -> None:
    """Bytes that are the head of a request, inside of another."""
    await repeated(there, request())
    before = there.short
    async with there.wire() as wire:
        wire.writer.write(begun)
        await there.ask()  # the server has turned its loop: what was begun is with it
        first = there.short - before
        wire.writer.write(request())
        assert (await wire.read()).status in (200, 405)
    await there.ask()
    assert there.short - before == first + 1


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_comes_in_whatever_pieces_is_answered_as_ever(there: Remembering, seed: int) -> None:
    """A connection's requests, cut anywhere, against the same requests on a connection each."""
    random = Random(seed)
    token = there.client.token("ann")
    body = b'{"ids": []}'
    read = f"{S}/me/notifications/read"
    kinds = [
        request(),
        request(method="HEAD"),
        request(T),
        request(Accept_Encoding="gzip"),
        request(Origin="https://a.example"),
        request(f"{COMMENTS}?limit=0"),
        request(f"{COMMENTS}?limit=2&replies=0"),
        request(Authorization=f"Bearer {token}"),
        request(X_Request_ID="mine"),
        request(read, "POST", Authorization=f"Bearer {token}", Content_Length="2") + b"{}",
        request(read, "POST", Content_Type="application/json", Content_Length="11") + body,
        request(Content_Length=str(len(request()))) + request(),
        request(Transfer_Encoding="chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    ]
    expected: dict[bytes, Reply] = {raw: await asked_alone(there, raw) for raw in kinds * 2}
    before = there.short
    for _ in range(8):
        async with there.wire() as wire:
            for _ in range(random.randint(1, 16)):
                asked = random.choices(kinds, weights=[8] + [1] * (len(kinds) - 1), k=random.randint(1, 6))
                sending = asyncio.create_task(send(wire, asked, Random(random.random())))
                for raw in asked:
                    got = await wire.read(head=raw.startswith(b"HEAD"))
                    assert (got.status, got.lasting) == (expected[raw].status, expected[raw].lasting), raw
                    if got.status < 400:  # a problem names its request
                        assert got.body == expected[raw].body
                await sending
    assert there.short > before


async def asked_alone(there: Remembering, raw: bytes) -> Reply:
    """The answer to a request on a connection of its own."""
    async with there.wire() as wire:
        return await wire.ask(raw)


async def send(wire: Wire, asked: list[bytes], random: Random) -> None:
    """Send the requests without waiting for answers: each by itself, all at once, or cut anywhere."""
    stream = b"".join(asked)
    match random.choice(("whole", "at once", "cut")):
        case "whole":
            pieces = asked
        case "at once":
            pieces = [stream]
        case _:
            cuts = sorted(random.sample(range(1, len(stream)), k=min(len(stream) - 1, random.randint(1, 40))))
            pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    for piece in pieces:
        wire.writer.write(piece)
        await wire.writer.drain()
        for _ in range(random.randint(0, 4)):
            await asyncio.sleep(0)


async def test_a_connection_in_use_stays_open_and_an_idle_one_is_closed(there: Remembering) -> None:
    idle = 0.6
    running = Runner(create_app(there.api), shortcut=there.api.shortcut, keepalive_timeout=idle)
    await running.setup()
    try:
        await web.TCPSite(running, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection("127.0.0.1", running.addresses[0][1])
        wire, until_then = Wire(reader, writer), time.monotonic() + idle * 2
        while time.monotonic() < until_then:
            assert (await wire.ask(request())).status == 200
        assert there.short > 10
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
    finally:
        await running.cleanup()


async def test_who_reads_nothing_is_not_answered_without_end(there: Remembering) -> None:
    """Answers wait in the connection's buffer only up to its mark; then the ordinary way waits, too."""
    for _ in range(40):
        await there.client.post("many words " * 800)
    await there.advance()
    there.clock.now += FRESH_S * 1.1
    big = request(f"{COMMENTS}?limit=100")
    size = len((await there.ask(f"{COMMENTS}?limit=100")).body)
    async with there.wire() as wire:
        for _ in range(2):
            await wire.ask(big)
        before = there.short
        asked = 200
        wire.reader.set_exception(ConnectionError("not read"))  # the client takes nothing more
        for _ in range(asked):
            wire.writer.write(big)
            await asyncio.sleep(0)
        await there.ask()  # the server has turned its loop
        assert (there.short - before) * size < 16 << 20
