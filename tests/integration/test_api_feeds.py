"""Atom feeds over HTTP: what they hold, and how long they are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.core.addresses import site_stream_id, thread_stream_id
from services.eventlog import lists
from tests.atom import ATOM, THREAD, links, parsed, text
from tests.integration.api_client import SITE, Client, S, T, client_of

PATHS = [f"{S}/feed.atom", f"{T}/feed.atom"]


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True) as client:
        yield client


async def entries(client: Client, path: str) -> list[str]:
    """The ids of a feed's comments."""
    answer = await client.get(path)
    assert answer.status == 200, answer.raw
    assert answer.headers["Content-Type"].startswith("application/atom+xml")
    found = parsed(answer.raw).findall(f"{ATOM}entry")
    return [text(entry, "id").removeprefix("urn:uuid:") for entry in found]


async def test_a_feed_holds_what_was_posted_newest_first(client: Client) -> None:
    described = {"title": "Talk & <therapy>", "url": "https://blog.example/a?b=1&c={id}"}
    first = await client.send("POST", f"{T}/comments", {"body": "*one* <b>", "thread": described}, sub="ann")
    reply = await client.post("two", to=first.json["id"], sub="bob")
    other = await client.post("three", at=f"{S}/threads/other")
    site = parsed((await client.get(f"{S}/feed.atom")).raw)
    assert text(site, "id") == site_stream_id(SITE).urn
    found = site.findall(f"{ATOM}entry")
    assert [text(entry, "id") for entry in found] == [
        f"urn:uuid:{comment['id']}" for comment in (other, reply, first.json)
    ]
    newest, below, above = found
    assert text(above, "title") == "ann: Talk & <therapy>"
    assert text(above, "content") == first.json["html"]
    assert text(above, "published") == first.json["created_at"]
    assert links(above, "alternate") == [first.json["permalink"]]
    parent = below.find(f"{THREAD}in-reply-to")
    assert parent is not None
    assert (parent.get("ref"), parent.get("href")) == (
        f"urn:uuid:{first.json['id']}",
        first.json["permalink"],
    )
    assert (text(newest, "title"), links(newest, "alternate")) == ("ann: other", [])
    thread = parsed((await client.get(f"{T}/feed.atom")).raw)
    assert text(thread, "id") == thread_stream_id(SITE, "story").urn
    assert (text(thread, "title"), links(thread, "alternate")) == (described["title"], [described["url"]])
    assert await entries(client, f"{T}/feed.atom") == [reply["id"], first.json["id"]]


@pytest.mark.parametrize("path", PATHS)
async def test_a_feed_holds_the_newest_50_that_are_visible(client: Client, path: str) -> None:
    made = [(await client.post(f"text {number}"))["id"] for number in range(53)]
    gone = await client.send("DELETE", f"{T}/comments/{made[51]}", sub="ann")
    assert gone.status == 204
    del made[51]
    assert await entries(client, path) == made[:-51:-1]


async def test_a_threads_feed_looks_behind_whatever_else_happened_there(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "WINDOW", 2)
    made = [(await client.post(f"text {number}"))["id"] for number in range(3)]
    for number in range(9):
        voted = await client.send("PUT", f"{T}/comments/{made[0]}/vote", {"value": 1}, sub=f"voter-{number}")
        assert voted.status == 200
    assert await entries(client, f"{T}/feed.atom") == made[::-1]


@pytest.mark.parametrize("path", PATHS)
async def test_an_empty_feed_is_a_feed(client: Client, path: str) -> None:
    assert await entries(client, path) == []


@pytest.mark.parametrize("path", PATHS)
async def test_a_feed_is_kept_for_a_minute_and_tagged(client: Client, path: str) -> None:
    await client.post("one")
    first = await client.get(path)
    assert first.headers["Cache-Control"] == "public, max-age=60"
    again = await client.get(path, headers={"If-None-Match": first.headers["Etag"]})
    assert (again.status, again.raw) == (304, b"")
    assert (await client.get(path, sub="ann")).headers["Cache-Control"] == "private, max-age=60"
    await client.post("two")
    newer = path + ("?min_version=2" if path.startswith(T) else "")
    assert (await client.get(newer, headers={"If-None-Match": first.headers["Etag"]})).status == 200


@pytest.mark.parametrize("path", PATHS)
async def test_a_feed_reader_gets_it_whatever_it_accepts(client: Client, path: str) -> None:
    for accept in ("application/atom+xml", "application/xml, text/xml;q=0.9", "application/rss+xml"):
        assert (await client.get(path, headers={"Accept": accept})).status == 200
    other = await client.get(f"{S}/comments", headers={"Accept": "application/atom+xml"})
    assert (other.status, other.code) == (406, "not-acceptable")


async def test_a_threads_feed_tells_its_version(client: Client) -> None:
    await client.post("one")
    assert (await client.get(f"{T}/feed.atom")).version == 1
    newer = await client.post("two")
    assert (await client.get(f"{T}/feed.atom?min_version=2")).version == 2
    assert newer["id"] in await entries(client, f"{T}/feed.atom?min_version=2")
    later = await client.get(f"{T}/feed.atom?min_version=3")
    assert (later.status, later.code) == (400, "version-not-reached")


@pytest.mark.parametrize("path", PATHS)
async def test_a_feed_leaves_out_whose_key_is_destroyed_though_no_thread_tells_so_yet(
    client: Client, path: str
) -> None:
    kept = await client.post("one", sub="bob")
    await client.post("two", sub="ann")
    assert (await client.send("DELETE", f"{S}/me", sub="ann")).status == 202
    await client.running.resources.redis.flushdb()  # the views are folded anew, before any CommentErased
    assert await entries(client, path) == [kept["id"]]
