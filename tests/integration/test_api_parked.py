"""A thread with an event that no view can take: read as far as it goes, written all the same, and no
hindrance to any other thread."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import redis.asyncio
from aiohttp import web

from schema.events.envelope import canonical
from services.api.app import create_app, runner
from services.api.metrics import Metrics
from services.api.shapes import CommentShape, InboxShape, ThreadShape
from services.core.addresses import thread_stream_id
from services.errors import PoisonEvent
from services.eventlog.checkpoints import DeadLetters
from services.eventlog.log import EventLog
from services.workers.hints import Looked
from services.workers.projector import Following
from tests.integration.api_client import SITE, Answer, Client, S, T, client_of
from tests.listening import listening
from tests.processes import until

MOD = ("moderator",)
STREAM = thread_stream_id(SITE, "story")
POISON = [("CommentDeleted", {"comment_id": str(uuid.UUID(int=7)), "posted": 1}), ("CommentPraised", {})]


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as running:
        yield running


async def park(
    client: Client, redis_url: str, type_: str, data: dict[str, object], *, lost: bool = True
) -> None:
    """Put an event past all rules at the end of the thread; unless not `lost`, all views are gone then."""
    stream_id, event_id, hash_ = STREAM, uuid.uuid4(), uuid.uuid4().bytes * 2
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
    if lost:
        async with redis.asyncio.Redis.from_url(redis_url) as views:
            await views.flushall()


async def viewed(client: Client) -> None:
    """Read the thread, and wait for the view that is written behind the answer."""
    await client.get(T)
    await until(lambda: client.running.resources.views.head(STREAM), "the view is written")


async def heal(client: Client, version: int) -> None:
    """Stands for a release that can apply the event: the log itself never changes."""
    async with client.running.resources.pool.acquire() as connection, connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute(
            "update events set type = 'ThreadClosed', data = '{}' where stream_id = $1 and version = $2",
            *(STREAM, version),
        )


def worker_of(client: Client) -> Following:
    """The projector's step as a worker has it."""
    parts = client.running.resources
    return Following(parts.projector, DeadLetters(parts.pool, "1.0"))


async def stale(client: Client, path: str) -> Answer:
    """An answer that is marked so: what is remembered is compared with the view some milliseconds later."""
    return await until(
        lambda: client.get(path), f"{path} is stale", lambda answer: "Threadlog-Stale" in answer.headers
    )


async def letters(client: Client) -> list[tuple[int, datetime]]:
    """Version and time of each dead letter."""
    found = await DeadLetters(client.running.resources.pool).page()
    return [(letter.version, letter.created_at) for letter in found]


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
@pytest.mark.parametrize("lost", [True, False], ids=["without a view", "with a view"])
async def test_the_last_good_view_serves_until_the_repair(
    client: Client, redis_url: str, type_: str, data: dict[str, object], lost: bool
) -> None:
    root = await client.post("one")
    await client.post("two", to=root["id"], sub="bob")
    assert (await client.get(f"{T}/comments?min_version=2")).status == 200
    await until(lambda: client.running.resources.views.head(STREAM), "there is a view")
    await park(client, redis_url, type_, data, lost=lost)
    worker = worker_of(client)
    for _ in range(2):
        await worker.project([STREAM], Looked.now())
        await client.send("POST", f"{T}/comments", {"body": "behind it"}, sub="cleo")
        answer = await stale(client, f"{T}/comments")
        assert (answer.status, answer.version) == (200, 2)
        assert [one["body"] for one in answer.json["comments"]] == ["one"]
        assert [one["body"] for one in answer.json["comments"][0]["replies"]["items"]] == ["two"]
    assert len(await letters(client)) == (type_ == "CommentDeleted")
    for version, status in ((1, 200), (2, 200), (3, 503), (4, 503)):
        then = await client.get(f"{T}/comments?as_of={version}", sub="mod", roles=MOD)
        assert (then.status, "Threadlog-Stale" in then.headers) == (status, False)

    await heal(client, 3)
    await worker.retry(STREAM)
    answer = await client.get(f"{T}/comments?min_version=5")
    assert (answer.status, answer.version, answer.headers.get("Threadlog-Stale")) == (200, 5, None)
    assert [one["body"] for one in answer.json["comments"]] == ["one", "behind it", "behind it"]
    assert answer.json["thread"]["state"] == "closed"
    assert await letters(client) == []


async def test_a_redis_that_was_emptied_is_no_repair(client: Client, redis_url: str) -> None:
    await client.post("one")
    await viewed(client)
    await park(client, redis_url, *POISON[0], lost=False)
    worker = worker_of(client)
    await worker.project([STREAM], Looked.now())
    before = await letters(client)
    assert [version for version, _ in before] == [2]
    async with redis.asyncio.Redis.from_url(redis_url) as views:
        for brought_back in (lambda: client.get(T), lambda: worker.project([STREAM], Looked.now())):
            await views.flushall()
            await brought_back()
            answer = await stale(client, T)
            assert (answer.status, answer.version) == (200, 1)
            assert await letters(client) == before


async def test_a_replay_and_a_verify_name_the_event_and_change_nothing(
    client: Client, redis_url: str
) -> None:
    await client.post("one")
    await park(client, redis_url, *POISON[0])
    await worker_of(client).project([STREAM], Looked.now())
    parts, before = client.running.resources, await letters(client)
    with pytest.raises(PoisonEvent) as caught:
        await parts.replayer.replay(STREAM)
    assert caught.value.version == 2
    assert "version 2" in [
        found.path for found in await parts.verifier.thread(STREAM) if found.kind == "event"
    ]
    assert (await stale(client, T)).version == 1
    assert await letters(client) == before
    await heal(client, 2)
    await parts.replayer.replay(STREAM)
    assert (await parts.verifier.thread(STREAM), await letters(client)) == ([], [])


async def test_a_live_stream_waits_for_the_repair_and_misses_nothing(client: Client, redis_url: str) -> None:
    await client.post("one")
    await viewed(client)
    base = f"http://{client.running.host}:{client.running.port}"
    async with listening(base, f"{T}/live?after=0") as stream:
        assert (await stream.event()).id == 1
        await park(client, redis_url, *POISON[0], lost=False)
        worker = worker_of(client)
        await worker.project([STREAM], Looked.now())
        await client.post("behind it", sub="bob")
        again = await client.get(f"{T}/live?after=1", headers={"Accept": "application/json"})
        assert (again.status, again.headers["Retry-After"]) == (503, "30")
        await heal(client, 2)
        await worker.retry(STREAM)
        rest = await stream.until(3, within=30)
    assert [(event.id, event.type) for event in rest] == [(2, "ThreadClosed"), (3, "CommentPosted")]


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
    decisions = [
        await client.send("POST", f"{T}/comments/{root['id']}/decisions", body, sub="mod", roles=MOD)
        for body in ({"action": "hide", "reason": "rude"}, {"action": "approve"})
    ]
    for decided, state in zip(decisions, ("hidden", "visible"), strict=True):
        CommentShape.model_validate(decided.json)
        assert (decided.status, decided.json["state"], decided.json["body"]) == (200, state, "*new*")
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
