"""Author keys on a real database: made once, bound, bounded, and gone once destroyed."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.core.commands import PostComment
from services.errors import ConfigurationError, KeyDestroyed
from services.eventlog.appender import Appender
from services.eventlog.keys import AuthorKey, Keyring, MasterKey, SealBroken
from tests.factories import BLOG, Writer, fresh_id

TEXT = {"body": "as *written*", "name": "Ann"}


@pytest.fixture
def master() -> MasterKey:
    return MasterKey(b64encode(os.urandom(32)).decode())


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=8) as pool:
        yield pool


@pytest.fixture
def keyring(pool: asyncpg.Pool[Any], master: MasterKey) -> Keyring:
    return Keyring(pool, master)


async def destroy(pool: asyncpg.Pool[Any], key_id: UUID) -> None:
    await pool.execute(
        "update author_keys set wrapped = null, destroyed_at = now() where key_id = $1", key_id
    )


async def test_an_author_has_one_key_whoever_asks_first(pool: asyncpg.Pool[Any], master: MasterKey) -> None:
    rings = [Keyring(pool, master) for _ in range(8)]
    keys = await asyncio.gather(*(ring.for_author("blog", "ann") for ring in rings))
    assert len({key.key_id for key in keys}) == 1
    assert len({key.secret for key in keys}) == 1
    assert await pool.fetchval("select count(*) from author_keys") == 1


async def test_authors_and_sites_share_no_key(keyring: Keyring) -> None:
    asked = [("blog", "ann"), ("blog", "bob"), ("news", "ann")]
    keys = [await keyring.for_author(site, author) for site, author in asked]
    assert len({key.key_id for key in keys}) == len({key.secret for key in keys}) == 3


async def test_what_is_sealed_opens_in_another_process_and_nowhere_else(
    pool: asyncpg.Pool[Any], keyring: Keyring, master: MasterKey
) -> None:
    event_id = fresh_id()
    sealed = (await keyring.for_author("blog", "ann")).seal(event_id, BLOG.stream_id, TEXT)
    other = await Keyring(pool, master).for_author("blog", "ann")
    assert other.open(event_id, BLOG.stream_id, sealed) == TEXT
    bob = await keyring.for_author("blog", "bob")
    for key, event, stream, damaged in (
        (other, fresh_id(), BLOG.stream_id, sealed),
        (other, event_id, fresh_id(), sealed),
        (other, event_id, BLOG.stream_id, sealed[:-1]),
        (other, event_id, BLOG.stream_id, bytes([sealed[0] ^ 1]) + sealed[1:]),
        (other, event_id, BLOG.stream_id, b""),
        (bob, event_id, BLOG.stream_id, sealed),
    ):
        with pytest.raises(SealBroken):
            key.open(event, stream, damaged)


async def test_the_database_holds_no_key_and_no_text_in_the_clear(
    pool: asyncpg.Pool[Any], keyring: Keyring, database_url: str
) -> None:
    key = await keyring.for_author("blog", "ann")
    appender = Appender(database_url, 0)
    await appender.start()
    try:
        await appender.submit(await Writer(keyring).post("a secret word"))
    finally:
        await appender.stop()
    for row in await pool.fetch("select data, sealed from events"):
        assert b"secret" not in row["data"] + row["sealed"]
    wrapped = await pool.fetchval("select wrapped from author_keys where key_id = $1", key.key_id)
    assert key.secret not in wrapped


async def test_another_master_key_opens_nothing(pool: asyncpg.Pool[Any], keyring: Keyring) -> None:
    key = await keyring.for_author("blog", "ann")
    stranger = Keyring(pool, MasterKey(b64encode(os.urandom(32)).decode()))
    with pytest.raises(SealBroken, match="THREADLOG_MASTER_KEY"):
        await stranger.for_author("blog", "ann")
    with pytest.raises(SealBroken):
        await stranger.by_id([key.key_id])


async def test_a_wrapped_key_does_not_open_in_anothers_place(
    pool: asyncpg.Pool[Any], keyring: Keyring, master: MasterKey
) -> None:
    ann = await keyring.for_author("blog", "ann")
    bob = await keyring.for_author("blog", "bob")
    await pool.execute(
        "update author_keys set wrapped = (select wrapped from author_keys where key_id = $1)"
        " where key_id = $2",
        ann.key_id,
        bob.key_id,
    )
    with pytest.raises(SealBroken):
        await Keyring(pool, master).for_author("blog", "bob")


async def test_keys_are_found_by_id_and_destroyed_ones_are_not(
    pool: asyncpg.Pool[Any], keyring: Keyring
) -> None:
    ann = await keyring.for_author("blog", "ann")
    bob = await keyring.for_author("blog", "bob")
    await destroy(pool, bob.key_id)
    keyring.forget(bob.key_id)
    assert set(await keyring.by_id([ann.key_id, bob.key_id, fresh_id()])) == {ann.key_id}
    with pytest.raises(KeyDestroyed):
        await keyring.one(bob.key_id)


async def test_the_next_text_after_an_erasure_gets_a_new_key(
    pool: asyncpg.Pool[Any], keyring: Keyring
) -> None:
    before = await keyring.for_author("blog", "ann")
    await destroy(pool, before.key_id)
    keyring.forget(before.key_id)
    after = await keyring.for_author("blog", "ann")
    assert after.key_id != before.key_id
    assert after.secret != before.secret


async def test_a_text_sealed_under_a_key_destroyed_meanwhile_is_not_written(
    pool: asyncpg.Pool[Any], keyring: Keyring, database_url: str
) -> None:
    writer = Writer(keyring)
    stale: PostComment = await writer.post("too late", by="ann")
    good = await writer.post("in time", by="bob")
    assert stale.text is not None
    await destroy(pool, stale.text.key_id)
    appender = Appender(database_url, 0)
    await appender.start()
    try:
        answers = await asyncio.gather(appender.submit(stale), appender.submit(good), return_exceptions=True)
    finally:
        await appender.stop()
    assert isinstance(answers[0], KeyDestroyed)
    assert answers[0].key_id == stale.text.key_id
    assert not isinstance(answers[1], BaseException)
    assert await pool.fetch("select event_id from events") == [(good.event_id,)]


async def test_the_caches_are_bounded(pool: asyncpg.Pool[Any], master: MasterKey) -> None:
    keyring = Keyring(pool, master, limit=3)
    for number in range(10):
        await keyring.for_author("blog", f"u-{number}")
    assert len(keyring._by_author) == len(keyring._by_id) == 3


async def test_equal_texts_are_known_by_a_digest_that_only_the_key_gives(keyring: Keyring) -> None:
    ann, bob = await keyring.for_author("blog", "ann"), await keyring.for_author("blog", "bob")
    assert ann.mac("the same") == ann.mac("the same")
    assert len({ann.mac("the same"), ann.mac("another"), bob.mac("the same")}) == 3


@pytest.mark.parametrize("encoded", ["", "no base64!", b64encode(b"short").decode()])
def test_a_master_key_out_of_shape_is_refused_without_being_quoted(encoded: str) -> None:
    with pytest.raises(ConfigurationError, match="THREADLOG_MASTER_KEY") as raised:
        MasterKey(encoded)
    assert not encoded or encoded not in str(raised.value)


def test_no_key_shows_in_a_repr(master: MasterKey) -> None:

    secret = os.urandom(32)
    shown = repr(AuthorKey(fresh_id(), secret, AESGCM(secret))) + repr(master)
    assert repr(secret)[2:-1] not in shown
