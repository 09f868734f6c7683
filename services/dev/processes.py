"""The demo's own processes: `threadlog` verbs, each with its log in a file, none left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import services
from services.errors import Unavailable

_GRACE_S: Final = 20.0
_VERB_S: Final = 120.0
_PR_SET_PDEATHSIG: Final = 1


class Child:
    """One long-running verb."""

    def __init__(self, verb: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.verb = verb
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raises Unavailable, with the last lines of its log, where it has ended."""
        code = self._process.poll()
        if code is not None:
            last = self._log.read_text(errors="replace").splitlines()[-20:]
            raise Unavailable(f"threadlog {self.verb} has ended with {code}:\n" + "\n".join(last))

    def ask_to_stop(self) -> None:
        """Send SIGTERM; a stopped process is woken for it."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)

    def wait(self, deadline: float) -> None:
        """Wait for its end until `deadline` (monotonic seconds), then kill it and what it started."""
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Children:
    """Starts verbs with one environment and stops them together, at the latest when the demo ends."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        # -P and PYTHONPATH: this very threadlog, whatever lies in the folder that the demo was started from.
        root = str(Path(services.__file__).parents[1])
        path = os.pathsep.join(part for part in (root, environment.get("PYTHONPATH")) if part)
        self._environment = {**environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        self._folder = folder
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, verb: str) -> Child:
        """Start `threadlog VERB`; what it prints goes to VERB.log."""
        log = self._folder / f"{verb}.log"
        with ExitStack() as stack:
            output = stack.enter_context(log.open("wb"))
            process = subprocess.Popen(
                _command(verb),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C in a terminal reaches the demo, which stops all in order.
                start_new_session=True,
                preexec_fn=_end_with_parent(),  # noqa: PLW1509 - the demo has no threads yet
            )
        self._children.append(Child(verb, process, log))
        return self._children[-1]

    def check(self) -> None:
        """Raises Unavailable where one has ended."""
        for child in self._children:
            child.check()

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end; its exit code and what it printed."""
        return subprocess.run(
            _command(*arguments),
            check=False,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERB_S,
        )

    def stop(self) -> None:
        """Stop all of them. Idempotent."""
        children, self._children = self._children, []
        deadline = time.monotonic() + _GRACE_S
        for child in reversed(children):
            child.ask_to_stop()
        for child in reversed(children):
            child.wait(deadline)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "services.ops.cli", *arguments]


def _end_with_parent() -> Callable[[], None] | None:
    """Has the kernel send SIGTERM should the demo be killed (prctl(2)); None where it cannot."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
