"""`threadlog worker`: Dramatiq's own master process, with what it needs in the environment."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg
from dramatiq import cli
from pydantic import SecretStr

from services.errors import ConfigurationError, Unavailable
from services.eventlog.migrate import check
from services.settings import PREFIX, Settings
from services.workers.lifecycle import FAILED
from services.workers.main import configure_logging
from services.workers.metrics import DIRECTORY

_SHUTDOWN_MS: Final = 15_000
"""How long messages under way may take to finish after a signal. A worker process is gone END_S after it."""
_ENDS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def run(settings: Settings) -> int:
    """Run worker processes until SIGINT, SIGTERM or SIGHUP; the exit code.

    Raises SchemaMismatch where the database is older than this release, Unavailable where it does not answer,
    ConfigurationError where the port for metrics is taken.
    """
    with _signals_wait():
        return _run(settings)


def _run(settings: Settings) -> int:
    configure_logging(settings)
    asyncio.run(_check(settings))
    if signal.sigpending() & _ENDS:
        return 0
    # The worker processes read their settings as any process does.
    os.environ.update(environment(settings))
    arguments = [
        "services.workers.main:setup",
        "--skip-logging",
        "--processes",
        str(settings.worker_processes),
        "--threads",
        str(settings.worker_threads),
        "--worker-shutdown-timeout",
        str(_SHUTDOWN_MS),
        "--path",
    ]
    with _hang_up_is_an_end(), _counts(settings):
        parsed = cli.make_argument_parser().parse_args(arguments)  # type: ignore[no-untyped-call]
        code = cli.main(parsed)  # type: ignore[no-untyped-call]
    return 0 if code == cli.RET_OK else FAILED


def environment(settings: Settings) -> dict[str, str]:
    """The variables that give these settings."""
    given: dict[str, str] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is None:
            continue
        match value:
            case SecretStr():
                text = value.get_secret_value()
            case tuple():
                text = ",".join(map(str, value))
            case _:
                text = str(value)
        given[PREFIX + name.upper()] = text
    return given


async def _check(settings: Settings) -> None:
    try:
        connection = await asyncpg.connect(settings.database_url, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(f"Postgres does not answer: {error}") from error
    try:
        await check(connection)
    finally:
        await connection.close()


@contextmanager
def _counts(settings: Settings) -> Iterator[None]:
    """A folder for the counts of all processes, where they are to be served."""
    if settings.metrics_port is None:
        yield
        return
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.metrics_port))
    except OSError as error:
        raise ConfigurationError(f"{PREFIX}METRICS_PORT: cannot listen: {error}") from error
    with tempfile.TemporaryDirectory(prefix="threadlog-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ[DIRECTORY] = folder
        try:
            yield
        finally:
            del os.environ[DIRECTORY]


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals that come before Dramatiq takes them over wait until then: it lets them in by itself.

    A handler that raised would do so anywhere, in the middle of a connection or of a fork.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
        for number in signal.sigpending() & _ENDS:
            signal.sigwait({number})  # it asked for the end, and this is the end
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _hang_up_is_an_end() -> Iterator[None]:
    """Dramatiq reloads on SIGHUP by executing its command line anew, which is not ours."""

    handled = signal.SIGHUP in cli.HANDLED_SIGNALS
    cli.HANDLED_SIGNALS.discard(signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
        if handled:
            cli.HANDLED_SIGNALS.add(signal.SIGHUP)
