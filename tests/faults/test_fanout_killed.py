"""A large fan-out, and workers that die in the middle of it: each follower is told once, nobody is missed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import psutil
import pytest

from tests.processes import Process, S, Threadlog, threadlog, until
from tests.writer import SITE

FOLLOWERS = 6_000
_COUNT = "select count(*) from notifications where reason = 'follow'"


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as opened:
        await opened.api()
        yield opened


def kill(worker: Process) -> None:
    """End its processes as a crash would, those first that would else end in good order after it."""
    master = psutil.Process(worker.popen.pid)
    for process in [*master.children(recursive=True), master]:
        process.kill()
    worker.popen.wait()


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
async def test_each_follower_is_told_once_whoever_is_killed(running: Threadlog, seed: int) -> None:
    random, pool = Random(seed), running.parts.pool
    root = await running.client.post("t", "worth following", sub="ann")
    await pool.execute(
        "insert into subscriptions (stream_id, author_id, site, level) "
        "select $1, 'f-' || number, $2, 'all' from generate_series(1, $3::int) as number",
        *(running.stream_of("t"), SITE, FOLLOWERS),
    )
    # The reply's parent follows too: told of it as a reply, and once.
    await running.client.send("PUT", f"{S}/threads/t/subscription", {"level": "all"}, sub="ann")
    reply = await running.client.post("t", "an answer", sub="bob", to=root.json["id"])

    async def told() -> int:
        return int(await pool.fetchval(_COUNT))

    killed, whole = 0, 2 * FOLLOWERS  # of the root too, which nobody was told of before
    while True:
        worker = running.worker()
        enough = min(await told() + random.randrange(1, whole // 3), whole)
        reached = await until(told, "a worker tells", lambda count, enough=enough: count >= enough, 90.0)  # type: ignore[misc]
        if reached == whole:
            break
        kill(worker)
        killed += 1
    assert killed, "no worker died in the middle"
    rows = await pool.fetch("select recipient_id, reason, event_id::text from notifications")
    followers = [f"f-{number + 1}" for number in range(FOLLOWERS)]
    assert sorted(map(tuple, rows)) == sorted(
        [
            ("ann", "reply", reply.json["id"]),
            *((one, "follow", event) for one in followers for event in (root.json["id"], reply.json["id"])),
        ]
    )
    left = "select count(*) from fanouts"
    assert await until(lambda: pool.fetchval(left), "no part is left", lambda count: count == 0) == 0


async def test_a_large_fan_out_does_not_hold_up_other_threads(running: Threadlog) -> None:
    """Its chunks wait in a queue of their own: while one cannot go on, others hear of their replies."""
    pool = running.parts.pool
    await pool.execute(
        "insert into subscriptions (stream_id, author_id, site, level) "
        "select $1, 'f-' || number, $2, 'all' from generate_series(1, 500) as number",
        *(running.stream_of("t"), SITE),
    )
    large = await running.client.post("t", "for all of them", sub="bob")
    async with pool.acquire() as connection:
        # Nobody gets through to a follower before it is known that these rows are not entered.
        entering = connection.transaction()
        await entering.start()
        await connection.execute(
            "insert into notifications (site, recipient_id, notification_id, event_id, stream_id, "
            "comment_id, reason, created_at) "
            "select $1, 'f-' || number, gen_random_uuid(), $2, $3, $2, 'follow', now() "
            "from generate_series(1, 500) as number",
            *(SITE, large.json["id"], running.stream_of("t")),
        )
        running.worker()
        elsewhere = await running.client.post("elsewhere", "a question", sub="cem")
        answer = await running.client.post("elsewhere", "an answer", sub="dan", to=elsewhere.json["id"])
        await until(
            lambda: pool.fetch("select 1 from notifications where event_id = $1", answer.json["id"]),
            "cem is told, though the followers of the other thread are not",
            within=90.0,
        )
        assert await pool.fetchval(_COUNT) == 0
        await entering.rollback()
    await until(lambda: pool.fetchval(_COUNT), "the followers are told", lambda count: count == 500)
