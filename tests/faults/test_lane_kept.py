"""A lane that is not given back: others go on without an API that froze with it, a full queue refuses at
once, a stop answers all that was accepted."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.faults.writes import LANE, WRITES, api, code_of, lane_held, queued, taken, waiters
from tests.logcheck import violations
from tests.processes import Answer, Client, Threadlog, threadlog, until


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as opened:
        yield opened


FROZEN = {
    "while it loads": "lock table votes in access exclusive mode",
    "while it appends": "select * from lanes for update",
}


@pytest.mark.parametrize("place", FROZEN)
async def test_others_go_on_while_an_api_that_holds_the_lane_is_frozen_and_it_serves_again_when_it_wakes(
    running: Threadlog, place: str
) -> None:
    frozen, one = await api(running)
    _, other = await api(running)
    admin = await asyncpg.connect(running.settings.database_url)

    def posting(client: Client, key: str) -> asyncio.Task[Answer]:
        write = WRITES["post"]
        return asyncio.create_task(taken(lambda: write.send(client, "", key, {"body": key})))

    async def stuck() -> int | None:
        """The appender that waits in a statement of its batch."""
        pid: int | None = await admin.fetchval(
            "select pid from pg_stat_activity where application_name = 'threadlog-appender'"
            " and wait_event_type = 'Lock' and wait_event <> 'advisory' and datname = current_database()"
        )
        return pid

    async def holds(pid: int) -> str | None:
        """What the lane's holder does: nothing, since who should speak next does not."""
        state: str | None = await admin.fetchval(
            "select state from pg_stat_activity join pg_locks using (pid)"
            " where pid = $1 and locktype = 'advisory' and granted and classid = $2 and objid = $3",
            *(pid, *LANE),
        )
        return state

    try:
        async with admin.transaction():
            await admin.execute(FROZEN[place])
            of_frozen = [posting(one, "frozen-0")]
            pid = await until(stuck, "it holds the lane, in its batch")
            assert pid is not None
            of_frozen += [posting(one, f"frozen-{n}") for n in range(1, 6)]
            frozen.popen.send_signal(signal.SIGSTOP)
            await until(
                lambda: asyncio.to_thread(psutil.Process(frozen.popen.pid).status),
                "it is stopped",
                lambda status: status == psutil.STATUS_STOPPED,
            )
        await until(lambda: holds(pid), "its session is idle, with the lane", lambda state: state == "idle")
        of_other = [posting(other, f"awake-{n}") for n in range(6)]
        async with asyncio.timeout(12):
            await asyncio.gather(*of_other)
        assert await holds(pid) is None
        assert psutil.Process(frozen.popen.pid).status() == psutil.STATUS_STOPPED
    finally:
        frozen.popen.send_signal(signal.SIGCONT)
        await admin.close()

    answers = await asyncio.gather(*of_frozen, *of_other)
    answers.append(await posting(one, "after-it-woke"))
    assert len({answer.json["id"] for answer in answers}) == len(answers)
    stored = await running.parts.pool.fetch("select event_id from events where type = 'CommentPosted'")
    assert {str(row["event_id"]) for row in stored} == {answer.json["id"] for answer in answers}
    assert await violations(running.settings.database_url) == []


async def test_a_full_queue_refuses_at_once_and_a_stop_answers_all_that_was_accepted(
    running: Threadlog,
) -> None:
    process, client = await api(running, max_queue=5)

    def posting(n: int) -> asyncio.Task[Answer]:
        return asyncio.create_task(WRITES["post"].send(client, "", f"key-{n}", {"body": f"number {n}"}))

    async with lane_held(running.settings.database_url):
        accepted = [posting(0)]
        await until(lambda: waiters(running), "it stands at the lane")
        accepted += [posting(n) for n in range(1, 6)]
        await until(lambda: queued(client), "the queue is full", lambda count: count == 5)
        # Nobody gives the lane back before these are answered.
        refused = await asyncio.gather(*(posting(n) for n in range(6, 30)))
        assert await queued(client) == 5
        assert not any(post.done() for post in accepted)
        process.popen.send_signal(signal.SIGTERM)
        await until(lambda: _takes_no_more(client), "it takes no new connections")
        assert not any(post.done() for post in accepted)

    assert {(answer.status, code_of(answer)) for answer in refused} == {(503, "overloaded")}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    answers = await asyncio.gather(*accepted)
    assert [answer.status for answer in answers] == [201] * 6
    assert await process.stop() == 0
    stored = await running.parts.pool.fetch("select event_id from events where type = 'CommentPosted'")
    assert {str(row["event_id"]) for row in stored} == {answer.json["id"] for answer in answers}
    assert await violations(running.settings.database_url) == []


async def _takes_no_more(client: Client) -> bool:
    host, _, port = client.base.removeprefix("http://").rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return True
    writer.close()
    return False
