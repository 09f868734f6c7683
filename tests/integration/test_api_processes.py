"""`threadlog api --processes N`: one port, several processes, and a parent that keeps them running."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from aiohttp import ClientError, ClientSession, TCPConnector

from services.api.listening import Port
from services.api.siblings import labelled
from tests.processes import Process, S, Threadlog, threadlog, until

PROCESSES = 2


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as made:
        made.settings = made.settings.model_copy(update={"api_processes": PROCESSES})
        yield made


def children(parent: Process) -> set[int]:
    """Process ids of those that serve."""
    return {child.pid for child in psutil.Process(parent.popen.pid).children()}


async def counted(running: Threadlog) -> dict[int, float]:
    """How many requests each process says that it has answered."""
    text = (await running.client.get("/metrics")).raw.decode()
    counts: dict[int, float] = {}
    for process, count in re.findall(
        r'^threadlog_request_seconds_count\{process="(\d+)",.*\} (\S+)$', text, re.MULTILINE
    ):
        counts[int(process)] = counts.get(int(process), 0.0) + float(count)
    return counts


async def all_answer(running: Threadlog) -> dict[int, float]:
    """Wait until every process has answered requests, each over a connection of its own."""

    async def ask() -> dict[int, float]:
        async with (
            ClientSession(connector=TCPConnector(force_close=True)) as session,
            session.get(running.client.base + "/healthz") as answer,
        ):
            assert answer.status == 200
        return await counted(running)

    return await until(ask, "all processes answer", lambda counts: len(counts) == PROCESSES)


async def test_all_processes_answer_on_one_port_and_tell_their_counts_together(running: Threadlog) -> None:
    api = await running.api()

    counts = await all_answer(running)

    assert len(children(api)) == PROCESSES
    assert set(counts) == set(range(PROCESSES))
    assert all(count > 0 for count in counts.values())
    text = (await running.client.get("/metrics")).raw.decode()
    assert text.count("# TYPE threadlog_request_seconds histogram") == 1


async def test_a_process_that_is_killed_loses_no_acknowledged_write_and_is_started_again(
    running: Threadlog,
) -> None:
    api = await running.api()
    await all_answer(running)
    taken: list[str] = []
    enough = asyncio.Event()

    async def post(number: int) -> None:
        """Post one after the other, each over a new connection, and note what was acknowledged."""
        headers = {"Authorization": f"Bearer {running.client.token(f'writer-{number}')}"}
        while not enough.is_set():
            try:
                async with (
                    ClientSession(connector=TCPConnector(force_close=True)) as session,
                    session.post(
                        f"{running.client.base}{S}/threads/t/comments", json={"body": "x"}, headers=headers
                    ) as answer,
                ):
                    if answer.status == 201:
                        taken.append((await answer.json())["id"])
            except (ClientError, TimeoutError):
                continue  # it may have been written or not: nothing was promised

    async def more(than: int) -> None:
        async def count() -> int:
            return len(taken)

        await until(count, "comments are taken", lambda found: found > than)

    writers = [asyncio.create_task(post(number)) for number in range(8)]
    await more(20)
    before = children(api)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    await more(len(taken) + 20)

    async def now() -> set[int]:
        return children(api)

    after = await until(
        now, "it is started again", lambda pids: len(pids) == PROCESSES and victim not in pids
    )
    assert before - {victim} < after, "the other one went on"
    await all_answer(running)
    enough.set()
    await asyncio.gather(*writers)

    stored = {
        str(row["event_id"])
        for row in await running.parts.pool.fetch("select event_id from events where type = 'CommentPosted'")
    }
    assert set(taken) <= stored
    assert len(set(taken)) == len(taken)
    assert await api.stop() == 0


async def test_a_signal_drains_all_processes(running: Threadlog) -> None:
    api = await running.api()
    await all_answer(running)
    pids = children(api)
    held = await running.parts.pool.acquire()
    await held.execute("begin")
    await held.execute("lock table streams in access exclusive mode")
    posts = [
        asyncio.create_task(running.client.post(f"t{number}", "x", sub=f"writer-{number}"))
        for number in range(2 * PROCESSES)
    ]

    async def waiting() -> int:
        return int(
            await running.parts.pool.fetchval(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            )
        )

    await until(waiting, "posts wait for the lock")
    api.popen.send_signal(signal.SIGTERM)

    async def refused() -> bool:
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", int(running.client.base.rpartition(":")[2])
            )
        except OSError:
            return True
        writer.close()
        return False

    await until(refused, "nobody takes new connections")
    await held.execute("rollback")
    await running.parts.pool.release(held)

    answers = await asyncio.gather(*posts)
    assert {answer.status for answer in answers} == {201}
    assert await api.stop() == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_processes_end_when_their_parent_is_killed(running: Threadlog) -> None:
    api = await running.api()
    pids = children(api)

    api.kill()

    async def left() -> list[int]:
        return [pid for pid in pids if psutil.pid_exists(pid)]

    await until(left, "they have ended", lambda found: not found)


async def test_a_port_that_is_taken_is_told_of_once(running: Threadlog) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        api = running.start("api", port=taken.getsockname()[1])
        assert await asyncio.to_thread(api.popen.wait, 30) == 2

    assert api.said.count("THREADLOG_PORT: cannot listen") == 1
    assert "Traceback" not in api.said


async def test_postgres_away_at_the_start_is_told_of_once(running: Threadlog, tmp_path: Path) -> None:
    api = running.start("api", port=0, database_url=f"postgresql://postgres@/nobody?host={tmp_path}")

    assert await asyncio.to_thread(api.popen.wait, 60) == 3
    assert api.said.count("a dependency does not answer") == 1
    assert "Traceback" not in api.said


async def test_port_0_is_one_free_port_for_all(running: Threadlog) -> None:
    api = running.start("api", port=0)

    async def ports() -> list[str]:
        return re.findall(r'"port":\s*(\d+)', api.said)

    told = await until(ports, "they listen", lambda found: len(found) == PROCESSES)
    assert len(set(told)) == 1
    running.client.base = f"http://127.0.0.1:{told[0]}"
    await all_answer(running)


def test_a_port_is_held_until_it_is_closed() -> None:
    port = Port("127.0.0.1", 0)
    listening = port.sockets()
    for one in listening:
        one.listen()

    with pytest.raises(OSError, match="in use"):
        Port("127.0.0.1", port.port)
    port.close()
    for one in listening:
        one.close()
    Port("127.0.0.1", port.port).close()


def test_samples_of_one_metric_stay_together_and_name_their_process() -> None:
    text = (
        b"# HELP a_total A.\n# TYPE a_total counter\na_total %d.0\n"
        b'# HELP b B.\n# TYPE b gauge\nb{x="1 {"} 2.0\n'
    )

    assert labelled([(1, text % 7), (0, text % 5)]) == (
        b"# HELP a_total A.\n# TYPE a_total counter\n"
        b'a_total{process="0"} 5.0\na_total{process="1"} 7.0\n'
        b"# HELP b B.\n# TYPE b gauge\n"
        b'b{process="0",x="1 {"} 2.0\nb{process="1",x="1 {"} 2.0\n'
    )
