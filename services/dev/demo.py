"""The demo: every part of threadlog on this machine, and its main job end to end over HTTP.

PostgreSQL and Valkey come from wheels; `threadlog api` and `threadlog worker` are processes of their own, as
they are in production. The job is in `services/dev/job.py`, the thread in `services/dev/story.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shlex
import signal
import socket
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import asyncpg

from services.core.addresses import encode_thread_key
from services.dev import story
from services.dev.job import Job, Outcome
from services.dev.processes import Child, Children
from services.dev.servers import EmbeddedPostgres, EmbeddedRedis
from services.errors import ThreadlogError
from services.eventlog.migrate import migrate
from services.settings import PREFIX, Settings

FAILED: Final = 4
INTERRUPTED: Final = 130
_DATABASE: Final = "threadlog"
_HOST: Final = "127.0.0.1"
_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Demo:
    """One run. Without `data_dir` everything it writes goes with it; with `stay` it serves until a signal."""

    def __init__(self, *, data_dir: Path | None, port: int, stay: bool) -> None:
        self._data_dir = data_dir
        self._port = port
        self._stay = stay
        self._held = False

    def run(self) -> int:
        """The exit code: 0 where every step held."""
        with ExitStack() as stack:
            stack.enter_context(_ends_are_interrupts())
            try:
                self._run(stack)
            except KeyboardInterrupt:
                _print("stopping")
                return 0 if self._held else INTERRUPTED
            except ThreadlogError as error:
                _print(f"failed: {error}")
                return FAILED
            finally:
                # What is stopped now is stopped in order, whatever signals come.
                for name in _ENDS:
                    signal.signal(name, signal.SIG_IGN)
        return 0 if self._held else FAILED

    def _run(self, stack: ExitStack) -> None:
        folder = self._folder(stack)
        postgres = stack.enter_context(EmbeddedPostgres(self._data_dir))
        _print(f"PostgreSQL runs    (a real one, from a wheel; process {postgres.pid})")
        redis = stack.enter_context(EmbeddedRedis(self._data_dir))
        _print(f"Valkey runs        (likewise; process {redis.pid})")
        asyncio.run(_create(postgres))
        settings = Settings.load(
            database_url=postgres.dsn(_DATABASE),
            redis_url=redis.url(0),
            broker_url=redis.url(1),
            master_key=_master_key(folder),
            host=_HOST,
            port=self._port or _free_port(),
            metrics_port=_free_port(),
        )
        logging.getLogger("services.eventlog.migrate").setLevel(logging.CRITICAL)  # the next line tells it
        done = asyncio.run(migrate(settings.database_url, settings.lanes))
        _print(f"migrated           ({', '.join(done) or 'nothing to do: the data was here'})")
        children = stack.enter_context(Children(_environment(settings), folder))
        api, worker = children.start("api"), children.start("worker")
        outcome = asyncio.run(Job(settings, children, _print).run())
        self._held = outcome.held
        _summary(outcome)
        if self._stay:
            _addresses(settings, outcome)
            self._wait(api, worker)

    def _folder(self, stack: ExitStack) -> Path:
        if self._data_dir is not None:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            return self._data_dir
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="threadlog-demo-")))

    def _wait(self, *children: Child) -> None:
        """Until a signal, or until one of the processes ends."""
        while True:
            time.sleep(0.5)  # between two looks; a signal ends it at once
            for child in children:
                child.check()


async def _create(postgres: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(postgres.dsn())
    try:
        if not await connection.fetchval(
            "select exists (select from pg_database where datname = $1)", _DATABASE
        ):
            await connection.execute(f"create database {_DATABASE}")
    finally:
        await connection.close()


def _master_key(folder: Path) -> str:
    """The key of the folder's data, made with it: another one would open nothing."""
    file = folder / "master-key"
    if not file.exists():
        made = folder / "master-key.new"
        made.touch(mode=0o600)
        made.write_text(b64encode(secrets.token_bytes(32)).decode())
        made.rename(file)
    return file.read_text().strip()


def _environment(settings: Settings) -> dict[str, str]:
    """This process's environment with these settings and no others of ours."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    ours = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "BROKER_URL": settings.broker,
        "MASTER_KEY": settings.master_key.get_secret_value(),
        "HOST": settings.host,
        "PORT": str(settings.port),
        "METRICS_PORT": str(settings.metrics_port),
    }
    return theirs | {PREFIX + name: value for name, value in ours.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _summary(outcome: Outcome) -> None:
    _print()
    if outcome.held:
        _print(f"every step held ({outcome.steps} of {outcome.steps})")
        return
    _print(f"{len(outcome.failures)} of {outcome.steps} steps did not hold:")
    for failure in outcome.failures:
        _print(f"  {failure}")


def _addresses(settings: Settings, outcome: Outcome) -> None:
    base = f"http://{settings.host}:{settings.port}"
    thread = f"{base}/v1/sites/{story.SITE}/threads/{encode_thread_key(outcome.key)}"
    body = shlex.quote('{"body": "I can lend a *wheelbarrow*."}')
    _print()
    _print("it serves until Ctrl-C:")
    _print(f"  the API          {base}/v1")
    _print(f"  its routes       {base}/docs")
    _print(f"  the thread       {thread}/comments")
    _print(f"  metrics          {base}/metrics and http://{settings.host}:{settings.metrics_port}/metrics")
    _print()
    _print("say something, with a token that is good for a day:")
    _print(f"  curl -H 'Authorization: Bearer {outcome.token}' \\")
    _print(f"    -H 'Content-Type: application/json' -d {body} \\")
    _print(f"    {thread}/comments")


def _print(line: str = "") -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


@contextlib.contextmanager
def _ends_are_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does; while it stops, further signals are passed over."""

    def interrupt(*_: object) -> None:
        for name in _ENDS:
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(name, interrupt) for name in _ENDS]
    try:
        yield
    finally:
        for name, handler in zip(_ENDS, before, strict=True):
            signal.signal(name, handler)
