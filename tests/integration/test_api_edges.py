"""What every answer has in common: problems, headers, CORS, health, metrics, the description."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
import redis.asyncio
from aiohttp import ClientSession, web
from prometheus_client.parser import text_string_to_metric_families

from services.api.app import create_app, runner
from services.api.routes import ROUTES
from services.api.serving import Serving
from tests.integration.api_client import Client, S, T, client_of


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as running:
        yield running


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/sites/news", f"{T}/", f"{S}/threads//comments", f"{T}/x"])
async def test_an_address_of_nothing_is_a_problem(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status, answer.code) == (404, "route-not-found")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_wrong_method_names_the_right_ones(client: Client) -> None:
    answer = await client.send("PUT", f"{T}/comments", {})
    assert (answer.status, answer.code) == (405, "method-not-allowed")
    assert set(answer.headers["Allow"].replace(" ", "").split(",")) == {"GET", "HEAD", "OPTIONS", "POST"}


async def test_an_address_that_is_too_long_is_a_problem(client: Client) -> None:
    answer = await client.get(f"{T}/comments?after={'x' * 21_000}")
    assert (answer.status, answer.code) == (414, "uri-too-long")


async def test_a_body_that_does_not_come_is_given_up(client: Client) -> None:
    api = dataclasses.replace(client.running.api, body_timeout=0.05)
    running = runner(create_app(api))
    await running.setup()
    try:
        await web.TCPSite(running, "127.0.0.1", 0).start()
        other = dataclasses.replace(client.running, port=running.addresses[0][1])
        head = (
            f"POST {T}/comments HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {client.token('ann')}\r\nContent-Length: 50\r\n\r\n"
        )
        answer = await asyncio.wait_for(Client(other, client.session).raw(head.encode() + b"{"), 30)
    finally:
        await running.cleanup()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:threadlog:problem:request-timeout" in answer


async def test_a_body_announced_as_too_large_need_not_be_sent(client: Client) -> None:
    for size, expected in ((300_000, b"HTTP/1.1 413 "), (2, b"HTTP/1.1 100 Continue")):
        head = (
            f"POST {T}/comments HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nAuthorization: Bearer {client.token('ann')}\r\n"
            f"Expect: 100-continue\r\nContent-Length: {size}\r\n\r\n"
        )
        answer = await client.raw(head.encode() + (b"{}" if size == 2 else b""))
        assert answer.startswith(expected)
        assert (b"HTTP/1.1 422 " in answer) is (size == 2)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc:1/2._-", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("é", False)],
)
async def test_a_request_id_is_answered_or_replaced(client: Client, given: str, kept: bool) -> None:
    for path in (T, "/nothing"):
        answer = await client.get(path, headers={"X-Request-ID": given})
        assert (answer.headers["X-Request-ID"] == given) is kept
        assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        ("*/*", True),
        ("application/json", True),
        ("text/html, application/*;q=0.5", True),
        ("Application/JSON; q=0.001", True),
        ("", True),
        ("text/html", False),
        ("application/problem+json", False),
        ("application/json;q=0, */*", False),
        ("text/html, */*; q=0.0", False),
    ],
)
async def test_who_takes_no_json_is_told_so_before_anything_is_written(
    client: Client, accept: str, taken: bool
) -> None:
    headers = {"Accept": accept}
    read = await client.get(f"{T}/comments", headers=headers)
    posted = await client.send("POST", f"{T}/comments", {"body": "one"}, sub="ann", headers=headers)
    if taken:
        assert (read.status, posted.status) == (200, 201)
    else:
        assert (read.status, read.code, posted.code) == (406, "not-acceptable", "not-acceptable")
        assert (await client.get(T)).version == 0


async def test_every_answer_says_by_what_it_varies(client: Client) -> None:
    for answer in (await client.get(T), await client.get("/nothing"), await client.send("POST", T)):
        assert answer.headers["Vary"] == "Authorization, Accept-Encoding, Origin"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Cache-Control" in answer.headers


async def test_head_is_a_get_without_a_body(client: Client) -> None:
    head, get = await client.send("HEAD", f"{T}/comments"), await client.get(f"{T}/comments")
    assert (head.status, head.raw) == (200, b"")
    assert head.headers["Etag"] == get.headers["Etag"]


async def test_anonymous_reads_are_for_every_origin(client: Client) -> None:
    origin = {"Origin": "https://anywhere.example"}
    answer = await client.get(f"{T}/comments", headers=origin)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Threadlog-Version" in answer.headers["Access-Control-Expose-Headers"]
    signed = await client.get(f"{T}/comments", sub="ann", headers=origin)
    assert "Access-Control-Allow-Origin" not in signed.headers


async def test_all_else_is_for_the_sites_origins(client: Client) -> None:
    change = {"origins": ["https://a.example"]}
    await client.send("PATCH", f"{S}/settings", change, sub="boss", roles=("admin",))
    for origin, allowed in (("https://a.example", True), ("https://b.example", False)):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        flight = await client.send("OPTIONS", f"{T}/comments", headers=asked)
        assert flight.status == 204
        assert ("Access-Control-Allow-Origin" in flight.headers) is allowed
        posted = await client.send(
            "POST", f"{T}/comments", {"body": "x"}, sub="ann", headers={"Origin": origin}
        )
        assert (posted.headers.get("Access-Control-Allow-Origin") == origin) is allowed
        refused = await client.send("POST", f"{T}/comments", {}, sub="ann", headers={"Origin": origin})
        assert (refused.headers.get("Access-Control-Allow-Origin") == origin) is allowed
        if allowed:
            assert flight.headers["Access-Control-Max-Age"] == "7200"
            assert "Idempotency-Key" in flight.headers["Access-Control-Allow-Headers"]
            assert "POST" in flight.headers["Access-Control-Allow-Methods"]
    asked = {"Origin": "https://b.example", "Access-Control-Request-Method": "GET"}
    flight = await client.send("OPTIONS", f"{T}/comments", headers=asked)
    assert flight.headers["Access-Control-Allow-Origin"] == "*"


async def test_the_process_is_alive_ready_and_then_drains(client: Client) -> None:
    alive, ready = await client.get("/healthz"), await client.get("/readyz")
    assert (alive.status, alive.json["status"]) == (200, "ok")
    assert (ready.status, ready.json["status"]) == (200, "ok")
    assert set(ready.json["checks"]) == {"postgres", "redis"}
    client.running.api.drain.begun = True
    assert (await client.get("/readyz")).status == 503
    assert (await client.get("/healthz")).status == 200


async def test_without_redis_it_is_degraded_and_serves_all_the_same(database_url: str) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    async with client_of(database_url, nowhere, nowhere) as client:
        ready = await client.get("/readyz")
        assert (ready.status, ready.json["status"]) == (200, "degraded")
        posted = await client.post("one")
        page = await client.get(f"{T}/comments?min_version=1")
        assert page.json["comments"][0]["id"] == posted["id"]
        assert page.headers["Threadlog-Stale"] == "true"
        path = f"{T}/comments/{posted['id']}"
        edited = await client.send("PATCH", path, {"body": "two"}, sub="ann", headers={"If-Match": '"1"'})
        assert edited.json["body"] == "two"


async def test_emptying_redis_changes_no_page(client: Client, redis_url: str) -> None:
    first = await client.post("one")
    await client.post("two", to=first["id"])
    before = await client.get(f"{T}/comments?min_version=2")
    async with redis.asyncio.Redis.from_url(redis_url) as connection:
        await connection.flushall()
    after = await client.get(f"{T}/comments")
    assert after.raw == before.raw
    assert after.headers["Etag"] == before.headers["Etag"]


async def test_an_unready_postgres_is_503(client: Client) -> None:
    async def away() -> None:
        raise ConnectionRefusedError

    api = dataclasses.replace(client.running.api, postgres=away)
    running = runner(create_app(dataclasses.replace(api, metrics=type(api.metrics)())))
    await running.setup()
    try:
        await web.TCPSite(running, "127.0.0.1", 0).start()
        port = running.addresses[0][1]
        async with (
            ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/readyz") as answer,
        ):
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            assert (await answer.json())["checks"]["postgres"]["status"] == "failed"
    finally:
        await running.cleanup()


async def test_slow_reads_that_hold_all_connections_leave_it_ready(client: Client) -> None:
    pool = client.running.resources.pool
    held = [await pool.acquire() for _ in range(pool.get_max_size())]
    try:
        ready = await client.get("/readyz")
    finally:
        for connection in held:
            await pool.release(connection)
    assert (ready.status, ready.json["status"]) == (200, "ok")


async def test_metrics_count_requests_refusals_and_batches(client: Client) -> None:
    await client.post("one")
    await client.send("POST", f"{T}/comments", {"body": "x", "parent_id": "7"}, sub="ann")
    unknown = "0199c0de-0000-7000-8000-000000000000"
    await client.send("POST", f"{T}/comments", {"body": "x", "parent_id": unknown}, sub="ann")
    await client.get("/nothing")
    text = (await client.get("/metrics")).raw.decode()
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }
    route = "/v1/sites/{site}/threads/{thread}/comments"
    assert samples["threadlog_request_seconds_count", *sorted(("POST", route, "201"))] == 1
    assert samples["threadlog_request_seconds_count", *sorted(("POST", route, "404"))] == 2
    assert samples["threadlog_request_seconds_count", *sorted(("GET", "other", "404"))] == 1
    assert samples["threadlog_refusals_total", "parent-not-found"] == 1
    assert samples["threadlog_events_appended_total", "0"] == 1
    assert samples["threadlog_append_batch_commands_count",] == 2
    assert "story" not in text
    assert {name[0].split("_")[0] for name in samples} == {"threadlog"}


async def test_metrics_are_for_the_named_networks(client: Client) -> None:
    settings = client.running.api.settings.model_copy(update={"metrics_networks": [ip_network("10.0.0.0/8")]})
    api = dataclasses.replace(client.running.api, settings=settings)
    running = runner(create_app(api))
    await running.setup()
    try:
        await web.TCPSite(running, "127.0.0.1", 0).start()
        other: Serving = dataclasses.replace(client.running, port=running.addresses[0][1])
        answer = await Client(other, client.session).get("/metrics")
    finally:
        await running.cleanup()
    assert (answer.status, answer.code) == (403, "forbidden")


async def test_the_description_is_of_the_routes_that_there_are(client: Client) -> None:
    document = (await client.get("/openapi.json")).json
    assert document["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, given in document["paths"].items() for method in given}
    assert described == {(route.method, route.path) for route in ROUTES}
    schemas = document["components"]["schemas"]
    assert schemas["NewComment"]["additionalProperties"] is False
    assert schemas["NewComment"]["required"] == ["body"]

    def references(value: object) -> set[str]:
        if isinstance(value, dict):
            found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return found.union(*(references(one) for one in value.values()))
        if isinstance(value, list):
            return set().union(*(references(one) for one in value))
        return set()

    for reference in references(document):
        _, kind, group, name = reference.split("/")
        assert name in document[kind][group], reference
    given = document["paths"][f"{_T}/comments"]["get"]["parameters"]
    page = {one["name"]: one["schema"] for one in given if "name" in one}
    assert (page["limit"]["minimum"], page["limit"]["maximum"], page["limit"]["default"]) == (1, 100, 50)


_T = "/v1/sites/{site}/threads/{thread}"


async def test_the_page_of_the_description_loads_nothing_from_elsewhere(client: Client) -> None:
    page = await client.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert b"//" not in page.raw.replace(b"</", b"")
    assert b'fetch("openapi.json")' in page.raw


async def test_half_a_surrogate_pair_in_an_id_names_no_comment(client: Client) -> None:
    answer = await client.send("POST", f"{T}/comments", data=b'{"body":"a","parent_id":"\\ud800"}', sub="ann")
    assert (answer.status, answer.code) == (404, "parent-not-found")


async def test_a_preflight_for_what_can_be_no_site_is_answered(client: Client) -> None:
    headers = {"Origin": "https://blog.example", "Access-Control-Request-Method": "POST"}
    answer = await client.send("OPTIONS", "/v1/sites/%00/settings", headers=headers)
    assert answer.status == 204
