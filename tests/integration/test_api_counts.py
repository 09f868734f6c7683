"""How many comments threads have: both ways to ask, exact at once, and no write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from services.api.context import READS_BY_POST
from services.api.routes import ROUTES
from services.api.shapes import CountsShape
from tests.integration.api_client import SITE, Client, S, T, client_of
from tests.sites import set_site

ODD = "a/b?c=d&e=%FF ~ü"


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as client:
        yield client


async def test_visible_comments_are_counted_as_soon_as_they_are_written(client: Client) -> None:
    first = await client.post("one")
    await client.post("two", to=first["id"])
    await client.post("three", at=f"{S}/threads/{quote(ODD, safe='')}")
    asked = {"threads": ["story", ODD, "nothing", "story"]}
    answer = await client.send("POST", f"{S}/counts", asked)
    assert (answer.status, answer.json) == (200, {"story": 2, ODD: 1, "nothing": 0})
    CountsShape.model_validate(answer.json)
    query = "&".join(f"thread={quote(key, safe='')}" for key in asked["threads"])
    assert (await client.get(f"{S}/counts?{query}")).json == answer.json
    gone = await client.send("DELETE", f"{T}/comments/{first['id']}", sub="ann")
    assert gone.status == 204
    assert (await client.get(f"{S}/counts?thread=story")).json == {"story": 1}


async def test_counting_asks_one_query_and_no_view(client: Client) -> None:
    await client.post("one")
    queries: list[str] = []
    fetch = client.running.resources.pool.fetch

    async def watched(query: str, *arguments: object) -> object:
        queries.append(query)
        return await fetch(query, *arguments)

    client.running.resources.pool.fetch = watched  # type: ignore[method-assign, assignment]
    await client.get(f"{S}/counts?thread=story&thread=other")
    assert len(queries) == 1
    assert client.running.api.reader.cold == 0


async def test_a_count_may_be_kept_for_half_a_minute(client: Client) -> None:
    answer = await client.get(f"{S}/counts?thread=story", headers={"Origin": "https://elsewhere.example"})
    assert answer.headers["Cache-Control"] == "public, max-age=30"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    signed_in = await client.get(f"{S}/counts?thread=story", sub="ann")
    assert signed_in.headers["Cache-Control"] == "private, max-age=30"


async def test_counting_by_post_is_a_read_for_rate_limits_and_for_other_origins(client: Client) -> None:
    assert {route.path for route in ROUTES if route.reads} == READS_BY_POST
    await set_site(client.running.api.appenders, SITE, {"address_writes_per_minute": 1})
    client.running.api.sites.forget(SITE)
    elsewhere = {"Origin": "https://elsewhere.example"}
    for _ in range(5):
        answer = await client.send("POST", f"{S}/counts", {"threads": ["story"]}, headers=elsewhere)
        assert (answer.status, answer.json) == (200, {"story": 0})
        assert "RateLimit" not in answer.headers
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    asked = elsewhere | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    allowed = await client.send("OPTIONS", f"{S}/counts", headers=asked)
    assert "POST" in allowed.headers["Access-Control-Allow-Methods"]
    refused = await client.send("OPTIONS", f"{T}/comments", headers=asked)
    assert "Access-Control-Allow-Methods" not in refused.headers


async def test_nothing_asked_is_nothing_counted(client: Client) -> None:
    assert (await client.get(f"{S}/counts")).json == {}
    assert (await client.send("POST", f"{S}/counts", {"threads": []})).json == {}


async def test_as_many_as_promised_are_counted_and_no_more(client: Client) -> None:
    keys = [f"t-{number}" for number in range(201)]
    most = await client.send("POST", f"{S}/counts", {"threads": keys[:200]})
    assert (most.status, len(most.json)) == (200, 200)
    more = await client.send("POST", f"{S}/counts", {"threads": keys})
    assert (more.status, more.code, more.json["errors"][0]["field"]) == (422, "invalid", "threads")
    query = "&".join(f"thread={key}" for key in keys[:100])
    assert len((await client.get(f"{S}/counts?{query}")).json) == 100
    more = await client.get(f"{S}/counts?{query}&thread=one-more")
    assert (more.status, more.code, more.json["errors"][0]["field"]) == (400, "bad-query", "thread")


@pytest.mark.parametrize(
    ("key", "field"),
    [("", "threads.1"), (".", "threads.1"), ("a\x00b", "threads.1"), ("ü" * 300, "threads.1")],
)
async def test_a_key_that_cannot_be_one_is_422(client: Client, key: str, field: str) -> None:
    answer = await client.send("POST", f"{S}/counts", {"threads": ["story", key]})
    assert (answer.status, answer.code, answer.json["errors"][0]["field"]) == (422, "invalid", field)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("thread=story&thread=", "thread.1"),
        ("thread=..", "thread.0"),
        ("thread=%00", "thread.0"),
        ("thread=%FF", "thread"),
        ("thread=%F", "thread"),
        (f"thread={'x' * 513}", "thread.0"),
        ("thread=story&limit=1", "limit"),
        ("threads=story", "threads"),
    ],
)
async def test_a_query_that_cannot_be_read_is_400(client: Client, query: str, field: str) -> None:
    answer = await client.get(f"{S}/counts?{query}")
    assert (answer.status, answer.code, answer.json["errors"][0]["field"]) == (400, "bad-query", field)


async def test_another_sites_threads_are_its_own(client: Client) -> None:
    await client.running.api.sites.add("blog", b"another-secret-of-at-least-32-bytes")
    await client.post("one")
    assert (await client.get("/v1/sites/blog/counts?thread=story")).json == {"story": 0}
