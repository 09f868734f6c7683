"""`threadlog api` and `threadlog worker` as processes: they start, and end in good order."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.mark.parametrize(
    ("verb", "variable", "path"),
    [("api", "THREADLOG_PORT", "/readyz"), ("worker", "THREADLOG_METRICS_PORT", "/metrics")],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_it_with_exit_code_0(
    verb: str,
    variable: str,
    path: str,
    number: signal.Signals,
    database_url: str,
    redis_url: str,
    broker_url: str,
    tmp_path: Path,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "THREADLOG_DATABASE_URL": database_url,
        "THREADLOG_REDIS_URL": redis_url,
        "THREADLOG_BROKER_URL": broker_url,
        "THREADLOG_MASTER_KEY": base64.b64encode(b"k" * 32).decode(),
        variable: str(port),
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.ops.cli", verb],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not answers(f"http://127.0.0.1:{port}{path}"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
        process.send_signal(number)
        printed, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, log.read_text()
    assert printed == b""  # what a process tells of its work goes to standard error
