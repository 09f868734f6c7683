"""`threadlog api` and `threadlog worker`: the two processes of threadlog."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, BinaryIO, Final, cast

import typer

from services.errors import ConfigurationError
from services.ops.exits import Exit, leave, tell
from services.settings import Settings

_UNQUIET: Final = ("asyncio", "dramatiq")
_GATHER_S: Final = 0.05
"""Seconds for which a line may wait for others."""


def api(
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Processes that serve the port together; THREADLOG_API_PROCESSES where not given.",
        ),
    ] = None,
) -> None:
    """Serve the HTTP API until SIGINT or SIGTERM.

    On a signal it takes no new connections, answers the requests under way, commits what was taken, and ends.
    """
    settings = Settings.load()
    count = settings.api_processes if processes is None else processes
    configure_logging(settings.log_level)
    import uvloop

    from services.api.serving import serve

    if count == 1:
        uvloop.run(serve(settings))
    else:
        leave(Exit(_serve_together(settings, count)))


def _serve_together(settings: Settings, count: int) -> int:
    """Serve one port from several processes; the exit code.

    Raises ConfigurationError where the port is taken.
    """
    import uvloop

    from services.api.listening import Port
    from services.api.processes import supervise
    from services.api.serving import Place, serve
    from services.api.siblings import Siblings

    try:
        port = Port(settings.host, settings.port)
    except OSError as error:
        raise ConfigurationError(f"THREADLOG_PORT: cannot listen: {error}") from error
    with contextlib.closing(port), tempfile.TemporaryDirectory(prefix="threadlog-api-") as folder:

        def one(number: int, ready: Callable[[], None]) -> int:
            place = Place(port.sockets(), Siblings(Path(folder), number, count))
            port.close()
            try:
                uvloop.run(serve(settings, lambda _: ready(), place))
            except Exception as error:  # noqa: BLE001 - the same words and codes as from one process
                return tell(error)
            return Exit.DONE

        return supervise(count, one, ended=port.close)


def worker() -> None:
    """Run the workers (projector, notifier, sweeper) until SIGINT or SIGTERM."""
    settings = Settings.load()
    from services.workers.run import run

    code = run(settings)
    if code:
        raise typer.Exit(Exit.FAILED)


class _StandardError:
    """Standard error for lines of bytes, written together where many come at once.

    At most the stream's buffer (8 KiB) of them waits, for at most `_GATHER_S`. As with the standard library's
    handlers, a line that cannot be written, where a disk is full or a pipe closed, disturbs nobody.
    """

    def __init__(self) -> None:
        self._awaited = False

    def write(self, line: bytes) -> int:
        with contextlib.suppress(OSError, ValueError):
            return sys.stderr.buffer.write(line)
        return 0

    def flush(self) -> None:
        """Have what was written go out soon; at once where no event loop runs."""
        if self._awaited:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._flush()
        else:
            self._awaited = True
            loop.call_later(_GATHER_S, self._flush)

    def _flush(self) -> None:
        self._awaited = False
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.buffer.flush()


def configure_logging(level: str) -> None:
    """One line an event on standard error: JSON, or made for reading on a terminal.

    What this code logs through structlog, a line for each request among it, is written by structlog itself;
    the detour by the standard library's logging, which the libraries use, costs three times as much, and so
    does a chain of processors, each with a call of its own.
    """
    from datetime import UTC, datetime

    import orjson
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    foreign: structlog.typing.Processor
    own: list[structlog.typing.Processor]
    if sys.stderr.isatty():
        foreign = console = structlog.dev.ConsoleRenderer()

        def readable(logger: object, name: str, event: structlog.typing.EventDict) -> bytes:
            return console(logger, name, event).encode(errors="backslashreplace")

        own = [*shared, readable]
    else:
        shared.append(structlog.processors.format_exc_info)
        foreign = structlog.processors.JSONRenderer()

        def line(logger: structlog.BytesLogger, level: str, event: structlog.typing.EventDict) -> bytes:
            event["logger"], event["level"] = logger.name, level
            event["timestamp"] = datetime.now(UTC)
            if "exc_info" in event:
                event = structlog.processors.format_exc_info(logger, level, event)
            return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z)

        own = [line]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, foreign],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _UNQUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=own,
        logger_factory=structlog.BytesLoggerFactory(cast(BinaryIO, _StandardError())),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
