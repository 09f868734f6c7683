"""Comments of every schema version: what old releases recorded, read by this one, and the other way round.

Version 1 of CommentPosted and ReplyPosted knew no badge, 2 said `badge: true`, 3 says which one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from redis.asyncio import Redis

from schema.events.envelope import GENESIS, Recorded, canonical, chain_of
from schema.events.registry import STEPS, UPCASTERS
from services.core.addresses import event_id_at, thread_stream_id
from services.core.page import Row
from services.core.thread import timestamp
from services.eventlog import batch
from services.eventlog.lines import event_of, line_of
from services.ops.commands.log import line
from services.wiring import Resources
from tests.integration.api_client import SITE, Client, T, client_of
from tests.logcheck import chain
from tests.planting import POSTS, older, planted
from tests.processes import Threadlog, threadlog, until
from tests.writer import writer

STREAM = thread_stream_id(SITE, "story")
THEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
BADGES = {"one": None, "two": None, "three": "moderator", "four": None}
"""What is known of the comments that `recorded_then` records."""


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as running:
        yield running


class OldLog:
    """Puts events into the log as releases recorded them that are gone: hashed, and nothing beside."""

    def __init__(self, parts: Resources) -> None:
        self._parts = parts
        self.events: list[Recorded] = []

    async def record(
        self, name: str, schema_version: int, author: str | None, text: str | None, data: Mapping[str, Any]
    ) -> UUID:
        """One event behind the last; its id."""
        version = len(self.events) + 1
        when = THEN + timedelta(minutes=version)
        event_id = event_id_at(when, str(version).encode())
        sealed, key_id, mac = None, None, ""
        if author is not None and text is not None:
            key = await self._parts.keyring.for_author(SITE, author)
            sealed, key_id, mac = key.sealed(event_id, STREAM, {"body": text, "name": author.title()})
        fields = (STREAM, version, event_id, name, schema_version, author, None, None, when)
        said = canonical({"text_mac": mac, **data})
        async with self._parts.pool.acquire() as connection, connection.transaction():
            position = await connection.fetchval("update lanes set head = head + 1 returning head")
            event = Recorded(*fields, said, sealed, key_id, b"", 0, position)
            event = event._replace(hash=chain_of(self.events[-1].hash if self.events else GENESIS, event))
            await connection.execute(
                "insert into events (stream_id, version, event_id, type, schema_version, actor_id,"
                " correlation_id, causation_id, recorded_at, data, sealed, key_id, hash, lane, position)"
                " values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
                *event,
            )
            await connection.execute(
                "insert into streams (stream_id, lane, site, key, version, hash, recorded_at)"
                " values ($1, 0, $2, 'story', $3, $4, $5) on conflict (stream_id) do update"
                " set version = $3, hash = $4, recorded_at = $5",
                *(STREAM, SITE, version, event.hash, when),
            )
        self.events.append(event)
        return event_id


async def recorded_then(parts: Resources, *, latest: int = 2) -> OldLog:
    """A thread of releases that knew the schema versions up to `latest`."""
    log = OldLog(parts)
    opens = {"opens": {"site": SITE, "key": "story"}}
    one = await log.record("CommentPosted", 1, "ann", "one", opens)
    below = {"parent_id": str(one), "parent": 1, "depth": 1}
    await log.record("ReplyPosted", 1, "mia", "two", below)
    imported = {"created_at": timestamp(THEN), "source_id": "17"}
    await log.record("CommentPosted", 1, None, None, {"imported": imported, "tombstone": True})
    if latest == 2:
        await log.record("ReplyPosted", 2, "mia", "three", below | {"badge": True})
        await log.record("CommentPosted", 2, "bob", "four", {"imported": imported})
    return log


def badges(comments: list[dict[str, Any]]) -> dict[str, str | None]:
    """The badge of each comment that has an author, by its text."""
    found: dict[str, str | None] = {}
    for comment in comments:
        if comment["author"] is not None:
            found[comment["body"]] = comment["author"]["badge"]
        found |= badges(comment["replies"]["items"])
    return found


async def view(parts: Resources) -> dict[object, Row]:
    """All that the thread's view holds."""
    head = await parts.views.head(STREAM)
    assert head is not None
    assert not head.stale
    return {row.key: row async for row in parts.views.dump(STREAM, head.build)}


async def test_a_log_of_all_schema_versions_is_one_thread(client: Client, redis_url: str) -> None:
    parts = client.running.resources
    old = await recorded_then(parts)
    await parts.replayer.replay(STREAM)
    replies = {"body": "five", "parent_id": str(old.events[0].event_id)}
    answers = [
        await client.send("POST", f"{T}/comments", replies, sub="cleo"),
        await client.send("POST", f"{T}/comments", {"body": "six"}, sub="mia", roles=("moderator",)),
        await client.send("POST", f"{T}/comments", {"body": "seven"}, sub="jo", roles=("admin",)),
    ]
    assert [answer.status for answer in answers] == [201] * 3
    expected = BADGES | {"five": None, "six": "moderator", "seven": "admin"}
    assert [answer.json["author"]["badge"] for answer in answers] == [None, "moderator", "admin"]

    await parts.projector.advance(STREAM)
    kept_up = await view(parts)
    page = await client.get(f"{T}/comments?min_version=8")
    assert badges(page.json["comments"]) == expected
    one = await client.get(f"{T}/comments/{answers[2].json['id']}")
    assert one.json == answers[2].json | {"descendants": 0, "children": 0}

    await parts.replayer.replay(STREAM)
    assert await view(parts) == kept_up
    assert await parts.verifier.thread(STREAM) == []
    assert await chain(parts.log, STREAM) == 8
    async with Redis.from_url(redis_url) as views:
        await views.flushdb()
    assert (await client.get(f"{T}/comments?min_version=8")).json == page.json
    then = await client.get(f"{T}/comments?as_of=5", sub="mia", roles=("moderator",))
    assert badges(then.json["comments"]) == BADGES

    log = (await client.get(f"{T}/events", sub="mia", roles=("moderator",))).json["items"]
    assert [event["schema_version"] for event in log] == [1, 1, 1, 2, 2, 3, 3, 3]
    assert [event["data"].get("badge") for event in log] == [None] * 3 + [True] + [None] * 2 + [
        "moderator",
        "admin",
    ]
    for event in old.events:
        assert event_of(orjson.loads(line_of(event)))._replace(position=event.position) == event
    assert "badge=true" in line(old.events[3], None)


async def test_the_view_that_an_old_release_left_is_the_one_that_this_release_makes(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = client.running.resources
    await recorded_then(parts, latest=1)
    with monkeypatch.context() as before:
        before.setattr(UPCASTERS, "_steps", {})
        before.setattr(UPCASTERS, "_present", UPCASTERS._present | dict.fromkeys(POSTS, 1))
        await parts.replayer.replay(STREAM)
        left = await view(parts)
    assert await parts.verifier.thread(STREAM) == []
    await parts.replayer.replay(STREAM)
    assert await view(parts) == left
    nodes = [str(row.value) for row in left.values() if row.kind == "nodes"]
    assert (sum('"badge":null' in node for node in nodes), len(nodes)) == (2, 3)  # one is a placeholder


async def test_a_badge_is_what_the_author_was_then(client: Client) -> None:
    await client.send("POST", f"{T}/comments", {"body": "before"}, sub="mia", roles=("moderator",))
    await client.send("POST", f"{T}/comments", {"body": "after"}, sub="mia")
    answer = await client.get(f"{T}/comments?min_version=2")
    assert badges(answer.json["comments"]) == {"before": "moderator", "after": None}
    path = f"{T}/comments/{answer.json['comments'][0]['id']}"
    edited = await client.send("PATCH", path, {"body": "new"}, sub="mia", headers={"If-Match": '"1"'})
    assert (edited.json["body"], edited.json["author"]["badge"]) == ("new", "moderator")


async def test_a_server_that_acts_as_somebody_lends_them_no_badge(client: Client) -> None:
    made = await client.running.resources.credentials.add_key(SITE, ["admin"])
    signed = {"Authorization": f"Bearer {made.key}"}
    client.running.api.sites.forget(SITE)
    own = await client.send("POST", f"{T}/comments", {"body": "a notice"}, headers=signed)
    lent = await client.send(
        "POST", f"{T}/comments", {"body": "of Ann"}, headers=signed | {"Threadlog-Act-As": "ann"}
    )
    assert (own.json["author"]["badge"], lent.json["author"]["badge"]) == ("admin", None)


async def test_a_release_may_go_on_writing_the_version_before(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batch._WRITTEN, "CommentPosted", 2)
    monkeypatch.setattr(batch, "_OUTGROWN", frozenset({"CommentPosted"}))
    steps = {**STEPS, ("CommentPosted", 2): lambda payload: payload | {"text_mac": "brought up"}}
    monkeypatch.setattr(UPCASTERS, "_steps", steps)
    async with writer(database_url) as log:
        posted = await log.post("t", "ann")
        reply = await log.post("t", "bob", posted.event_id)
    assert [event.schema_version for event in (*posted.events, *reply.events)] == [2, 3]
    assert posted.comment is not None
    assert posted.comment.text_mac == "brought up"
    assert orjson.loads(posted.events[0].data)["text_mac"] not in ("", "brought up")


async def test_what_is_recorded_at_a_later_version_waits_for_its_release(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> None:
    """A rolling deploy: the new API writes what the old worker does not know."""
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as started:
        with planted(older(2), tmp_path):
            await started.api()
            worker = started.worker()
        post = await started.client.post("t", "of version 2", sub="ann")
        await started.shows("t", post.version)  # somebody reads it: it has a view from now on
        await until(lambda: started.parts.views.head(started.stream_of("t")), "there is a view")
        assert await schema_versions(started) == [2]

        await started.api()
        reply = await started.client.post("t", "of version 3", sub="bob", to=post.json["id"])
        other = await started.client.post("u", "a thread of its own", sub="ann")
        page = await until(lambda: started.page("t"), "the page is stale", lambda answer: answer.stale)
        assert (page.version, badges(page.json["comments"])) == (post.version, {"of version 2": None})
        assert "waits at version 2 for a newer release" in worker.said
        assert await told(started) == 0
        assert await started.parts.pool.fetchval("select count(*) from dead_letters") == 0
        assert await schema_versions(started) == [2, 3]

        await worker.stop()
        started.worker()
        page = await started.shows("t", reply.version)
        assert badges(page.json["comments"]) == {"of version 2": None, "of version 3": None}
        await until(lambda: told(started), "Ann is told", lambda count: count == 1)
        await started.shows("u", other.version)
        assert await started.parts.verifier.thread(started.stream_of("t")) == []
        assert await started.parts.pool.fetchval("select count(*) from dead_letters") == 0


async def schema_versions(started: Threadlog) -> list[int]:
    rows = await started.parts.pool.fetch(
        "select schema_version from events where stream_id = $1 order by version", started.stream_of("t")
    )
    return [row["schema_version"] for row in rows]


async def told(started: Threadlog) -> int:
    return int(await started.parts.pool.fetchval("select count(*) from notifications"))
