"""A thread with an event that no view can take: read as far as it goes, written all the same, and no
hindrance to any other thread."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from aiohttp import web

from schema.events.envelope import canonical
from services.api.app import create_app, runner
from services.api.metrics import Metrics
from services.api.shapes import CommentShape, InboxShape, ThreadShape
from services.core.addresses import thread_stream_id
from services.eventlog.log import EventLog
from tests.integration.api_client import SITE, Client, S, T, client_of

MOD = ("moderator",)
POISON = [("CommentDeleted", {"comment_id": str(uuid.UUID(int=7)), "posted": 1}), ("CommentPraised", {})]


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as running:
        yield running


async def park(
    client: Client, redis_url: str, type_: str, data: dict[str, object], key: str = "story"
) -> None:
    """Put an event past all rules at the end of a thread, and take all views away."""
    stream_id, event_id, hash_ = thread_stream_id(SITE, "story"), uuid.uuid4(), uuid.uuid4().bytes * 2
    async with client.running.resources.pool.acquire() as connection, connection.transaction():
        version = await connection.fetchval(
            "update streams set version = version + 1, hash = $2 where stream_id = $1 returning version",
            *(stream_id, hash_),
        )
        position = await connection.fetchval("update lanes set head = head + 1 returning head")
        await connection.execute(
            "insert into events (position, lane, stream_id, version, event_id, type, schema_version, "
            "recorded_at, data, hash) values ($1, 0, $2, $3, $4, $5, 1, now(), $6, $7)",
            *(position, stream_id, version, event_id, type_, canonical(data), hash_),
        )
    async with redis.asyncio.Redis.from_url(redis_url) as views:
        await views.flushall()


async def tell(client: Client, comment: Any, key: str = "story", *, sub: str = "ann") -> None:
    await client.running.resources.pool.execute(
        "insert into notifications (site, recipient_id, notification_id, event_id, stream_id, comment_id,"
        " reason, actor_id, created_at) values ($1, $2, $3, $4, $5, $4, 'reply', 'bob', now())",
        *(SITE, sub, uuid.uuid4(), uuid.UUID(comment["id"]), thread_stream_id(SITE, key)),
    )


@pytest.mark.parametrize(("type_", "data"), POISON, ids=lambda value: str(value)[:15])
async def test_a_parked_thread_is_never_an_error_of_ours(
    client: Client, redis_url: str, type_: str, data: dict[str, object]
) -> None:
    comment = await client.post("one")
    await park(client, redis_url, type_, data)
    for path in (T, f"{T}/comments", f"{T}/comments/{comment['id']}"):
        answer = await client.get(path)
        assert answer.status in (200, 503), path
        if answer.status == 503:
            assert (answer.code, answer.headers["Retry-After"]) == ("unavailable", "30")
        waited = await client.get(f"{path}?min_version=2")
        assert (waited.status, waited.code, waited.headers["Retry-After"]) == (503, "unavailable", "30")


@pytest.mark.parametrize(("type_", "data"), POISON, ids=lambda value: str(value)[:15])
async def test_what_is_written_to_a_parked_thread_is_answered_as_written(
    client: Client, redis_url: str, type_: str, data: dict[str, object]
) -> None:
    meta = {"title": "A story", "url": "https://a.example/story"}
    key = {"Idempotency-Key": "k"}
    first = await client.send(
        "POST", f"{T}/comments", {"body": "one", "thread": meta}, sub="ann", headers=key
    )
    root = first.json
    await park(client, redis_url, type_, data)
    reply = await client.send(
        "POST", f"{T}/comments", {"body": "two", "parent_id": root["id"]}, sub="bob", headers=key
    )
    assert reply.status == 201
    again = await client.send(
        "POST", f"{T}/comments", {"body": "two", "parent_id": root["id"]}, sub="bob", headers=key
    )
    assert (again.status, again.version) == (201, reply.version)
    assert {**again.json, "permalink": reply.json["permalink"]} == reply.json
    for comment, sub in ((root, "ann"), (reply.json, "bob")):
        path = f"{T}/comments/{comment['id']}"
        headers = {"If-Match": '"1"', "Idempotency-Key": "e"}
        edits = [
            await client.send("PATCH", path, {"body": "*new*"}, sub=sub, headers=headers) for _ in range(2)
        ]
        for edited in edits:
            assert (edited.status, edited.version) == (200, edits[0].version)
            CommentShape.model_validate(edited.json)
            assert (edited.json["html"], edited.json["revision"]) == ("<p><em>new</em></p>", 2)
            assert edited.json["author"] == comment["author"]
            assert (edited.json["path"], edited.json["depth"]) == (comment["path"], comment["depth"])
            assert edited.json["edited_by"] == "author"
        assert edits[0].json["permalink"] == comment["permalink"]
    described = [
        await client.send("PATCH", T, {"title": "B", "state": "closed"}, sub="mod", roles=MOD, headers=key)
        for _ in range(2)
    ]
    for answer in described:
        assert (answer.status, answer.version) == (200, described[0].version)
        ThreadShape.model_validate(answer.json)
        assert (answer.json["title"], answer.json["state"]) == ("B", "closed")
        assert answer.json["version"] == answer.version
    assert (await client.send("DELETE", f"{T}/comments/{root['id']}", sub="ann")).status == 204


async def test_a_repeat_about_an_erased_comment_says_so_where_only_the_log_can_tell(
    client: Client, redis_url: str
) -> None:
    await client.post("one")
    await park(client, redis_url, *POISON[0])
    key = {"Idempotency-Key": "k"}
    await client.send("POST", f"{T}/comments", {"body": "two"}, sub="bob", headers=key)
    pool = client.running.resources.pool
    found = await pool.fetch(
        "update author_keys set wrapped = null, destroyed_at = now() where author_id = 'bob' returning key_id"
    )
    client.running.api.keyring.forget(found[0]["key_id"])
    again = await client.send("POST", f"{T}/comments", {"body": "two"}, sub="bob", headers=key)
    assert (again.status, again.code) == (409, "comment-erased")


class _Gone(EventLog):
    """A log that takes no reads of events."""

    async def events_at(self, stream_id: uuid.UUID, versions: list[int]) -> Any:
        raise ConnectionRefusedError


async def test_a_write_is_answered_though_nothing_can_be_read_any_more(
    client: Client, redis_url: str
) -> None:
    comment = await client.post("one")
    await park(client, redis_url, *POISON[0])
    api = dataclasses.replace(client.running.api, log=_Gone(client.running.resources.pool), metrics=Metrics())
    running = runner(create_app(api))
    await running.setup()
    try:
        await web.TCPSite(running, "127.0.0.1", 0).start()
        other = Client(dataclasses.replace(client.running, port=running.addresses[0][1]), client.session)
        path, headers = f"{T}/comments/{comment['id']}", {"If-Match": '"1"'}
        answer = await other.send("PATCH", path, {"body": "two"}, sub="ann", headers=headers)
    finally:
        await running.cleanup()
    assert (answer.status, answer.json["body"], answer.json["revision"]) == (200, "two", 2)
    assert answer.json["author"] == comment["author"]


async def test_one_parked_thread_does_not_close_an_inbox(client: Client, redis_url: str) -> None:
    good, bad = f"{S}/threads/good", await client.post("first", sub="bob")
    fine = await client.post("fine", sub="bob", at=good)
    await park(client, redis_url, *POISON[0])
    late = (await client.send("POST", f"{T}/comments", {"body": "after it"}, sub="bob")).json
    for comment, key in ((fine, "good"), (bad, "story"), (late, "story")):
        await tell(client, comment, key)
    inbox = await client.get(f"{S}/me/notifications", sub="ann")
    assert inbox.status == 200
    InboxShape.model_validate(inbox.json)
    shown = {one["event_id"]: one["comment"] for one in inbox.json["items"]}
    assert len(inbox.json["items"]) == 3
    assert shown[fine["id"]]["body"] == "fine"
    assert shown[late["id"]] is None


async def test_an_inbox_that_takes_long_is_given_in_parts(client: Client) -> None:
    comments = [
        await client.post(f"reply {n}", sub=f"bob-{n % 2}", at=f"{S}/threads/t{n % 3}") for n in range(60)
    ]
    for number, comment in enumerate(comments):
        await tell(client, comment, f"t{number % 3}")
    whole = await client.get(f"{S}/me/notifications?limit=1000", sub="ann")
    assert len(whole.json["items"]) == 60
    assert all(one["comment"]["id"] == one["event_id"] for one in whole.json["items"])
    api = dataclasses.replace(client.running.api, inbox_seconds=0.0, metrics=Metrics())
    running = runner(create_app(api))
    await running.setup()
    try:
        await web.TCPSite(running, "127.0.0.1", 0).start()
        other = Client(dataclasses.replace(client.running, port=running.addresses[0][1]), client.session)
        first = (await other.get(f"{S}/me/notifications?limit=1000", sub="ann")).json
        rest = (await other.get(f"{S}/me/notifications?limit=1000&after={first['after']}", sub="ann")).json
    finally:
        await running.cleanup()
    assert 0 < len(first["items"]) < 60
    assert first["items"] + rest["items"] == whole.json["items"]
    assert rest["after"] is None
