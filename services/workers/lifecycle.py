"""The hooks by which a Dramatiq worker process gets its resources, and ends with its parent."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Final

from dramatiq import Broker, Worker
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.middleware import Middleware
from prometheus_client import multiprocess

from services.garbage import settle
from services.orphans import end_with_parent
from services.workers import exposition
from services.workers.metrics import DIRECTORY
from services.workers.runtime import Runtime

_log = logging.getLogger(__name__)

FAILED: Final = 4
"""Exit code of a worker process that did not end in time, and of `threadlog worker` after one
that failed, in this or another way."""

END_S: Final = 20.0
"""Seconds after which a worker process that was asked to end is gone, whatever it waits for."""
_LAST_WORD_S: Final = 1.0

IDLE_MS: Final = 500
"""The longest that an idle worker waits before it looks whether it is to end. Messages wake it."""


class Lifecycle(Middleware):
    """Opens a Runtime on the worker's event loop before its threads start, and closes it after they ended.

    Stands behind AsyncIO in the broker's list: that one makes the loop first and ends it last.
    """

    def __init__(self, runtime: Runtime, *, serve_metrics: bool) -> None:
        self._runtime = runtime
        self._forks = [exposition.serve] if serve_metrics else []
        self._asked_to_end = threading.Event()

    @property
    def forks(self) -> list[Callable[[], int]]:
        """Functions that the master process runs in processes of their own."""
        return self._forks

    def after_process_boot(self, broker: Broker) -> None:
        """Called by Dramatiq in each new worker process, in its main thread."""
        threading.Thread(target=self._leave_when_overdue, name="end-watch", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._take_once(number)
        end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Called by Dramatiq before consumers and threads are made."""
        worker.worker_timeout = IDLE_MS
        _on_loop(self._runtime.start())
        settle()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Called by Dramatiq while messages are still under way."""
        self._asked_to_end.set()
        _on_loop(self._runtime.quiesce())

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Called by Dramatiq once all messages are done."""
        _on_loop(self._runtime.close())
        if os.environ.get(DIRECTORY):
            multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]

    def _take_once(self, number: signal.Signals) -> None:
        """Pass over all signals to end but the first.

        Dramatiq answers the second one with SystemExit in the middle of whatever the main thread does. The
        event loop's thread then never ends, and Python waits for it. Two are the rule: a service manager, a
        terminal and timeout(1) signal the whole group, and the master sends its own to the same processes.
        """
        first = signal.getsignal(number)
        assert callable(first), "Dramatiq sets it before it makes the broker"

        def take(number: int, frame: FrameType | None) -> None:
            if not self._asked_to_end.is_set():
                self._asked_to_end.set()
                with suppress(SystemExit):  # the first one may have come before this handler
                    first(number, frame)

        signal.signal(number, take)

    def _leave_when_overdue(self) -> None:
        """What Dramatiq waits for at its end has bounds of its own; those of the broker's client, of Postgres
        and of Python's threads come on top."""
        self._asked_to_end.wait()
        time.sleep(END_S)
        # From a thread of its own: the log may be what does not answer.
        word = threading.Thread(
            target=_log.critical, args=("not ended %g s after it was asked to: leaving", END_S), daemon=True
        )
        word.start()
        word.join(_LAST_WORD_S)
        os._exit(FAILED)


def _on_loop(work: Awaitable[None]) -> None:
    thread = get_event_loop_thread()
    assert thread is not None, "AsyncIO stands before Lifecycle"
    thread.run_coroutine(work)
