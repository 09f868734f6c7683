"""`threadlog api` and `threadlog worker`: the two processes of threadlog."""

from __future__ import annotations

import logging
import sys
from typing import Final

import typer

from services.ops.exits import Exit
from services.settings import Settings

_UNQUIET: Final = ("asyncio", "dramatiq")


def api() -> None:
    """Serve the HTTP API until SIGINT or SIGTERM.

    On a signal it takes no new connections, answers the requests under way, commits what was taken, and ends.
    """
    settings = Settings.load()
    configure_logging(settings.log_level)
    import uvloop

    from services.api.serving import serve

    uvloop.run(serve(settings))


def worker() -> None:
    """Run the workers (projector, notifier, sweeper) until SIGINT or SIGTERM."""
    settings = Settings.load()
    from services.workers.run import run

    code = run(settings)
    if code:
        raise typer.Exit(Exit.FAILED)


def configure_logging(level: str) -> None:
    """One line an event on standard error: JSON, or made for reading on a terminal."""
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _UNQUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
