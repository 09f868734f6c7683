"""The processes that a benchmark starts, and what they cost."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson
import psutil

import services
from services.errors import Unavailable

ROOT: Final = Path(services.__file__).parent.parent
"""Where our packages lie: children are started there, so that they find them without an installation."""

_START_DEADLINE_S: Final = 30.0
_STOP_DEADLINE_S: Final = 20.0


class Process:
    """A Python module run as a process of its own, its output in a file; ended with SIGTERM."""

    def __init__(
        self, module: str, arguments: Sequence[str] = (), *, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._env = {**os.environ, **(env or {})}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self._answers else log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches us, and we end our children in order
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._running
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    _answers: bool = False

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running.pid

    def tell(self, value: object, *, last: bool = False) -> None:
        """Send a line of JSON to its standard input, which ends with the last one."""
        stdin = self._running.stdin
        assert stdin is not None
        stdin.write(orjson.dumps(value) + b"\n")
        stdin.flush()
        if last:
            stdin.close()

    def wait_until_ready(self, port: int, path: str) -> None:
        """Wait until it answers there with anything but 503. Raises Unavailable, with the end of its log."""
        deadline = time.monotonic() + _START_DEADLINE_S
        while True:
            ended = self._running.poll() is not None
            if not ended and status_of(port, path) not in (None, 503):
                return
            if ended or time.monotonic() > deadline:
                end = self._log.read_bytes()[-2000:].decode(errors="replace")
                raise Unavailable(f"{' '.join(self._command[1:])} did not start: {end}")
            time.sleep(0.02)


class Answering(Process):
    """A process that answers each line with a line."""

    _answers = True

    def answer(self) -> Any:
        """The next line that it writes, as JSON. Raises Unavailable where it ended instead."""
        stdout = self._running.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise Unavailable(f"{' '.join(self._command[1:])} ended: {self._log.read_text()[-2000:]}")
        return orjson.loads(line)


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def status_of(port: int, path: str) -> int | None:
    """The status of a GET; None where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def text_of(port: int, path: str) -> str:
    """The body of a GET. Raises Unavailable where the status is not 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        if response.status != 200:
            raise Unavailable(f"GET {path} answered {response.status}")
        return body
    finally:
        connection.close()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all below it, in seconds, ended children that were waited for
    included."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
                # macOS and Windows do not tell of them.
                total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total
