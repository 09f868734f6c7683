"""What the edge lets nobody do: deep JSON, slow heads, unread answers, endless work, foreign pages."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from services.api.app import create_app, runner
from services.api.client_address import ClientAddresses
from services.api.connections import Connection
from services.api.deadlines import Deadlines
from services.api.deps import Api
from tests.integration.api_client import Client, S, T, client_of
from tests.processes import until

COMMENTS = f"{T}/comments"
ORIGIN = "https://a.example"
LARGE = 24 * 2**20
"""Bytes of an answer that no socket's buffers hold."""
EXPOSED = {
    "ETag",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Threadlog-Stale",
    "Threadlog-Version",
    "X-Request-ID",
}


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as opened:
        yield opened


@asynccontextmanager
async def served(client: Client, api: Api, **bounds: float) -> AsyncIterator[tuple[Client, web.AppRunner]]:
    """The client's API once more, with other bounds."""
    app = create_app(api)
    app.router.add_get("/large", _large)
    running = runner(app, **bounds)
    await running.setup()
    try:
        await web.TCPSite(running, "127.0.0.1", 0).start()
        port = running.addresses[0][1]
        yield dataclasses.replace(client, running=dataclasses.replace(client.running, port=port)), running
    finally:
        await running.cleanup()


async def _large(_: web.Request) -> web.Response:
    return web.Response(body=bytes(LARGE))


async def _connections(running: web.AppRunner) -> list[RequestHandler]:
    assert running.server is not None
    return running.server.connections


async def no_connection(running: web.AppRunner) -> None:
    await until(lambda: _connections(running), "no connection is left", lambda found: not found)


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", *lines, "", "")).encode()


# --- before parsing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"body":' + b"[" * 32 + b"]" * 32 + b"}", "malformed-json"),
        (b'{"body":' + b"[" * 31 + b"]" * 31 + b"}", "invalid"),
        (b'{"body":' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}", "malformed-json"),
        (b'{"body":' + b'[{"a":' * 20 + b"1" + b"}]" * 20 + b"}", "malformed-json"),
        (b"[" * 100_000, "malformed-json"),
        (b"[" * 100_000 + b"]" * 100_000, "malformed-json"),
        (b'{"body":[' + b"[]," * 1000 + b"[]]}", "invalid"),  # wide is not deep
        (b'{"body":"\\"' + b"[" * 1000 + b'"', "malformed-json"),
    ],
)
async def test_json_nests_at_most_32_deep(client: Client, data: bytes, code: str) -> None:
    answer = await client.send("POST", COMMENTS, data=data, sub="ann")
    assert answer.code == code
    assert (answer.status == 400) is (code == "malformed-json")


async def test_brackets_in_a_text_do_not_nest(client: Client) -> None:
    text = '[{"\\' * 200
    answer = await client.send("POST", COMMENTS, {"body": text}, sub="ann")
    assert (answer.status, answer.json["body"]) == (201, text)


@pytest.mark.parametrize(("count", "status"), [(90, 200), (110, 431)])
async def test_a_request_has_at_most_a_hundred_headers(client: Client, count: int, status: int) -> None:
    answer = await client.get(T, headers={f"X-{number}": "1" for number in range(count)})
    assert answer.status == status
    if status == 431:
        assert answer.code == "headers-too-large"


async def test_far_more_headers_are_refused_by_the_parser(client: Client) -> None:
    raw = await client.raw(head("GET", T, *(f"X-{number}: 1" for number in range(2000))))
    assert raw.split(b" ", 2)[1] == b"400"


# --- connections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_head_that_does_not_come_is_not_waited_for(client: Client, begun: bytes) -> None:
    async with served(client, client.running.api, head_seconds=0.1) as (slow, running):
        assert await slow.raw(begun) == b""  # closed, without an answer
        await no_connection(running)


async def test_a_head_that_trickles_is_not_waited_for(client: Client) -> None:
    async with served(client, client.running.api, head_seconds=0.2) as (slow, running):
        reader, writer = await asyncio.open_connection(slow.running.host, slow.running.port)
        writer.write(b"GET / HTTP/1.1\r\n")

        async def trickle() -> bool:
            writer.write(b"X")
            return reader.at_eof()

        eof = asyncio.create_task(reader.read())
        await until(trickle, "the connection is closed")
        assert await eof == b""
        writer.close()
        await no_connection(running)


async def test_a_head_in_two_parts_is_a_head(client: Client) -> None:
    async with served(client, client.running.api) as (slow, running):
        reader, writer = await asyncio.open_connection(slow.running.host, slow.running.port)

        async def begun() -> bool:
            found = await _connections(running)
            return bool(found) and isinstance(found[0], Connection) and found[0]._head_timer is not None

        for number in range(3):
            request = head("GET", f"{T}?x={number}" if number == 1 else "/healthz")
            writer.write(request[:20])
            await until(begun, "a head has begun")
            writer.write(request[20:])
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        # the bound is on heads: a connection that idles between them has none
        assert not await begun()
        writer.close()


def ask_for_much(client: Client) -> socket.socket:
    """A connection that has asked for the large answer, and has read nothing of it."""
    asking = socket.socket()
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
    asking.connect((client.running.host, client.running.port))
    asking.sendall(head("GET", "/large"))
    asking.setblocking(False)
    return asking


async def stalled(running: web.AppRunner) -> Connection:
    """The one connection, once its answer waits to be read."""
    found = await until(
        lambda: _connections(running), "an answer waits", lambda all_: bool(all_) and all_[0].writing_paused
    )
    assert isinstance(found[0], Connection)
    return found[0]


async def test_an_answer_that_is_not_read_is_not_kept(client: Client) -> None:
    async with served(client, client.running.api, stall_seconds=0.2) as (slow, running):
        with ask_for_much(slow):
            await stalled(running)
            await no_connection(running)
            assert (await slow.get("/healthz")).status == 200


async def test_an_answer_that_is_read_slowly_is_sent_to_its_end(client: Client) -> None:
    async with served(client, client.running.api, stall_seconds=0.2) as (slow, running):
        with ask_for_much(slow) as asking:
            connection = await stalled(running)
            loop, size, looks = asyncio.get_running_loop(), 0, 0
            timer = connection._stall_timer
            while size < LARGE:
                data = await loop.sock_recv(asking, 2**16)
                assert data
                size += len(data)
                if connection._stall_timer is not timer:
                    timer, looks = connection._stall_timer, looks + 1
                if looks < 3:
                    # Reading is paced, not waited for: until it has been looked at three times and let be.
                    await asyncio.sleep(0.01)
            assert looks >= 3


async def test_many_idle_connections_keep_nobody_out(client: Client) -> None:
    idle = [await asyncio.open_connection(client.running.host, client.running.port) for _ in range(500)]
    try:
        assert (await client.post("among many"))["body"] == "among many"
    finally:
        for _, writer in idle:
            writer.close()


def test_a_process_takes_as_many_files_as_it_may() -> None:
    code = (
        "import resource as r; from services.api.connections import raise_file_limit as raised\n"
        "_, hard = r.getrlimit(r.RLIMIT_NOFILE); r.setrlimit(r.RLIMIT_NOFILE, (100, hard))\n"
        "print(raised(120), r.getrlimit(r.RLIMIT_NOFILE)[0], raised(110), raised(10**9) >= 120)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["120", "120", "120", "True"]


# --- time -----------------------------------------------------------------------------------------------


async def test_work_that_takes_too_long_is_answered_with_503(client: Client) -> None:
    api = dataclasses.replace(client.running.api, deadlines=Deadlines(1.0))
    async with served(client, api) as (slow, _):
        token = f"Authorization: Bearer {slow.token('ann')}"
        lines = (token, "Content-Type: application/json", "Content-Length: 100", "Connection: close")
        raw = await slow.raw(head("POST", COMMENTS, *lines))
        assert raw.startswith(b"HTTP/1.1 503")
        assert b"urn:threadlog:problem:unavailable" in raw
        assert b"\r\nRetry-After: " in raw
        # what is in time is not disturbed
        assert (await slow.get("/healthz")).status == 200
        assert (await slow.get(T)).status == 200


async def test_a_deadline_cancels_only_what_is_late() -> None:
    deadlines = Deadlines(0.1)
    missed: list[str] = []

    async def work(name: str, *, released: bool = False) -> str:
        task = asyncio.current_task()
        assert task is not None
        deadlines.begin(task, time.monotonic())
        if released:
            deadlines.end(task)
        try:
            await asyncio.wait_for(never.wait(), 0.5 if released else None)
        except TimeoutError:
            return "its own time"
        except asyncio.CancelledError:
            if not deadlines.missed(task):
                raise
            missed.append(name)
            return "late"
        finally:
            deadlines.end(task)
        return "done"

    never = asyncio.Event()
    late, live = asyncio.create_task(work("late")), asyncio.create_task(work("live", released=True))
    assert await late == "late"
    assert await live == "its own time"
    assert missed == ["late"]
    # one that is cancelled from outside is cancelled
    other = asyncio.create_task(work("other"))
    await asyncio.sleep(0)
    other.cancel()
    assert isinstance((await asyncio.gather(other, return_exceptions=True))[0], asyncio.CancelledError)


# --- where a request comes from -------------------------------------------------------------------------


async def test_metrics_are_for_clients_of_the_networks_behind_a_trusted_proxy_too(client: Client) -> None:
    settings = client.running.api.settings.model_copy(
        update={"trusted_proxies": (ip_network("127.0.0.0/8"),)}
    )
    api = dataclasses.replace(client.running.api, settings=settings)
    assert isinstance(api.addresses, ClientAddresses)
    async with served(client, api) as (proxied, _):
        assert (await proxied.get("/metrics")).status == 200
        stranger = {"X-Forwarded-For": "203.0.113.9"}
        assert (await proxied.get("/metrics", headers=stranger)).status == 403
        assert (await proxied.get("/metrics", headers={"X-Forwarded-For": "127.0.0.9"})).status == 200
        # and an address that a stranger wrote themselves helps nobody
        both = {"X-Forwarded-For": "127.0.0.9, 203.0.113.9"}
        assert (await proxied.get("/metrics", headers=both)).status == 403
        assert (await client.get("/metrics", headers=stranger)).status == 200


# --- headers and CORS -----------------------------------------------------------------------------------


async def test_no_answer_runs_anything_in_a_browser(client: Client) -> None:
    answers = [
        await client.get(COMMENTS),
        await client.get("/nothing"),
        await client.send("POST", COMMENTS, {"body": "x"}, sub="ann"),
        await client.send("POST", COMMENTS),
        await client.get("/healthz"),
    ]
    for answer in answers:
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    page = (await client.get("/docs")).headers["Content-Security-Policy"]
    assert "script-src 'unsafe-inline'" in page
    assert "connect-src 'self'" in page
    assert "frame-ancestors 'none'" in page


async def origins(client: Client, **more: object) -> None:
    change = {"origins": [ORIGIN], **more}
    answer = await client.send("PATCH", f"{S}/settings", change, sub="boss", roles=("admin",))
    assert answer.status == 200


async def test_a_page_of_the_site_reads_our_headers_on_every_answer(client: Client) -> None:
    await origins(client, author_writes_per_minute=1)
    given = {"Origin": ORIGIN}
    answers = [
        await client.send("POST", COMMENTS, {"body": "x"}, sub="ann", headers=given),
        await client.send("POST", COMMENTS, {"body": "x"}, sub="ann", headers=given),
        await client.send("POST", COMMENTS, {"body": "x"}, headers=given),
        await client.send("POST", COMMENTS, {"body": "x"}, headers={**given, "Authorization": "Bearer x"}),
        await client.get(COMMENTS, sub="ann", headers=given),
        await client.send("POST", COMMENTS, data=b"x" * 300_000, sub="bob", headers=given),
    ]
    assert [answer.status for answer in answers] == [201, 429, 401, 401, 200, 413]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert set(answer.headers["Access-Control-Expose-Headers"].split(", ")) == EXPOSED
        assert answer.headers["Vary"] == "Authorization, Accept-Encoding, Origin"
    assert int(answers[1].headers["Retry-After"]) > 0


async def preflight(client: Client, origin: str, method: str, path: str = COMMENTS) -> dict[str, str]:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    answer = await client.send("OPTIONS", path, headers=asked)
    assert (answer.status, answer.raw) == (204, b"")
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control-")}


async def test_a_preflight_says_what_the_contract_says(client: Client) -> None:
    await origins(client)
    allowed = await preflight(client, ORIGIN, "POST")
    assert allowed["Access-Control-Allow-Origin"] == ORIGIN
    assert allowed["Access-Control-Max-Age"] == "7200"
    assert set(allowed["Access-Control-Allow-Methods"].split(", ")) >= {"GET", "HEAD", "POST"}
    assert set(allowed["Access-Control-Allow-Headers"].split(", ")) == {
        "Authorization",
        "Content-Type",
        "Idempotency-Key",
        "If-Match",
        "If-None-Match",
        "Last-Event-ID",
        "X-Request-ID",
    }


@pytest.mark.parametrize("origin", ["null", "https://b.example", "https://a.example:444", "http://a.example"])
async def test_other_origins_may_read_and_no_more(client: Client, origin: str) -> None:
    await origins(client)
    assert await preflight(client, origin, "POST") == {}
    reading = await preflight(client, origin, "GET")
    assert reading["Access-Control-Allow-Origin"] == "*"
    assert reading["Access-Control-Allow-Methods"] == "GET, HEAD"
    given = {"Origin": origin}
    assert (await client.get(COMMENTS, headers=given)).headers["Access-Control-Allow-Origin"] == "*"
    for answer in (
        await client.get(COMMENTS, sub="ann", headers=given),
        await client.send("POST", COMMENTS, {"body": "x"}, sub="ann", headers=given),
    ):
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_preflight_to_an_unknown_site_allows_what_any_site_would(client: Client) -> None:
    assert await preflight(client, ORIGIN, "POST", "/v1/sites/nowhere/threads/story/comments") == {}
    assert "Access-Control-Allow-Origin" in await preflight(
        client, ORIGIN, "GET", "/v1/sites/nowhere/threads/story/comments"
    )


async def test_preflights_are_not_rate_limited(client: Client) -> None:
    await origins(client, author_writes_per_minute=1, address_writes_per_minute=1)
    for _ in range(3):
        assert "Access-Control-Allow-Origin" in await preflight(client, ORIGIN, "POST")


# --- thread metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://a.example/story", 201),
        ("https://A.example:443/story", 201),
        ("https://a.example.evil.example/story", 422),
        ("https://evil.example/https://a.example", 422),
        ("https://a.example@evil.example/", 422),
        ("http://a.example/story", 422),
    ],
)
async def test_a_thread_is_described_by_the_sites_own_pages_only(
    client: Client, url: str, status: int
) -> None:
    await origins(client)
    body = {"body": "first", "thread": {"title": "Our story", "url": url}}
    answer = await client.send("POST", COMMENTS, body, sub="ann")
    assert answer.status == status, answer.raw
    shown = (await client.get(T)).json
    assert (shown["title"], shown["url"]) == (("Our story", url) if status == 201 else (None, None))
    assert shown["comments"] == (1 if status == 201 else 0)
