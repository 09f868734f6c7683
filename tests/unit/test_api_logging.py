"""The log is one line of JSON for each event, whoever writes it, and never in anybody's way."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import Any

PREPARED = """
import asyncio, logging, os, sys
import structlog
from services.ops.commands.serve import configure_logging
configure_logging("info")
log = structlog.get_logger("threadlog.access")
"""


def lines_of(code: str) -> list[dict[str, Any]]:
    """What a process that runs `code` writes to standard error."""
    ran = subprocess.run([sys.executable, "-c", PREPARED + code], capture_output=True, timeout=60, check=True)
    return [json.loads(line) for line in ran.stderr.splitlines()]


def test_every_line_names_its_logger_level_and_time() -> None:
    ours, theirs = lines_of(
        "log.info('request', status=201)\nlogging.getLogger('a.library').warning('it %s', 'says')"
    )
    assert (ours["event"], ours["status"], ours["level"], ours["logger"]) == (
        "request",
        201,
        "info",
        "threadlog.access",
    )
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("it says", "warning", "a.library")
    assert ours.keys() - {"status"} == theirs.keys()
    assert ours["timestamp"].endswith("Z")


def test_what_lies_below_the_level_is_left_out() -> None:
    assert lines_of("log.debug('quiet')\nlogging.getLogger('a').debug('quiet')") == []


def test_lines_of_a_running_loop_all_come_in_order() -> None:
    lines = lines_of(
        "async def run():\n"
        "    for number in range(1000):\n"
        "        (log.info if number % 2 else logging.getLogger('a').info)(str(number))\n"
        "asyncio.run(run())"
    )
    assert [line["event"] for line in lines] == [str(number) for number in range(1000)]


def test_on_a_terminal_lines_are_made_for_reading() -> None:
    main, terminal = pty.openpty()
    code = "log.info('request', status=201)\nlogging.getLogger('a.library').warning('it says')"
    with open(main, "rb", buffering=0) as reader:  # noqa: PTH123 - a descriptor has no path
        subprocess.run([sys.executable, "-c", PREPARED + code], stderr=terminal, timeout=60, check=True)
        shown = reader.read(10_000).decode()
    os.close(terminal)
    assert "request" in shown
    assert "it says" in shown
    assert "{" not in shown


def test_a_closed_standard_error_stops_nobody() -> None:
    code = (
        "reading, writing = os.pipe()\n"
        "os.dup2(writing, 2); os.close(reading)\n"
        "for number in range(1000): log.info('x' * 100)\n"
        "print('done', flush=True); os._exit(0)"
    )
    ran = subprocess.run([sys.executable, "-c", PREPARED + code], capture_output=True, timeout=60, check=True)
    assert ran.stdout == b"done\n"
