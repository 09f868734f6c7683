"""The parent of several API processes: starts them, starts again what dies, passes signals on, waits.

It serves nothing and connects to nothing. The processes are forked from it, so that they share its code's
memory and are ready at once; it has no threads and no event loop, without which a fork would not be safe.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from services.orphans import end_with_parent

FAILED: Final = 4
"""Exit code where a process failed, or did not end in time."""

_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DRAIN_S: Final = 45.0
"""Seconds that a process may take to end after a signal; what it waits for has shorter bounds."""
_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_STEADY_S: Final = 30.0
"""A process that lived for so long before it died is started again at once, as the first time."""

_log = structlog.get_logger("threadlog.api")

Ready = Callable[[], None]
Serve = Callable[[int, Ready], int]
"""Runs in the new process: its number from 0, what to call once it listens; gives its exit code."""


@dataclass(slots=True)
class _Child:
    number: int
    began: float


class _Ended(Exception):
    """The first process ended before it was ready, with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def supervise(count: int, serve: Serve, *, ended: Callable[[], None] = lambda: None) -> int:
    """Keep `count` processes running until SIGINT, SIGTERM or SIGHUP; the exit code once they have ended.

    The first is started alone. Where it cannot start, nothing else is tried, and its exit code is the
    answer: it has told why, once. Later ones that die are started again, each time after twice the pause,
    from 0.1 to 10 seconds. `ended` is called when the end begins.
    """
    with _woken() as (wake, asked):
        return _Parent(count, serve, wake, asked, ended).run()


class _Parent:
    def __init__(
        self, count: int, serve: Serve, wake: int, asked: list[int], ended: Callable[[], None]
    ) -> None:
        self._count = count
        self._serve = serve
        self._wake = wake
        self._asked = asked
        self._ended = ended
        self._children: dict[int, _Child] = {}
        self._due: dict[int, float] = {}
        self._pauses = dict.fromkeys(range(count), _PAUSE_S)
        self._code = 0
        self._deadline: float | None = None

    def run(self) -> int:
        try:
            self._start_first()
        except _Ended as first:
            if self._asked and first.code == 0:
                return 0
            return first.code if first.code > 0 else FAILED
        for number in range(1, self._count):
            self._due[number] = 0.0
        while self._children or not self._asked:
            if self._asked:
                self._end()
            else:
                self._start_due()
            self._wait(self._next())
            self._reap()
        return self._code

    def _start_first(self) -> None:
        reader, writer = os.pipe()
        try:
            self._fork(0, lambda: os.close(writer) if os.write(writer, b"1") else None)
            os.close(writer)
            while not self._wait(None, reader):
                self._reap_first()
            if not os.read(reader, 1):
                while True:  # its end of the pipe is closed: it ends, or has ended
                    self._reap_first()
                    self._wait(None)
        finally:
            os.close(reader)

    def _reap_first(self) -> None:
        if self._asked:
            self._signal(signal.SIGTERM)
        for pid, code in _ended_children():
            if self._children.pop(pid, None) is not None:
                raise _Ended(code)

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._fork(number, lambda: None)

    def _next(self) -> float | None:
        """Seconds until something is to be done unasked."""
        if self._deadline is not None:
            return max(0.0, self._deadline - time.monotonic())
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None

    def _wait(self, seconds: float | None, *others: int) -> bool:
        """Wait for a signal, a child's end or one of `others`; whether it was one of these."""
        found = select.select([self._wake, *others], [], [], seconds)[0]
        if self._wake in found:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        return any(other in found for other in others)

    def _reap(self) -> None:
        now = time.monotonic()
        for pid, code in _ended_children():
            child = self._children.pop(pid, None)
            if child is None:
                continue
            if self._asked:
                if code:
                    self._code = FAILED
                continue
            if now - child.began > _STEADY_S:
                self._pauses[child.number] = _PAUSE_S
            pause = self._pauses[child.number]
            self._pauses[child.number] = min(pause * 2, _LONGEST_PAUSE_S)
            self._due[child.number] = now + pause
            _log.error("a process ended", process=child.number, pid=pid, code=code, again_in=pause)

    def _end(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + _DRAIN_S
            self._due.clear()
            self._ended()
            self._signal(signal.SIGTERM)
        elif time.monotonic() >= self._deadline:
            _log.critical("processes did not end in time", pids=sorted(self._children))
            self._code = FAILED
            self._deadline += _DRAIN_S
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _fork(self, number: int, ready: Ready) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # A signal between the fork and the child's own handlers would be taken by the parent's, in the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
        pid = os.fork()
        if pid == 0:
            self._be(number, ready, parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
        self._children[pid] = _Child(number, time.monotonic())

    def _be(self, number: int, ready: Ready, parent: int) -> None:
        """The new process, until its end. Nothing of the parent's stack may run in it."""
        code = FAILED
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal is gone: the parent sends SIGTERM
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(name, lambda *_: os._exit(0))  # nothing is begun yet
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
            os.close(self._wake)
            end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM), _DRAIN_S, parent=parent)
            code = self._serve(number, ready)
        except BaseException:  # noqa: BLE001 - whatever it was, this process ends here
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def _ended_children() -> Iterator[tuple[int, int]]:
    """Process id and exit code of those that have ended; a signal's number is negative."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


@contextmanager
def _woken() -> Iterator[tuple[int, list[int]]]:
    """A pipe that can be read after a signal or a child's end, and the signals to end that came."""
    asked: list[int] = []
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = {name: signal.signal(name, lambda number, _: asked.append(number)) for name in _ENDS}
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    former = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader, asked
    finally:
        signal.set_wakeup_fd(former)
        for name, handler in before.items():
            signal.signal(name, handler)
        os.close(reader)
        os.close(writer)
