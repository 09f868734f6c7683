"""Without Redis everything is slower, and nothing is wrong: writes are taken, reads answered from the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.dev.servers import EmbeddedRedis
from tests.processes import S, Threadlog, threadlog, until

T = f"{S}/threads/story"


@pytest.fixture
def redis(start_redis: Callable[..., EmbeddedRedis]) -> EmbeddedRedis:
    """A server of the test's own: it holds the views and the messages, and forgets both when it stops."""
    return start_redis()


@pytest.fixture
async def running(database_url: str, redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis.url(0), redis.url(1), tmp_path) as opened:
        yield opened


async def test_a_lost_redis_costs_no_write_and_no_read(running: Threadlog, redis: EmbeddedRedis) -> None:
    api, worker = await running.api(), running.worker()
    client = running.client
    root = (await client.post("story", "the root", sub="ann")).json
    await running.shows("story", 1)  # built by the read; from here on, the worker keeps it up
    reply = await client.post("story", "a reply", sub="bob", to=root["id"])
    before = await running.shows("story", reply.version)
    assert not before.stale

    redis.stop()
    # What was looked at a moment ago is given for that long.
    same = await until(lambda: running.page("story"), "a stale page", lambda answer: answer.stale)
    assert same.raw == before.raw
    later = await client.post("story", "while it is away", sub="cem", to=root["id"])
    for method, path, body, sub, status in (
        ("PATCH", f"{T}/comments/{root['id']}", {"body": "the *root*"}, "ann", 200),
        ("POST", f"{T}/comments/{later.json['id']}/reports", {"reason": "spam"}, "bob", 202),
        ("DELETE", f"{T}/comments/{reply.json['id']}", None, "bob", 204),
    ):
        answer = await client.send(method, path, body, sub=sub, headers={"If-Match": '"1"'})
        assert answer.status == status, answer
    elsewhere = await client.post("another", "a new thread", sub="ann")
    asked = await client.get(f"{T}/comments?min_version={later.version + 3}")
    assert asked.stale
    assert asked.version == later.version + 3
    shown = asked.json["comments"][0]
    assert (shown["body"], shown["revision"]) == ("the *root*", 2)
    assert [one["state"] for one in shown["replies"]["items"]] == ["deleted", "visible"]
    for path in (T, f"{T}/comments/{root['id']}", f"{S}/threads/another"):
        assert (await client.get(path)).stale, path
    empty = await client.get(f"{S}/threads/never-written/comments")
    assert (empty.version, empty.json["comments"]) == (0, [])
    readiness = await client.get("/readyz")
    assert readiness.json["status"] == "degraded"
    assert api.alive
    assert worker.alive

    redis.start()
    after = await until(lambda: running.page("story"), "the view is back", lambda answer: not answer.stale)
    assert after.raw == asked.raw
    assert not (await client.get(f"{S}/threads/another")).stale
    assert await running.parts.verifier.thread(running.stream_of("story")) == []
    last = await client.post("another", "after it", sub="bob", to=elsewhere.json["id"])
    await running.shows("another", last.version)
    told = {later.json["id"], last.json["id"]}
    await until(
        lambda: client.get(f"{S}/me/notifications", sub="ann"),
        "ann is told of the replies of that time and of later",
        lambda answer: told <= {item["comment"]["id"] for item in answer.json["items"]},
    )
    assert (await client.get("/readyz")).json["status"] == "ok"


async def test_an_api_starts_and_serves_without_redis(running: Threadlog, redis: EmbeddedRedis) -> None:
    redis.stop()
    await running.api("degraded")
    posted = await running.client.post("story", "to nobody's memory", sub="ann")
    page = await running.page("story")
    assert page.stale
    assert page.version == posted.version
    redis.start()
    await running.shows("story", posted.version)
