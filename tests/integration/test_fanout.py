"""Fan-outs against a real database: each follower once, in chunks, whoever else is at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from itertools import chain
from uuid import UUID

import asyncpg
import pytest

from services.eventlog.fanouts import PARTS, Fanouts
from services.workers.fanout import FanningOut
from tests.writer import SITE, Writer, new_id, stream_of, writer

THREAD = stream_of("t")
WHEN = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Writer]:
    async with writer(database_url) as opened:
        yield opened


async def follow(pool: asyncpg.Pool[asyncpg.Record], people: int, level: str = "all") -> list[str]:
    """So many followers of the thread."""
    names = [f"{level}-{number:05}" for number in range(people)]
    await pool.execute(
        "insert into subscriptions (stream_id, author_id, site, level) select $1, unnest($2::text[]), $3, $4",
        *(THREAD, names, SITE, level),
    )
    return names


async def enter(pool: asyncpg.Pool[asyncpg.Record], comment_id: UUID, actor: str = "ann") -> None:
    """Enter a fan-out of a comment, as the notifier does."""
    await pool.execute(
        "insert into fanouts (stream_id, event_id, part, site, comment_id, version, actor_id, created_at) "
        "select $1, $2, part, $3, $2, 1, $4, $5 from generate_series(0, $6 - 1) as part",
        *(THREAD, comment_id, SITE, actor, WHEN, PARTS),
    )


async def carry_out(fanouts: Fanouts) -> list[str]:
    """Whom this one told, to the end."""
    told: list[str] = []
    while (chunk := await fanouts.tell(THREAD)) is not None:
        assert chunk.site == SITE
        told += chunk.recipients
    return told


async def inboxes(pool: asyncpg.Pool[asyncpg.Record]) -> list[str]:
    rows = await pool.fetch("select recipient_id from notifications order by recipient_id")
    return [row["recipient_id"] for row in rows]


async def test_each_follower_is_told_once_by_many_workers_at_once(log: Writer) -> None:
    comment = await log.post("t", "ann")
    followers = await follow(log.pool, 500)
    await follow(log.pool, 20, "mentions")
    await follow(log.pool, 20, "muted")
    await enter(log.pool, comment.event_id)
    told = await asyncio.gather(*(carry_out(Fanouts(log.pool, chunk=7)) for _ in range(4)))
    assert sorted(chain(*told)) == followers == await inboxes(log.pool)
    assert await log.pool.fetchval("select count(*) from fanouts") == 0
    row = await log.pool.fetchrow("select * from notifications limit 1")
    assert row is not None
    assert (row["reason"], row["event_id"], row["comment_id"], row["actor_id"], row["created_at"]) == (
        *("follow", comment.event_id, comment.event_id, "ann", WHEN),
    )
    ids = [
        row["notification_id"] for row in await log.pool.fetch("select notification_id from notifications")
    ]
    assert {one.version for one in ids} == {7}
    assert abs(max(one.int >> 80 for one in ids) - datetime.now(UTC).timestamp() * 1000) < 600_000


async def test_who_does_not_want_it_is_not_told(log: Writer) -> None:
    comment = await log.post("t", "ann")
    await follow(log.pool, 4)
    await log.pool.execute(
        "insert into subscriptions (stream_id, author_id, site, level) values ($1, 'ann', $2, 'all')",
        *(THREAD, SITE),
    )
    await log.pool.execute(
        "insert into preferences (site, author_id, reasons, blocked) values "
        "($1, 'all-00000', '{\"follow\": false}', '{}'), ($1, 'all-00001', '{}', '{ann,eve}'), "
        "($1, 'all-00002', '{\"follow\": true, \"reply\": false}', '{eve}')",
        SITE,
    )
    await enter(log.pool, comment.event_id)
    assert sorted(await carry_out(Fanouts(log.pool))) == ["all-00002", "all-00003"]


async def test_who_was_told_for_a_better_reason_is_not_told_again(log: Writer) -> None:
    comment = await log.post("t", "ann")
    await follow(log.pool, 3)
    await log.pool.execute(
        "insert into notifications (site, recipient_id, notification_id, event_id, stream_id, comment_id, "
        "reason, actor_id, created_at) values ($1, 'all-00001', $2, $3, $4, $3, 'mention', 'ann', $5)",
        *(SITE, new_id(), comment.event_id, THREAD, WHEN),
    )
    await enter(log.pool, comment.event_id)
    assert sorted(await carry_out(Fanouts(log.pool))) == ["all-00000", "all-00002"]
    assert await log.pool.fetchval("select reason from notifications where recipient_id = 'all-00001'") == (
        "mention"
    )


async def test_one_that_is_cut_off_in_the_middle_has_told_nobody_and_another_goes_on(log: Writer) -> None:
    comment = await log.post("t", "ann")
    followers = await follow(log.pool, 300)
    await enter(log.pool, comment.event_id)
    first = Fanouts(log.pool, chunk=5)
    told = list((await first.tell(THREAD) or pytest.fail("nothing to do")).recipients)
    await log.pool.execute(
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin perform pg_terminate_backend(pg_backend_pid()); return new; end $$; "
        "create trigger refuse before update or delete on fanouts for each row execute function refuse()"
    )
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await first.tell(THREAD)
    assert await inboxes(log.pool) == sorted(told)
    await log.pool.execute("drop function refuse cascade")
    told += await carry_out(Fanouts(log.pool, chunk=5))
    assert sorted(told) == followers == await inboxes(log.pool)


async def test_a_comment_that_went_out_of_sight_waits_for_its_approval(log: Writer) -> None:
    comment = await log.post("t", "ann")
    await follow(log.pool, 300)
    await enter(log.pool, comment.event_id)
    fanouts = Fanouts(log.pool, chunk=5)
    await fanouts.tell(THREAD)
    told = await inboxes(log.pool)
    await log.pool.execute("update comments set state = 'hidden'")
    assert await carry_out(fanouts) == []
    assert await inboxes(log.pool) == told
    rows = await log.pool.fetch("select stream_id, comment_id, version, event_id from untold")
    assert [tuple(row) for row in rows] == [(THREAD, comment.event_id, 1, comment.event_id)]


async def test_a_comment_that_is_gone_is_told_to_nobody(log: Writer) -> None:
    comment = await log.post("t", "ann")
    await follow(log.pool, 30)
    await enter(log.pool, comment.event_id)
    await log.remove("t", comment.event_id)
    assert await carry_out(Fanouts(log.pool)) == []
    assert await inboxes(log.pool) == []
    assert await log.pool.fetchval("select count(*) from untold") == 0
    assert await log.pool.fetchval("select count(*) from fanouts") == 0


async def test_the_approval_that_comes_between_two_looks_is_not_missed(log: Writer) -> None:
    """The notifier holds its checkpoint while it tells of one: the chunk waits for that, and looks again."""
    comment = await log.post("t", "ann")
    followers = await follow(log.pool, 3)
    await enter(log.pool, comment.event_id)
    await log.pool.execute("insert into notifier_checkpoints (stream_id, version) values ($1, 1)", THREAD)
    await log.pool.execute("update comments set state = 'hidden'")
    fanouts = Fanouts(log.pool)
    async with log.pool.acquire() as notifier:
        transaction = notifier.transaction()
        await transaction.start()
        await notifier.execute("select from notifier_checkpoints where stream_id = $1 for update", THREAD)
        telling = asyncio.create_task(carry_out(fanouts))
        while not await log.pool.fetchval("select exists (select from pg_locks where not granted)"):
            assert not telling.done()
            await asyncio.sleep(0.01)
        await notifier.execute("update comments set state = 'visible'")
        await transaction.commit()
    assert sorted(await telling) == followers
    assert await log.pool.fetchval("select count(*) from untold") == 0


async def test_a_chunk_reads_only_its_own_followers(log: Writer) -> None:
    """However many follow, a chunk's cost is its own: by index, without a sort."""
    await follow(log.pool, 20_000)
    await log.pool.execute("vacuum analyze subscriptions")
    plan = await log.pool.fetchval(
        "explain (format json) select author_id from subscriptions where stream_id = $1 and part = 3 "
        "and level = 'all' and author_id > 'all-00900' order by author_id limit 10",
        THREAD,
    )
    assert "subscriptions_to_tell" in plan
    assert '"Sort"' not in plan


async def test_what_waits_for_long_is_found(log: Writer) -> None:
    comment = await log.post("t", "ann")
    await enter(log.pool, comment.event_id)
    fanouts = Fanouts(log.pool)
    assert await fanouts.left() == []
    await log.pool.execute("update fanouts set entered_at = now() - interval '5 seconds'")
    assert await fanouts.left() == [THREAD]


async def test_a_thread_that_waits_is_found_however_much_waits_in_another(log: Writer) -> None:
    await log.pool.execute(
        "insert into fanouts (stream_id, event_id, part, site, comment_id, version, created_at, entered_at) "
        "select $1, gen_random_uuid(), part, $2, $1, 1, now(), now() - interval '1 hour' "
        "from generate_series(1, 100) cross join generate_series(0, 15) as part",
        *(THREAD, SITE),
    )
    await log.pool.execute(
        "insert into fanouts (stream_id, event_id, part, site, comment_id, version, created_at, entered_at) "
        "values ($1, $1, 0, $2, $1, 1, now(), now() - interval '1 minute'), "
        "($3, $3, 0, $2, $3, 1, now(), now())",
        *(stream_of("small"), SITE, stream_of("lately")),
    )
    fanouts = Fanouts(log.pool)
    assert sorted(await fanouts.left()) == sorted([THREAD, stream_of("small")])
    parts, seconds = await fanouts.waiting()
    assert parts == 1_000
    assert seconds >= 3_600


class _Poked:
    """Keeps what it is asked to send."""

    def __init__(self) -> None:
        self.streams: list[UUID] = []

    def poke(self, stream_ids: Collection[UUID], _actors: Collection[str]) -> None:
        self.streams += stream_ids


async def test_a_small_thread_has_its_turn_among_the_chunks_of_a_large_one(log: Writer) -> None:
    large, small = await log.post("t", "ann"), await log.post("small", "ann")
    await follow(log.pool, 400)
    await enter(log.pool, large.event_id)
    await log.pool.execute(
        "insert into subscriptions (stream_id, author_id, site, level) values ($1, 'eve', $2, 'all')",
        *(stream_of("small"), SITE),
    )
    await log.pool.execute(
        "insert into fanouts (stream_id, event_id, part, site, comment_id, version, actor_id, created_at) "
        "select $1, $2, part, $3, $2, 1, 'ann', now() from generate_series(0, $4 - 1) as part",
        *(stream_of("small"), small.event_id, SITE, PARTS),
    )
    told: list[str] = []
    poked = _Poked()
    fanning = FanningOut(
        Fanouts(log.pool, chunk=5),
        poked,  # type: ignore[arg-type]
        lambda _site, people: told.extend(people),
    )
    # The messages of the large thread keep the process busy; that of the small one comes meanwhile.
    await asyncio.gather(*(fanning.handle([THREAD]) for _ in range(3)), fanning.handle([stream_of("small")]))
    while poked.streams:
        again, poked.streams = poked.streams, []
        await fanning.handle(again)
    assert len(told) == len(set(told)) == 401
    assert told.index("eve") < 200
