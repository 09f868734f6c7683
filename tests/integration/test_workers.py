"""Real worker processes, and the parts they are made of, on real servers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen
from uuid import UUID

import asyncpg
import psutil
import pytest
import redis
from redis.asyncio import Redis

from services.dev.servers import EmbeddedRedis
from services.errors import Unavailable
from services.eventlog.checkpoints import DeadLetters, LaneCheckpoints, Projection
from services.eventlog.log import EventLog
from services.pokes import ACTORS, NOTIFY_ACTOR, PROJECT_ACTOR, PROJECT_QUEUE, QUEUES, Poker, queue_key
from services.projection.advance import Projector
from services.readmodel import keys
from services.readmodel.views import Views
from services.settings import Settings
from services.workers.metrics import METRICS
from services.workers.notifier import Notifier
from services.workers.projector import Following
from services.workers.run import environment, run
from services.workers.sweeper import Behind, Sweeper, Walk
from tests.writer import MASTER_KEY, Writer, stream_of, writer

ROOT = Path(__file__).parents[2]


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.01)


@dataclass
class World:
    """A log, the views of it, and a broker."""

    log: Writer
    redis: Redis
    views: Views
    settings: Settings
    following: Following = field(init=False)
    letters: DeadLetters = field(init=False)

    def __post_init__(self) -> None:
        self.letters = DeadLetters(self.log.pool, "1.0")
        self.following = Following(
            Projector(EventLog(self.log.pool), self.log.keyring, self.views), self.letters
        )

    async def version(self, key: str) -> int:
        """The version of the thread's view; 0 without one."""
        head = await self.views.head(stream_of(key))
        return 0 if head is None else head.version

    async def shows(self, key: str, version: int) -> None:
        """Wait until the view has reached a version."""

        async def reached() -> bool:
            return await self.version(key) >= version

        await until(reached, f"the view of {key} at version {version}")

    async def count(self, statement: str) -> int:
        """The number that a statement selects."""
        return int(await self.log.pool.fetchval(statement) or 0)

    async def told(self, count: int) -> None:
        """Wait until there are so many notifications."""

        async def there() -> bool:
            return await self.count("select count(*) from notifications") >= count

        await until(there, f"{count} notifications")


@pytest.fixture
async def world(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[World]:
    settings = Settings.load(
        database_url=database_url,
        redis_url=redis_url,
        broker_url=broker_url,
        master_key=MASTER_KEY,
        worker_processes=2,
        worker_threads=2,
        pool_size=4,
    )
    async with writer(database_url) as log, Redis.from_url(redis_url) as client:
        yield World(log, client, Views(client), settings)


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
        )
        started.append(process)
        return process

    yield start
    for process in started:
        family = [process.pid, *(child.pid for child in below(process))] if process.poll() is None else []
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        process.wait()


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


# --- real processes -----------------------------------------------------------------------------------


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
    await world.following.project([stream_of("t")])
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


async def test_workers_do_not_start_without_their_database(world: World, tmp_path: Path) -> None:
    away = world.settings.model_copy(update={"database_url": f"postgresql:///none?host={tmp_path}"})
    with pytest.raises(Unavailable):
        await asyncio.to_thread(run, away)


# --- the projector ------------------------------------------------------------------------------------


async def test_a_poison_event_parks_one_thread_while_the_others_go_on(world: World) -> None:
    threads = ["a", "b", "c"]
    for key in threads:
        await world.log.post(key, "ann")
    streams = [stream_of(key) for key in threads]
    assert await world.following.project(streams) == 0
    version = await world.log.poison("b")
    for key in threads:
        await world.log.post(key, "bob")

    assert await world.following.project(streams) == 0

    assert [await world.version(key) for key in threads] == [2, 1, 2]
    heads = await world.views.heads(streams)
    assert [heads[stream].stale for stream in streams] == [False, True, False]
    (letter,) = await world.letters.page()
    assert (letter.projection, letter.stream_id, letter.version, letter.build) == (
        Projection.VIEW,
        stream_of("b"),
        version,
        "1.0",
    )
    assert "no comment" in letter.reason
    assert await world.letters.counts() == {Projection.VIEW: 1, Projection.NOTIFICATIONS: 0}


async def test_an_event_of_a_newer_release_leaves_the_view_behind_without_a_dead_letter(world: World) -> None:
    await world.log.post("t", "ann")
    await world.following.project([stream_of("t")])
    await world.log.put("t", "CommentApplauded", {})
    assert await world.following.project([stream_of("t")]) == 1
    head = await world.views.head(stream_of("t"))
    assert head is not None
    assert (head.version, head.stale) == (1, False)
    assert await world.letters.page() == []


async def test_a_dead_letter_goes_when_its_thread_is_advanced_past_it(world: World) -> None:
    await world.log.post("t", "ann")
    await world.following.project([stream_of("t")])
    version = await world.log.poison("t")
    await world.following.project([stream_of("t")])
    letters = DeadLetters(world.log.pool, "1.1")
    assert [letter.version for letter in await letters.of_other_builds()] == [version]

    await world.following.unpark(stream_of("t"))
    await heal(world.log.pool, version)
    assert await world.following.project([stream_of("t")]) == 0

    assert await world.letters.page() == []
    head = await world.views.head(stream_of("t"))
    assert head is not None
    assert (head.version, head.stale) == (version, False)


async def heal(pool: asyncpg.Pool, version: int) -> None:
    """Stands for a release that can apply the event: the log itself never changes."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute(
            "update events set type = 'ThreadClosed', data = '{}' where version = $1", version
        )


async def test_one_fault_is_not_another_threads(world: World) -> None:
    await world.log.post("t", "ann")
    await world.redis.set(keys.head(stream_of("broken")), "not a hash")
    await world.log.post("broken", "ann")
    assert await world.following.project([stream_of("broken"), stream_of("t")]) == 1
    assert await world.version("t") == 1


# --- the sweeper --------------------------------------------------------------------------------------


class Swept:
    """A sweeper of lane 0 whose pokes are kept, on a clock of the test's own."""

    def __init__(self, world: World, connection: asyncpg.Connection, **given: int) -> None:
        self.now = 0.0
        self.poked: list[tuple[Projection, UUID]] = []
        self.sweeper = Sweeper(
            0,
            LaneCheckpoints(connection),
            world.views,
            self._poke,
            settled=0.0,
            clock=lambda: self.now,
            **given,
        )

    def _poke(self, behind: Behind) -> None:
        self.poked += [(projection, one) for projection, streams in behind.items() for one in streams]

    async def rounds(self, count: int = 1, seconds: float = 1.0) -> list[tuple[Projection, UUID]]:
        """What rounds find, the clock going on after each."""
        self.poked.clear()
        for _ in range(count):
            await self.sweeper.round()
            self.now += seconds
        return list(self.poked)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def catch_up(world: World, *threads: str) -> None:
    await world.following.project([stream_of(key) for key in threads])
    for key in threads:
        await Notifier(world.log.pool).notify(stream_of(key))


async def stored(world: World) -> int:
    return await world.count("select position from sweeper_checkpoints where lane = 0")


async def test_the_checkpoint_moves_past_what_is_caught_up(
    world: World, connection: asyncpg.Connection
) -> None:
    for key in "abc":
        await world.log.post(key, "ann")
    await catch_up(world, *"abc")
    assert await Swept(world, connection, window=2).rounds() == []
    assert await stored(world) == 3


async def test_a_thread_without_a_view_lacks_only_its_notifications(
    world: World, connection: asyncpg.Connection
) -> None:
    await world.log.post("t", "ann")
    swept = Swept(world, connection)
    assert await swept.rounds() == [(Projection.NOTIFICATIONS, stream_of("t"))]
    await Notifier(world.log.pool).notify(stream_of("t"))
    assert await swept.rounds(2) == []
    assert await stored(world) == 1


async def test_a_stuck_thread_holds_up_the_checkpoint_and_nobody_else(
    world: World, connection: asyncpg.Connection
) -> None:
    await world.log.post("before", "ann")
    await world.log.post("stuck", "ann")
    await catch_up(world, "before", "stuck")
    await world.log.put("stuck", "CommentApplauded", {})
    await world.log.post("after", "ann")
    await catch_up(world, "after")
    await world.log.post("after", "bob")
    swept = Swept(world, connection, window=1)

    found = await swept.rounds()
    assert (Projection.VIEW, stream_of("stuck")) in found
    assert (Projection.VIEW, stream_of("after")) in found
    await catch_up(world, "after")
    assert (Projection.VIEW, stream_of("stuck")) in await swept.rounds(2)
    assert await stored(world) == 2

    again = Swept(world, connection)
    assert (Projection.VIEW, stream_of("stuck")) in await again.rounds()


async def test_a_parked_thread_holds_up_nothing(world: World, connection: asyncpg.Connection) -> None:
    await world.log.post("t", "ann")
    await catch_up(world, "t")
    await world.log.poison("t")
    await catch_up(world, "t")
    swept = Swept(world, connection)
    assert await swept.rounds() == []
    assert await stored(world) == 2


async def test_stragglers_past_the_limit_are_waited_for_and_in_the_end_passed_by(
    world: World, connection: asyncpg.Connection
) -> None:
    for key in "abc":
        await world.log.post(key, "ann")
    swept = Swept(world, connection, window=1, limit=1)
    poked = {stream for _, stream in await swept.rounds(10)}
    assert poked == {stream_of("a")}
    assert (await swept.sweeper.round()).walk is Walk.WAITS

    poked = {stream for _, stream in await swept.rounds(3, seconds=60)}
    assert poked >= {stream_of("b"), stream_of("c")}
    assert await stored(world) == 0

    for key in "abc":
        await catch_up(world, key)
    await swept.rounds(5, seconds=60)
    assert await stored(world) == 3


async def test_young_events_are_left_to_their_messages(world: World, connection: asyncpg.Connection) -> None:
    await world.log.post("t", "ann")
    checkpoints = LaneCheckpoints(connection)
    assert await checkpoints.window(0, 0, 100, settled=3600.0) == []
    assert len(await checkpoints.window(0, 0, 100, settled=0.0)) == 1


async def test_a_checkpoint_is_never_taken_back(connection: asyncpg.Connection) -> None:
    checkpoints = LaneCheckpoints(connection)
    await checkpoints.move(0, 7)
    await checkpoints.move(0, 5)
    assert await checkpoints.position(0) == 7


# --- pokes --------------------------------------------------------------------------------------------


def waiting(broker_url: str, queue: str) -> int:
    with redis.Redis.from_url(broker_url) as client:
        return int(client.llen(queue_key(queue)))


async def sent(poker: Poker, count: int) -> None:
    async def all_sent() -> bool:
        return poker.sent >= count

    await until(all_sent, f"{count} messages sent")


async def test_a_poke_is_one_message_to_each_actor(poker: Poker, broker_url: str) -> None:
    poker.poke([UUID(int=1), UUID(int=2)])
    await sent(poker, 2)
    assert [waiting(broker_url, QUEUES[actor]) for actor in ACTORS] == [1, 1]


async def test_a_poke_may_be_for_one_actor(poker: Poker, broker_url: str) -> None:
    poker.poke([UUID(int=1)], [PROJECT_ACTOR])
    await sent(poker, 1)
    assert [waiting(broker_url, QUEUES[actor]) for actor in (PROJECT_ACTOR, NOTIFY_ACTOR)] == [1, 0]


def test_what_waits_is_coalesced_bounded_and_sent_at_the_end(broker_url: str) -> None:
    poker = Poker(broker_url, limit=10, streams_per_message=4)
    for _ in range(3):
        poker.poke((UUID(int=number) for number in range(12)), [PROJECT_ACTOR])
    assert poker.dropped == 6
    poker.start()
    poker.stop()
    assert waiting(broker_url, PROJECT_QUEUE) == poker.sent == 3


async def test_a_full_queue_takes_no_more(broker_url: str) -> None:
    poker = Poker(broker_url, queue_limit=2, streams_per_message=1)
    poker.poke((UUID(int=number) for number in range(5)), [PROJECT_ACTOR])
    poker.start()
    poker.stop()
    assert (waiting(broker_url, PROJECT_QUEUE), poker.sent, poker.dropped) == (2, 2, 3)


async def test_pokes_are_dropped_while_the_broker_is_away_and_go_again_when_it_is_back(
    start_redis: Callable[..., EmbeddedRedis],
) -> None:
    server = start_redis()
    poker = Poker(server.url(1))
    poker.start()
    poker.poke([UUID(int=1)])
    await sent(poker, 2)
    server.stop()
    poker.poke([UUID(int=2)])

    async def dropped() -> bool:
        return poker.dropped >= 2

    await until(dropped, "two pokes dropped")
    server.start()

    async def is_back() -> bool:
        poker.poke([UUID(int=3)])
        return poker.sent >= 4

    await until(is_back, "messages to go again")
    before = threading.active_count()
    poker.stop()
    assert threading.active_count() == before - 1
