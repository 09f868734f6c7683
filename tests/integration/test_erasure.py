"""Erasing a person: what is gone, from where, for whom; and what stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from redis.asyncio import Redis

from schema.events.envelope import Recorded
from services.core.addresses import site_stream_id, thread_stream_id
from services.eventlog.erased_keys import ErasedKeysFile
from services.eventlog.erasures import Erasures
from services.eventlog.keys import Keyring, MasterKey, SealBroken
from services.eventlog.log import EventLog
from services.projection.advance import Projector
from services.readmodel import builds, keys
from services.readmodel.views import Head, Views
from tests.integration.api_client import SITE, Client, S, T
from tests.integration.erasing import (
    BODY,
    DETAIL,
    EDITED,
    MASTER,
    NAME,
    NEEDLES,
    OTHER,
    ROLES,
    erased,
    eraser,
    erasing_client,
    lived,
    post_as_ann,
    send_as_ann,
    stream_of,
)
from tests.logcheck import chain
from tests.processes import until
from tests.traces import in_postgres, in_redis
from tests.writer import Writer


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with erasing_client(database_url, redis_url, broker_url) as client:
        yield client


# --- what is gone ----------------------------------------------------------------------------------------


async def test_no_trace_is_left_in_any_table_key_or_answer(
    client: Client, redis_url: str, broker_url: str
) -> None:
    pool = client.running.resources.pool
    life = await lived(client)
    assert len(await in_redis(redis_url, NEEDLES)) > 3, "it would be seen"
    tagged = [await client.get(f"{T}/comments", **role) for role in ROLES]
    assert all(b"zyzzogeton" in answer.raw for answer in tagged)
    answer = await send_as_ann(client, "DELETE", f"{S}/me")
    assert answer.status == 202
    await eraser(client).round()

    assert await in_postgres(pool, NEEDLES) == []
    assert await in_redis(redis_url, NEEDLES) == []
    assert await in_redis(broker_url, NEEDLES) == []
    comments = [f"{T}/comments/{one['id']}" for name, one in life.items() if name not in ("bobs", "away")]
    lists = ("", "/comments", "/comments?sort=newest", "/events")
    paths = [at + more for at in (T, OTHER) for more in lists]
    paths += [f"{T}/comments?parent={life['first']['id']}", f"{OTHER}/comments/{life['away']['id']}"]
    paths += comments + [f"{path}/revisions" for path in comments] + [f"{S}/me/notifications", f"{S}/me"]
    for role in ROLES:
        for path in paths:
            answer = await client.get(path, **role)
            assert answer.status in (200, 401, 403), (path, role, answer)
            assert not [needle for needle in NEEDLES if needle.encode() in answer.raw], (path, role)
    for before, role in zip(tagged, ROLES, strict=True):
        kept = {"If-None-Match": before.headers["Etag"]}
        again = await client.get(f"{T}/comments", **role, headers=kept)
        assert again.status == 200
        assert b"zyzzogeton" not in again.raw


async def test_nothing_that_a_key_has_sealed_opens_with_any_key_that_is_left(client: Client) -> None:
    pool = client.running.resources.pool
    master = MasterKey(MASTER)
    await lived(client)
    before = await opened(pool, master)
    assert {NAME, BODY, EDITED, DETAIL} <= before
    await send_as_ann(client, "DELETE", f"{S}/me")
    after = await opened(pool, master)
    assert after
    assert not [text for text in after for needle in NEEDLES if needle in text]


async def opened(pool: asyncpg.Pool[Any], master: MasterKey) -> set[str]:
    """All that the log tells to whoever has the database and the master key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from services.eventlog.keys import AuthorKey

    ring = []
    for row in await pool.fetch("select key_id, wrapped from author_keys where wrapped is not null"):
        secret = master.unwrap(row["key_id"].bytes, row["wrapped"])
        ring.append(AuthorKey(row["key_id"], secret, AESGCM(secret)))
    texts: set[str] = set()
    for row in await pool.fetch("select event_id, stream_id, sealed from events where sealed is not null"):
        for key in ring:
            try:
                texts |= set(key.open(*row).values())
            except SealBroken:
                continue
    return texts


async def test_every_process_has_forgotten_the_key_before_the_answer(client: Client) -> None:
    parts = client.running.resources
    await lived(client)
    other = Keyring(parts.pool, parts.master)
    key = await other.for_author(SITE, "u-ann")
    event = (await parts.log.events_after(stream_of(OTHER), 0, 10))[-1]
    assert event.key_id == key.key_id
    assert key.key_id in await other.by_id([key.key_id])
    asked = asyncio.create_task(send_as_ann(client, "DELETE", f"{S}/me"))
    while not asked.done():
        await other.by_id([key.key_id])  # somebody is at work all the while
        await asyncio.sleep(0)
    assert asked.result().status == 202
    assert await other.by_id([key.key_id]) == {}
    assert await parts.keyring.by_id([key.key_id]) == {}


async def test_without_its_event_a_comment_has_no_text_where_its_view_is_built(client: Client) -> None:
    parts = client.running.resources
    life = await lived(client)
    await send_as_ann(client, "DELETE", f"{S}/me")
    for at in (T, OTHER):
        await parts.views.drop(stream_of(at))
    page = await client.get(f"{OTHER}/comments", sub="mod", roles=("moderator",))
    (shown,) = page.json["comments"]
    assert (shown["id"], shown["state"], shown["author"], shown["body"]) == (
        life["away"]["id"],
        "visible",
        None,
        None,
    )


# --- what stays ------------------------------------------------------------------------------------------


async def test_places_replies_votes_and_counts_stay(client: Client) -> None:
    life = await erased(client)
    page = (await client.get(f"{T}/comments?replies=20&depth=10")).json
    shown = {one["id"]: one for one in page["comments"]}
    first = shown[life["first"]["id"]]
    assert (first["state"], first["author"], first["body"], first["html"]) == ("erased", None, None, None)
    assert (first["votes"], first["children"], first["descendants"]) == ({"up": 1, "down": 0}, 1, 2)
    bobs = first["replies"]["items"][0]
    assert (bobs["id"], bobs["body"], bobs["votes"]) == (life["bobs"]["id"], "by bob", {"up": 1, "down": 0})
    assert bobs["replies"]["items"][0]["state"] == "erased"
    assert {shown[life[name]["id"]]["state"] for name in ("gone", "removed")} == {"erased"}
    assert page["thread"]["comments"] == 1
    again = await send_as_ann(client, "POST", f"{T}/comments/{bobs['id']}/reports", {"reason": "spam"})
    assert again.code == "already-reported"


async def test_the_chain_holds_and_a_replay_gives_the_erased_state(client: Client) -> None:
    await erased(client)
    parts = client.running.resources
    for at in (T, OTHER):
        stream_id = stream_of(at)
        await chain(parts.log, stream_id)
        assert await parts.verifier.thread(stream_id) == []
        before = await client.get(f"{at}/comments", sub="mod", roles=("moderator",))
        replayed = await parts.replayer.replay(stream_id)
        assert replayed.rows == 0
        assert await parts.verifier.thread(stream_id) == []
        after = await client.get(f"{at}/comments", sub="mod", roles=("moderator",))
        assert after.raw == before.raw
    assert await parts.verifier.site(site_stream_id(SITE)) == []
    await chain(parts.log, site_stream_id(SITE))


async def test_the_decision_state_is_repaired_to_the_erased_one(client: Client) -> None:
    await erased(client)
    parts = client.running.resources
    await parts.pool.execute(
        "update comments set author_id = 'u-ann', state = 'visible', text_mac = 'x' where state = 'erased'"
    )
    assert await parts.verifier.thread(stream_of(T)) != []
    await parts.replayer.replay(stream_of(T))
    assert await parts.verifier.thread(stream_of(T)) == []


async def test_the_log_tells_of_it_once_and_by_whom(client: Client) -> None:
    await erased(client)
    await eraser(client).round()
    events = await EventLog(client.running.resources.pool).events_after(site_stream_id(SITE), 0, 100)
    (told,) = [event for event in events if event.type == "AuthorErased"]
    key_ids = {one.key_id for one in await of_ann(client)}
    assert json.loads(told.data)["author_id"] == told.actor_id == "u-ann"
    assert {UUID(json.loads(told.data)["key_id"])} == key_ids
    for at, count in ((T, 4), (OTHER, 1)):
        log = await client.running.resources.log.events_after(stream_of(at), 0, 100)
        marks = [event for event in log if event.type == "CommentErased"]
        assert len(marks) == count
        assert {event.causation_id for event in marks} == {told.event_id}
        assert {event.actor_id for event in marks} == {None}


async def of_ann(client: Client) -> list[Recorded]:
    events = await client.running.resources.log.events_after(stream_of(OTHER), 0, 100)
    return [event for event in events if event.actor_id == "u-ann" and event.key_id]


# --- what is beside the views ----------------------------------------------------------------------------


async def test_left_over_builds_and_views_of_other_formats_go(client: Client, redis_url: str) -> None:
    parts = client.running.resources
    await lived(client)
    async with Redis.from_url(redis_url) as redis:
        head = await parts.views.head(stream_of(T))
        assert head is not None
        served = keys.nodes(stream_of(T), head.build)
        older = served.replace(f"tl:{keys.FORMAT}:", "tl:1.0:")
        await redis.copy(served, older)
        await redis.copy(served, keys.nodes(stream_of(T), "0badf00d"))
        await builds.register(redis, stream_of(T), "0badf00d")
        elsewhere = thread_stream_id(SITE, "elsewhere")
        await redis.hset(keys.nodes(elsewhere, "12345678"), "1", "theirs")
        await builds.register(redis, elsewhere, "12345678")
        await redis.hset(keys.nodes(elsewhere, "1").replace(f"tl:{keys.FORMAT}:", "tl:1.0:"), "1", "theirs")
        seen = await in_redis(redis_url, ["Quixotic"])
        assert len([one for one in seen if "0badf00d" in one or ":1.0:" in one]) == 2
        await send_as_ann(client, "DELETE", f"{S}/me")
        await eraser(client, abandoned=0.0).round()
        assert await in_redis(redis_url, NEEDLES) == []
        assert len(await redis.keys(f"*{elsewhere.hex}*")) == 2


async def test_a_parked_view_loses_the_text_too(client: Client, redis_url: str) -> None:
    parts = client.running.resources
    await post_as_ann(client, BODY)
    await client.get(f"{T}/comments")
    await put_poison(client)
    with pytest.raises(Exception, match="no comment"):
        await parts.projector.advance(stream_of(T))
    head = await parts.views.head(stream_of(T))
    assert head is not None
    await parts.views.park(stream_of(T), head.version)
    before = await client.get(f"{T}/comments")
    assert b"zyzzogeton" in before.raw
    await send_as_ann(client, "DELETE", f"{S}/me")
    await eraser(client).round()
    # Though it stays at its version, nobody is told that what they have still holds.
    page = await client.get(f"{T}/comments", headers={"If-None-Match": before.headers["Etag"]})
    assert (page.status, page.headers["Threadlog-Stale"]) == (200, "true")
    assert page.version == before.version
    assert not any(needle.encode() in page.raw for needle in NEEDLES)
    assert await in_redis(redis_url, NEEDLES) == []
    (erasure,) = await parts.erasures.of(SITE, "u-ann")
    assert erasure.done_at is not None


async def put_poison(client: Client) -> None:
    """An event that no view can apply, at the end of T."""
    parts = client.running.resources
    log = Writer(parts.pool, client.running.api.appenders, parts.lanes)
    await log.poison("story", stream_of(T))


async def test_a_projector_that_is_behind_cannot_write_a_text_back(client: Client, redis_url: str) -> None:
    parts = client.running.resources
    # It has read the log, and opened the text, before the key was destroyed.
    slow = Views(parts.redis)
    late = Projector(parts.log, Keyring(parts.pool, parts.master), slow)
    await post_as_ann(client, BODY)
    whole = await late.whole(stream_of(T))
    build = slow.build(stream_of(T))
    await build.fill(whole.index, late._nodes(whole.index, whole.events))
    await send_as_ann(client, "DELETE", f"{S}/me")
    carried_out = asyncio.create_task(eraser(client).round())
    gone = "select count(*) from comments where state = 'erased'"
    await until(lambda: parts.pool.fetchval(gone), "the comment is erased")
    await late._switch(build, Head.of(whole.thread), stale=False)
    await carried_out
    assert await in_redis(redis_url, NEEDLES) == []
    assert (await client.get(f"{T}/comments")).json["comments"][0]["state"] == "erased"


async def test_workers_that_do_the_same_at_once_write_nothing_twice(client: Client) -> None:
    parts = client.running.resources
    ids = {UUID((await post_as_ann(client, f"number {number}"))["id"]) for number in range(40)}
    asked = await send_as_ann(client, "DELETE", f"{S}/me")
    assert asked.status == 202
    rounds = [asyncio.create_task(eraser(client).round()) for _ in range(3)]
    while not all(one.done() for one in rounds):
        # As though each lease had ended: whoever looks finds the erasure, and begins it.
        await parts.pool.execute("update erasures set leased_until = null")
        await asyncio.sleep(0.01)
    await asyncio.gather(*rounds)
    await eraser(client).round()  # who came while it was looked at found it held, and left it
    log = await parts.log.events_after(stream_of(T), 0, 1000)
    marks = [UUID(json.loads(event.data)["comment_id"]) for event in log if event.type == "CommentErased"]
    assert len(marks) == len(ids)
    assert set(marks) == ids
    await chain(parts.log, stream_of(T))


# --- the file of destroyed keys --------------------------------------------------------------------------


async def test_a_restored_key_is_destroyed_again(client: Client, tmp_path: Path) -> None:
    parts = client.running.resources
    erasures = Erasures(parts.pool, ErasedKeysFile(tmp_path / "keys"))
    await post_as_ann(client, BODY)
    backup = await parts.pool.fetch("select key_id, wrapped from author_keys where wrapped is not null")
    erasure = await erasures.request(SITE, "u-ann", requested_by=None)
    assert erasure is not None
    assert erasures.file is not None
    assert list(erasures.file.keys()) == [erasure.key_id]
    assert await erasures.alive(list(erasures.file.keys())) == []
    # A backup of before the erasure is restored: the key lives, and of the erasure nothing is known.
    await parts.pool.execute("delete from erasures")
    for key_id, wrapped in backup:
        await parts.pool.execute(
            "update author_keys set wrapped = $2, destroyed_at = null where key_id = $1", key_id, wrapped
        )
    assert await erasures.alive(list(erasures.file.keys())) == [erasure.key_id]
    again = await erasures.reapply(erasure.key_id)
    assert again is not None
    assert (again.site, again.author_id, again.key_id) == (SITE, "u-ann", erasure.key_id)
    assert await erasures.reapply(erasure.key_id) is None
    await eraser(client).round()
    assert (await client.get(f"{T}/comments")).json["comments"][0]["state"] == "erased"


async def test_an_erasure_that_could_not_be_filed_is_filed_by_the_next_request(
    client: Client, tmp_path: Path
) -> None:
    parts = client.running.resources
    file = ErasedKeysFile(tmp_path / "missing" / "keys")
    erasures = Erasures(parts.pool, file)
    key = await parts.keyring.for_author(SITE, "u-ann")
    with pytest.raises(OSError, match="missing"):
        await erasures.request(SITE, "u-ann", requested_by="u-ann")
    (tmp_path / "missing").mkdir()
    assert await erasures.request(SITE, "u-ann", requested_by="u-ann") is None
    assert list(file.keys()) == [key.key_id]


async def test_an_erasure_waits_for_a_batch_and_the_batch_is_found(client: Client) -> None:
    parts = client.running.resources
    key = await parts.keyring.for_author(SITE, "u-ann")
    holder = await asyncpg.connect(parts.settings.database_url)
    try:
        async with holder.transaction():
            await holder.execute("select pg_advisory_xact_lock($1, 0)", 0x746C01)
            asked = asyncio.create_task(parts.erasures.request(SITE, "u-ann", requested_by=None))
            waits = "select count(*) from pg_locks where not granted"
            await until(lambda: parts.pool.fetchval(waits), "the erasure waits")
            alive = "select wrapped is not null from author_keys where key_id = $1"
            assert await parts.pool.fetchval(alive, key.key_id)
        assert await asked is not None
    finally:
        await holder.close()


async def test_keys_that_were_kept_are_dropped_where_the_database_was_set_back(client: Client) -> None:
    parts = client.running.resources
    ring = Keyring(parts.pool, parts.master)
    key = await ring.for_author(SITE, "u-ann")
    await parts.keyring.for_author(SITE, "u-bob")
    await parts.erasures.request(SITE, "u-bob", requested_by=None)
    assert key.key_id in await ring.by_id([key.key_id])
    # Recovery to a point in time: of the first erasure nothing is known, and its number goes to another one.
    await parts.pool.execute("delete from erasures")
    await parts.pool.execute("alter table erasures alter column number restart with 1")
    assert await parts.erasures.request(SITE, "u-ann", requested_by=None) is not None
    assert await ring.by_id([key.key_id]) == {}
