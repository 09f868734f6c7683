"""The verb `threadlog replay --all` itself, as an operator runs it: how fast, and in how much memory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import orjson

from services.errors import Unavailable
from services.settings import Settings

_COMMAND: Final = (sys.executable, "-m", "services.ops.cli", "replay", "--all", "--json")


@dataclass(frozen=True, slots=True)
class Ran:
    """One replay of a whole log: its events, the seconds that they took by the replay's own account, and the
    largest resident set of its process, in bytes."""

    events: int
    seconds: float
    peak: int


def replay_all(settings: Settings, processes: int = 1) -> Ran:
    """Run it. Raises Unavailable where it fails."""
    environment = os.environ | {
        "THREADLOG_DATABASE_URL": settings.database_url,
        "THREADLOG_REDIS_URL": settings.redis_url,
        "THREADLOG_MASTER_KEY": settings.master_key.get_secret_value(),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [*_COMMAND, "--processes", str(processes)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Unavailable(f"the replay ended with exit code {process.returncode}")
    replay = orjson.loads(told)
    took = datetime.fromisoformat(replay["ended_at"]) - datetime.fromisoformat(replay["began_at"])
    kilobytes = usage.ru_maxrss if sys.platform != "darwin" else usage.ru_maxrss // 1024
    return Ran(replay["events"], took.total_seconds(), kilobytes * 1024)
