"""The embedded servers start, keep what they should, and leave nothing behind however their owner ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis

from services.dev.servers import EmbeddedPostgres, EmbeddedRedis
from services.errors import Unavailable

ROOT = Path(__file__).resolve().parents[2]
OWNER = """
import sys, signal
from pathlib import Path
from services.dev.servers import EmbeddedPostgres, EmbeddedRedis
postgres, views = EmbeddedPostgres(Path(sys.argv[1])).start(), EmbeddedRedis().start()
print(postgres.pid, views.pid, postgres.dsn().partition("host=")[2], flush=True)
signal.pause()
"""


async def value(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.02)


async def test_postgres_keeps_its_defaults_for_durability_and_takes_settings(
    start_postgres: Callable[..., EmbeddedPostgres],
) -> None:
    server = start_postgres(settings={"max_connections": "23"})
    assert await value(server.dsn(), "select current_setting('max_connections')") == "23"
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert await value(server.dsn(), f"select current_setting('{setting}')") == "on"
    assert await value(server.dsn(), "select current_setting('listen_addresses')") == ""
    version = await value(server.dsn(), "select current_setting('server_version_num')::int")
    assert isinstance(version, int)
    assert version >= 180000


def test_redis_never_evicts_and_has_several_databases(start_redis: Callable[..., EmbeddedRedis]) -> None:
    server = start_redis(settings={"maxmemory": "50mb"})
    with redis.Redis.from_url(server.url(0)) as views, redis.Redis.from_url(server.url(1)) as broker:
        views.set("a", "1")
        assert broker.get("a") is None
        assert views.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert views.config_get("maxmemory") == {"maxmemory": str(50 * 1024 * 1024)}


async def test_a_data_folder_survives_a_restart_and_a_crash(
    start_postgres: Callable[..., EmbeddedPostgres], tmp_path: Path
) -> None:
    server = start_postgres(tmp_path)
    dsn = server.dsn()
    await value(dsn, "create table kept (n int)")
    server.stop()
    server.start()
    assert server.dsn() == dsn
    await value(dsn, "insert into kept values (1)")
    server.kill()
    server.start()
    assert await value(dsn, "select count(*) from kept") == 1


async def test_a_data_folder_below_a_closed_folder_works_without_opening_it(
    start_postgres: Callable[..., EmbeddedPostgres], tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = start_postgres(closed / "deeper")
    assert await value(server.dsn(), "select 1") == 1
    assert closed.stat().st_mode & 0o777 == 0o700


async def test_a_long_temporary_folder_leaves_socket_paths_short(
    start_postgres: Callable[..., EmbeddedPostgres], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert await value(start_postgres().dsn(), "select 1") == 1


def test_a_temporary_server_leaves_no_process_and_no_file(embedded_servers: None) -> None:
    with EmbeddedPostgres() as postgres, EmbeddedRedis() as views:
        pids = [postgres.pid, views.pid]
        folders = [Path(postgres.dsn().partition("host=")[2]), Path(views.url()[len("unix://") :]).parent]
        assert all(folder.exists() for folder in folders)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not any(folder.exists() for folder in folders)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(embedded_servers: None) -> None:
    server = EmbeddedPostgres(settings={"shared_buffers": "nonsense"})
    with pytest.raises(Unavailable, match="shared_buffers"):
        server.start()
    assert not server.running


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_the_servers_end_with_their_owner(
    ending: signal.Signals,
    embedded_servers: None,
    start_postgres: Callable[..., EmbeddedPostgres],
    tmp_path: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        postgres, views, folder = owner.stdout.readline().split()
        owner.send_signal(ending)
    pids = [int(postgres), int(views)]
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "both servers ended")
    until(lambda: not Path(folder).exists(), "the folder of the sockets is gone")
    # The folder is at once ready for the next owner.
    assert await value(start_postgres(tmp_path).dsn(), "select 1") == 1


def test_the_servers_end_when_their_supervisor_is_killed(
    start_postgres: Callable[..., EmbeddedPostgres], start_redis: Callable[..., EmbeddedRedis]
) -> None:
    for server in (start_postgres(), start_redis()):
        pid = server.pid
        folder = server._socket_dir()
        os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
        until(lambda pid=pid: not psutil.pid_exists(pid), f"the {server.name} server ended")  # type: ignore[misc]
        subprocess.run(["rm", "-rf", folder], check=True)
