"""Real worker processes on real servers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest
from redis.asyncio import Redis

from services.dev.servers import EmbeddedRedis
from services.errors import Unavailable
from services.pokes import Poker
from services.settings import Settings
from services.workers.hints import Looked
from services.workers.lifecycle import FAILED
from services.workers.metrics import METRICS
from services.workers.run import environment, run
from tests.following import World, world_of
from tests.processes import ROOT, until
from tests.writer import stream_of


@pytest.fixture
async def world(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, broker_url) as opened:
        yield opened


@pytest.fixture
def start_workers() -> Iterator[Callable[[Settings], subprocess.Popen[bytes]]]:
    """Starts the master process of the workers; whatever is left of it afterwards is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(settings: Settings) -> subprocess.Popen[bytes]:
        code = "import sys\nfrom services.settings import Settings\nfrom services.workers.run import run\n"
        process = subprocess.Popen(
            [sys.executable, "-c", code + "sys.exit(run(Settings.load()))"],
            cwd=ROOT,
            env={**os.environ, **environment(settings)},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        family = [process.pid, *(child.pid for child in below(process))] if process.poll() is None else []
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(30)


def below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


async def ended(processes: list[psutil.Process]) -> None:
    async def gone() -> bool:
        return all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in processes)

    await until(gone, "the end of all processes")


@pytest.fixture
def poker(broker_url: str) -> Iterator[Poker]:
    poker = Poker(broker_url)
    poker.start()
    yield poker
    poker.stop()


async def test_a_posted_comment_is_projected_and_told_by_worker_processes(
    world: World, poker: Poker, start_workers: Callable[[Settings], subprocess.Popen[bytes]]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start_workers(world.settings.model_copy(update={"metrics_port": port}))
    root = await world.log.post("t", "ann")
    reply = await world.log.post("t", "bob", root.event_id)
    poker.poke([stream_of("t")])
    await world.shows("t", reply.version)
    await world.told(1)
    for _ in range(20):
        reply = await world.log.post("t", "bob", root.event_id)
        poker.poke([stream_of("t")])
        await world.shows("t", reply.version)
    await world.told(21)

    async def all_counted() -> bool:
        text = await scrape(port)
        return all(f"# TYPE {metric.name} {metric.kind}" in text for metric in METRICS) and (
            total(text, "threadlog_projected_events_total") == reply.version
            and total(text, "threadlog_notifications_total") == 21
            and total(text, 'threadlog_lag_events{lane="0",projection="view"}') == 0
        )

    await until(all_counted, "the counts of all processes, added up")
    processes = below(process)
    assert len(processes) >= 3
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0
    await ended(processes)


async def scrape(port: int) -> str:
    def get() -> str:
        try:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                return str(answer.read().decode())
        except (URLError, ConnectionError):
            return ""

    return await asyncio.to_thread(get)


def total(text: str, name: str) -> float | None:
    values = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)]
    return sum(values) if values else None


async def test_what_no_message_told_is_found_in_the_log(
    world: World, start_workers: Callable[[Settings], subprocess.Popen[bytes]]
) -> None:
    """Nobody pokes: a thread whose view exists, and its notifier, are brought up by the sweeper."""
    root = await world.log.post("t", "ann")
    await world.following.project([stream_of("t")], Looked.now())
    reply = await world.log.post("t", "bob", root.event_id)
    process = start_workers(world.settings)
    await world.shows("t", reply.version)
    await world.told(1)
    await ended_abruptly(process, signal.SIGKILL)

    later = await world.log.post("t", "cleo", root.event_id)
    async with Redis.from_url(world.settings.broker) as broker:
        await broker.flushdb()
    start_workers(world.settings)
    await world.shows("t", later.version)
    await world.told(2)


async def ended_abruptly(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Kill the master alone: its children end by themselves."""
    processes = below(process)
    assert processes
    process.send_signal(how)
    await asyncio.to_thread(process.wait, 30)
    await ended(processes)


async def test_a_hang_up_ends_the_workers_cleanly(
    world: World, start_workers: Callable[[Settings], subprocess.Popen[bytes]]
) -> None:
    root = await world.log.post("t", "ann")
    await world.log.post("t", "bob", root.event_id)
    process = start_workers(world.settings)
    await world.told(1)
    await ended_abruptly(process, signal.SIGHUP)
    assert process.returncode == 0


async def connected(world: World) -> None:
    """Wait until a worker process has opened what it needs."""
    await until(
        lambda: world.log.pool.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and application_name = 'threadlog-caretaker'"
        ),
        "a worker process is connected",
    )


@pytest.mark.parametrize("lost", ["before", "while"])
@pytest.mark.parametrize("whole_group", [False, True], ids=["master", "group"])
async def test_a_signal_ends_the_workers_though_the_broker_is_away(
    world: World,
    start_redis: Callable[..., EmbeddedRedis],
    start_workers: Callable[[Settings], subprocess.Popen[bytes]],
    lost: str,
    whole_group: bool,
) -> None:
    """A service manager signals the whole group, and the master sends a second signal to its processes."""
    redis = start_redis()
    if lost == "before":
        redis.stop()
    urls = {"redis_url": redis.url(0), "broker_url": redis.url(1)}
    process = start_workers(world.settings.model_copy(update=urls))
    await connected(world)
    if lost == "while":
        redis.stop()
    processes = below(process)
    assert processes
    if whole_group:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0
    await ended(processes)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_right_at_the_start_ends_the_master_cleanly(
    world: World, start_workers: Callable[[Settings], subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    process = start_workers(world.settings)

    async def held() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text("ascii")
        blocked, caught = (int(status.partition(name)[2].split()[0], 16) for name in ("SigBlk:", "SigCgt:"))
        # SIGINT is Python's own from the beginning; all three are held at once.
        return all((blocked | caught) >> (one - 1) & 1 for one in (signal.SIGTERM, signal.SIGHUP))

    await until(held, "the master holds signals")
    process.send_signal(number)
    assert await asyncio.to_thread(process.wait, 30) == 0


@pytest.mark.slow
async def test_a_worker_that_cannot_end_leaves_all_the_same(
    world: World, poker: Poker, start_workers: Callable[[Settings], subprocess.Popen[bytes]]
) -> None:
    """Its message waits for a lock in Postgres, for longer than a worker may take to end."""
    await world.log.post("t", "ann")
    process = start_workers(world.settings)
    await connected(world)
    async with world.log.pool.acquire() as connection, connection.transaction():
        await connection.execute("lock table events in access exclusive mode")
        poker.poke([stream_of("t")])
        await until(
            lambda: connection.fetchval(
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and application_name like 'threadlog %' and wait_event_type = 'Lock'"
            ),
            "the message waits",
        )
        processes = below(process)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 40) == FAILED
        await ended(processes)


async def test_workers_do_not_start_without_their_database(world: World, tmp_path: Path) -> None:
    away = world.settings.model_copy(update={"database_url": f"postgresql:///none?host={tmp_path}"})
    with pytest.raises(Unavailable):
        await asyncio.to_thread(run, away)
