"""What each Dramatiq worker process imports: `setup` declares the actors on a broker of this process.

Actors take ids, never content. The names and queues are those of services/pokes.py.
"""

from __future__ import annotations

import logging
from uuid import UUID

import dramatiq
from dramatiq.middleware import AsyncIO
from prometheus_client import CollectorRegistry

from services.pokes import FAN_OUT_ACTOR, NOTIFY_ACTOR, PROJECT_ACTOR, QUEUES, REPLAY_ACTOR, make_broker
from services.settings import Settings
from services.workers.lifecycle import Lifecycle
from services.workers.metrics import WorkerMetrics
from services.workers.replayer import PRIORITY
from services.workers.runtime import Runtime


def setup() -> None:
    """Make this process's broker and its actors, from the environment. Raises ConfigurationError."""
    settings = Settings.load()
    configure_logging(settings)
    runtime = Runtime(settings, WorkerMetrics(CollectorRegistry()))
    lifecycle = Lifecycle(runtime, serve_metrics=settings.metrics_port is not None)
    broker = make_broker(settings.broker, AsyncIO(), lifecycle)
    dramatiq.set_broker(broker)

    @dramatiq.actor(actor_name=PROJECT_ACTOR, queue_name=QUEUES[PROJECT_ACTOR], broker=broker)
    async def project(stream_ids: list[str], poked_at: int | None) -> None:
        await runtime.project([UUID(stream_id) for stream_id in stream_ids], poked_at)

    @dramatiq.actor(actor_name=NOTIFY_ACTOR, queue_name=QUEUES[NOTIFY_ACTOR], broker=broker)
    async def notify(stream_ids: list[str], poked_at: int | None) -> None:
        await runtime.notify([UUID(stream_id) for stream_id in stream_ids], poked_at)

    @dramatiq.actor(actor_name=FAN_OUT_ACTOR, queue_name=QUEUES[FAN_OUT_ACTOR], broker=broker)
    async def fan_out(stream_ids: list[str], **_: object) -> None:
        await runtime.fan_out([UUID(stream_id) for stream_id in stream_ids])

    @dramatiq.actor(
        actor_name=REPLAY_ACTOR, queue_name=QUEUES[REPLAY_ACTOR], broker=broker, priority=PRIORITY
    )
    async def replay(replay_id: int) -> None:
        await runtime.replay(replay_id)


def configure_logging(settings: Settings) -> None:
    """Log to standard error, unless the process that forked this one has chosen otherwise."""
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s [%(process)d] %(message)s",
    )
    logging.getLogger("dramatiq").setLevel(logging.WARNING)
