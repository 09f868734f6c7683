"""Postgres that goes away under load: begun again, killed, replaced by its standby. Clients repeat with their
keys what was not answered; then everything is in the log exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil
import pytest
from aiohttp import ClientError

from services.dev import servers
from services.dev.servers import EmbeddedPostgres
from services.eventlog.migrate import migrate
from services.eventlog.pool import Hosts
from tests.faults.writes import api, waiters
from tests.logcheck import violations
from tests.processes import Answer, Client, S, threadlog, until

CLIENTS = 12
StartPostgres = Callable[..., EmbeddedPostgres]


@dataclass(slots=True)
class Load:
    """Clients that post until told to stop. What was not taken they repeat with its key at the next API."""

    clients: list[Client]
    taken: dict[str, Answer] = field(default_factory=dict)
    """The answer by the comment's text, which is also its key."""
    again: int = 0
    """How many requests were sent again."""
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def client(self, number: int) -> None:
        count = 0
        while not self.enough.is_set():
            text = f"{number}/{count}"
            self.taken[text] = await self.posted(number, text)
            count += 1

    async def posted(self, number: int, text: str) -> Answer:
        for turn in itertools.count(number):
            api = self.clients[turn % len(self.clients)]
            with contextlib.suppress(ClientError, TimeoutError):
                answer = await api.send(
                    "POST",
                    f"{S}/threads/talk-{text[-1]}/comments",
                    {"body": text},
                    sub=f"author-{number}",
                    headers={"Idempotency-Key": text},
                )
                if answer.status == 201:
                    return answer
                assert answer.status == 503, answer
                assert int(answer.headers["Retry-After"]) >= 1
            self.again += 1
            await asyncio.sleep(0.05)  # no client repeats without a pause
        raise AssertionError("it counts without end")

    async def more(self, count: int = 40) -> None:
        """Wait until so many more are taken."""
        before = len(self.taken)

        async def came() -> int:
            return len(self.taken) - before

        await until(came, f"{count} more are taken", lambda found: found >= count, 60.0)

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self.client(number))
            await self.more()
            yield
            self.enough.set()


async def nothing_lost_or_doubled(load: Load, url: str) -> None:
    """What was acknowledged, and nothing else, is in the log: each once, where its answer said."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("select event_id, version from events where type = 'CommentPosted'")
    finally:
        await connection.close()
    logged = Counter((str(row["event_id"]), row["version"]) for row in rows)
    assert logged == Counter((answer.json["id"], answer.version) for answer in load.taken.values())
    assert await violations(url) == []


# --- one server, begun again -----------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_postgres_that_begins_again_under_load_has_lost_nothing_and_doubled_nothing(
    start_postgres: StartPostgres, redis_url: str, broker_url: str, tmp_path: Path, end: str
) -> None:
    postgres = start_postgres(tmp_path / "postgres")
    await migrate(postgres.dsn())
    async with threadlog(postgres.dsn(), redis_url, broker_url, tmp_path) as running:
        load = Load([(await api(running))[1] for _ in range(2)])
        async with load.under_way():
            await asyncio.to_thread(getattr(postgres, end))
            await asyncio.to_thread(postgres.start)
            await load.more()
        await nothing_lost_or_doubled(load, postgres.dsn())


# --- a primary and its standby ---------------------------------------------------------------------------


@dataclass(slots=True)
class Pair:
    """A primary whose commits wait for its standby."""

    primary: EmbeddedPostgres
    standby: EmbeddedPostgres

    @property
    def url(self) -> str:
        """Both hosts, of which the one that may be written to is asked for."""
        hosts = ",".join(folder(server) for server in (self.primary, self.standby))
        return f"postgresql://postgres@/postgres?host={hosts}&target_session_attrs=read-write"

    async def promote(self) -> None:
        connection = await asyncpg.connect(self.standby.dsn())
        try:
            assert await connection.fetchval("select pg_promote(wait_seconds => 30)")
        finally:
            await connection.close()


def folder(server: EmbeddedPostgres) -> str:
    return parse_qs(urlsplit(server.dsn()).query)["host"][0]


@pytest.fixture
async def pair(start_postgres: StartPostgres, tmp_path: Path) -> Pair:
    primary = start_postgres(tmp_path / "primary")
    await migrate(primary.dsn())
    await asyncio.to_thread(
        base_backup, primary, tmp_path / "standby" / "postgres" / "data", "--write-recovery-conf"
    )
    admin = await asyncpg.connect(primary.dsn())
    try:
        standby = start_postgres(tmp_path / "standby")
        await admin.execute("alter system set synchronous_standby_names = '*'")
        await admin.execute("select pg_reload_conf()")
        await until(
            lambda: admin.fetchval("select sync_state from pg_stat_replication where state = 'streaming'"),
            "the standby is a synchronous one",
            lambda state: state == "sync",
        )
    finally:
        await admin.close()
    return Pair(primary, standby)


def base_backup(primary: EmbeddedPostgres, data: Path, *more: str) -> None:
    """A copy of a running server; with `--write-recovery-conf` it follows that one when it is started."""
    data.parent.mkdir(mode=0o700, parents=True)
    command = [
        str(servers._postgres_bin() / "pg_basebackup"),
        "--pgdata",
        str(data),
        "--host",
        folder(primary),
    ]
    done = subprocess.run(
        [*command, "--username=postgres", "--checkpoint=fast", "--no-sync", *more],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_a_standby_takes_over_under_load_and_nothing_acknowledged_is_lost_or_doubled(
    pair: Pair, redis_url: str, broker_url: str, tmp_path: Path
) -> None:
    async with threadlog(pair.url, redis_url, broker_url, tmp_path) as running:
        dying, client = await api(running)
        load = Load([client, (await api(running))[1]])
        async with load.under_way():
            dying.kill()
            await asyncio.to_thread(pair.primary.kill)
            with pytest.raises(OSError, match="target_session_attrs"):
                await Hosts(pair.url).connect(timeout=5)
            await pair.promote()
            await load.more()
        assert load.again > 0
        await nothing_lost_or_doubled(load, pair.standby.dsn())


@pytest.mark.slow
async def test_a_primary_that_is_silent_is_left_for_the_standby(
    pair: Pair, redis_url: str, broker_url: str, tmp_path: Path
) -> None:
    # As when its machine is gone: nobody refuses, nobody answers.
    postmaster = psutil.Process(pair.primary.pid)
    async with threadlog(pair.url, redis_url, broker_url, tmp_path) as running:
        load = Load([(await api(running))[1] for _ in range(2)])
        try:
            async with load.under_way():
                for process in (postmaster, *postmaster.children()):
                    process.suspend()
                await pair.promote()
                await load.more()
            assert load.again > 0
            await nothing_lost_or_doubled(load, pair.standby.dsn())
        finally:
            for process in (*postmaster.children(), postmaster):
                process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("repeats", [False, True], ids=["the first waits on", "its API died"])
async def test_what_no_standby_has_is_not_acknowledged_though_the_log_shows_it(
    start_postgres: StartPostgres, redis_url: str, broker_url: str, tmp_path: Path, repeats: bool
) -> None:
    url = start_postgres().dsn()
    await migrate(url)
    async with threadlog(url, redis_url, broker_url, tmp_path) as running:
        first, client = await api(running)
        _, other = await api(running)
        await client.post("talk", "so that there is the author's key", sub="ann")
        admin = running.parts.pool

        def post(client: Client) -> asyncio.Task[Answer]:
            return asyncio.create_task(
                client.send(
                    "POST",
                    f"{S}/threads/talk/comments",
                    {"body": "x"},
                    sub="ann",
                    headers={"Idempotency-Key": "k"},
                )
            )

        async def waits(but: int = 0) -> int | None:
            """The appender whose commit waits for a standby."""
            pid: int | None = await admin.fetchval(
                "select pid from pg_stat_activity where application_name = 'threadlog-appender'"
                " and wait_event = 'SyncRep' and pid <> $1",
                but,
            )
            return pid

        async with standbys(url, "nobody"):
            posting = post(client)
            committing = await until(waits, "its commit waits for a standby")
            assert committing is not None
            if repeats:
                first.kill()
                with pytest.raises(ClientError):
                    await posting
                posting = post(other)
                await until(lambda: waiters(running), "the repeat stands at the lane")
            await admin.execute("select pg_terminate_backend($1)", committing)
            # The session's end broke the wait off: the log shows what no standby has.
            await until(lambda: waits(committing), "it waits for a standby before it answers")
            assert await admin.fetchval("select count(*) from comments") == 2
            assert not posting.done()
        answer = await posting
        assert answer.status == 201
        last = await admin.fetch("select comment_id from comments order by posted offset 1")
        assert [str(row["comment_id"]) for row in last] == [answer.json["id"]]
    assert await violations(url) == []


@asynccontextmanager
async def standbys(url: str, names: str) -> AsyncIterator[None]:
    """Have commits wait for these standbys."""
    admin, probe = await asyncpg.connect(url), await asyncpg.connect(url)
    try:
        await admin.execute(f"alter system set synchronous_standby_names = '{names}'")
        await admin.execute("select pg_reload_conf()")
        # A commit waits once the checkpointer has taken the setting up, later than the reload is answered.
        committing = asyncio.create_task(commits(probe))
        await until(
            lambda: admin.fetchval(
                "select pid from pg_stat_activity where wait_event = 'SyncRep' and pid = $1",
                probe.get_server_pid(),
            ),
            "a commit waits for a standby",
        )
        committing.cancel()
        await asyncio.wait([committing])
        yield
    finally:
        await admin.execute("alter system reset synchronous_standby_names")
        await admin.execute("select pg_reload_conf()")
        await admin.close()
        probe.terminate()


async def commits(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """One commit after another, each of which writes to the WAL."""
    while True:
        await connection.execute("select pg_logical_emit_message(true, 'probe', '')")


# --- several hosts ---------------------------------------------------------------------------------------


async def test_a_silent_host_leaves_time_for_the_next_and_is_asked_last_from_then_on(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    silent = tmp_path_factory.mktemp("silent")
    asked = 0

    async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(never_answers, silent / ".s.PGSQL.5432")
    url = f"postgresql://postgres@/postgres?host={silent},{folder(postgres)}&target_session_attrs=read-write"
    hosts = Hosts(url)
    try:
        async with asyncio.timeout(12):
            connections = [await hosts.connect(timeout=12)]
        connections.append(await hosts.connect(timeout=12))
        assert [await one.fetchval("select 1") for one in connections] == [1, 1]
    finally:
        server.close()
    for one in connections:
        await one.close()
    assert asked == 1


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://postgres@127.0.0.1:{shut},127.0.0.1:{open}/postgres?sslmode=disable",
        "postgresql://postgres@/postgres?host=127.0.0.1,127.0.0.1&port={shut},{open}&sslmode=disable",
        "postgres://postgres:p%40ss@[::1]:{shut},127.0.0.1:{open}/postgres?sslmode=disable",
    ],
)
async def test_hosts_are_tried_in_turn_however_they_are_written(postgres: EmbeddedPostgres, url: str) -> None:
    forward = forwarder(postgres)
    shut = await asyncio.start_server(forward, "127.0.0.1", 0)
    shut_port = shut.sockets[0].getsockname()[1]
    shut.close()
    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        connection = await Hosts(url.format(shut=shut_port, open=port)).connect(timeout=20)
        assert await connection.fetchval("select current_user") == "postgres"
        await connection.close()
    finally:
        server.close()


async def test_once_another_host_has_answered_nothing_waits_at_the_last_one(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = tmp_path_factory.mktemp("first")
    server = await asyncio.start_unix_server(forwarder(postgres), first / ".s.PGSQL.5432")
    hosts = Hosts(f"postgresql://postgres@/postgres?host={first},{folder(postgres)}")
    there = await hosts.connect(timeout=20)
    waiting = asyncio.create_task(there.execute("select pg_sleep(60)"))
    server.close()  # what is connected stays so
    here = await hosts.connect(timeout=20)
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
        await asyncio.wait_for(waiting, 20)
    assert there.is_closed()
    assert await here.fetchval("select 1") == 1
    await here.close()


def forwarder(
    postgres: EmbeddedPostgres,
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """What a server does that passes connections on to Postgres."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up = await asyncio.open_unix_connection(f"{folder(postgres)}/.s.PGSQL.5432")
        await asyncio.gather(copied(reader, up[1]), copied(up[0], writer))

    return forward


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
