"""The hooks by which a Dramatiq worker process gets its resources, and ends with its parent."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from dramatiq import Broker, Worker
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.middleware import Middleware
from prometheus_client import multiprocess

from services.workers import exposition
from services.workers.metrics import DIRECTORY
from services.workers.orphans import end_with_parent
from services.workers.runtime import Runtime

IDLE_POLL_MS: Final = 100
"""The longest that an idle worker waits between two looks at a queue; Dramatiq's own is a second. A poke is
seen after half of it on average, which is most of the way from a POST to its visibility."""


class Lifecycle(Middleware):
    """Opens a Runtime on the worker's event loop before its threads start, and closes it after they ended.

    Stands behind AsyncIO in the broker's list: that one makes the loop first and ends it last.
    """

    def __init__(self, runtime: Runtime, *, serve_metrics: bool) -> None:
        self._runtime = runtime
        self._forks = [exposition.serve] if serve_metrics else []

    @property
    def forks(self) -> list[Callable[[], int]]:
        """Functions that the master process runs in processes of their own."""
        return self._forks

    def after_process_boot(self, broker: Broker) -> None:
        """Called by Dramatiq in each new worker process."""
        end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Called by Dramatiq before consumers and threads are made."""
        worker.worker_timeout = IDLE_POLL_MS
        _on_loop(self._runtime.start())

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Called by Dramatiq while messages are still under way."""
        _on_loop(self._runtime.quiesce())

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Called by Dramatiq once all messages are done."""
        _on_loop(self._runtime.close())
        if os.environ.get(DIRECTORY):
            multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


def _on_loop(work: Awaitable[None]) -> None:
    thread = get_event_loop_thread()
    assert thread is not None, "AsyncIO stands before Lifecycle"
    thread.run_coroutine(work)
