"""The process that serves /metrics: the counts of all worker processes of this host, added up."""

from __future__ import annotations

import os
import shutil
import threading
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from services.orphans import end_with_parent
from services.settings import Settings
from services.workers.metrics import DIRECTORY

_GRACE_S: Final = 1.0


def serve() -> int:
    """Serve until a signal ends the process. Started by Dramatiq beside the workers."""
    settings = Settings.load()
    directory = os.environ[DIRECTORY]
    assert settings.metrics_port is not None, "only started with a port"
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    start_http_server(settings.metrics_port, addr=settings.host, registry=registry)
    # Where the master was killed, nobody else removes the counts.
    end_with_parent(lambda: shutil.rmtree(directory, ignore_errors=True), _GRACE_S)
    threading.Event().wait()
    return 0
