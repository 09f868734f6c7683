"""What one worker process stands on. It lives on the event loop that Dramatiq's AsyncIO middleware runs, is
made after the fork, and goes before that loop does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from services.errors import PoisonEvent, Unavailable, UnknownEventType
from services.eventlog.appender import Committed
from services.eventlog.appenders import Appenders
from services.eventlog.checkpoints import DeadLetters, Parked, Projection
from services.eventlog.fanouts import Fanouts
from services.eventlog.snapshots import Snapshots
from services.pokes import FAN_OUT_ACTOR, NOTIFY_ACTOR, PROJECT_ACTOR, REPLAY_ACTOR, Poker
from services.projection.advance import Projector
from services.projection.snapshotting import SnapshotWriter
from services.readmodel.announcements import Announcer
from services.readmodel.budget import Budget
from services.readmodel.remains import Remains
from services.readmodel.told import Told
from services.settings import Settings
from services.wiring import Resources, connect_redis, resources
from services.workers.caretaker import Caretaker, dismiss
from services.workers.deliverer import Deliverer
from services.workers.delivering import delivering
from services.workers.eraser import Eraser
from services.workers.fanout import FanningOut
from services.workers.faults import FAULTS, told
from services.workers.hints import Looked
from services.workers.metrics import WorkerMetrics
from services.workers.notifier import Notifier
from services.workers.projector import Following
from services.workers.release import release
from services.workers.replayer import Replaying
from services.workers.snapshotter import Snapshotter

_log = logging.getLogger(__name__)

_OPEN_S: Final = 30.0
"""How long a message waits for this process to be connected before it is given up."""
_AGAIN_S: Final = 1.0
_NOTIFY_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class _Opened:
    projector: Projector
    following: Following
    notifier: Notifier
    letters: DeadLetters
    caretaker: asyncio.Task[None]
    eraser: asyncio.Task[None]
    replaying: Replaying
    fanning_out: FanningOut
    deliverer: Deliverer


class Runtime:
    """Opens what the actors need, closes it, and handles their messages in between."""

    def __init__(self, settings: Settings, metrics: WorkerMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[_Opened] | None = None
        self._closing: asyncio.Event | None = None
        self._telling: asyncio.Semaphore | None = None
        self._counted = 0
        self._told = Looked()
        # Read now: by the time that a connection is made, another release may lie there.
        self._release = release()

    async def start(self) -> None:
        """Begin to connect; messages wait until that has succeeded."""
        self._opened = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()
        self._telling = asyncio.Semaphore(_NOTIFY_AT_ONCE)
        self._task = asyncio.create_task(self._run(self._opened, self._closing), name="worker-runtime")

    async def quiesce(self) -> None:
        """Leave the periodic work to others; messages under way may finish."""
        if self._opened is not None and self._opened.done():
            self._opened.result().caretaker.cancel()
            self._opened.result().eraser.cancel()
            self._opened.result().replaying.stop()
            self._opened.result().deliverer.stop()

    async def close(self) -> None:
        """Disconnect."""
        if self._task is None or self._closing is None or self._opened is None:
            return
        self._closing.set()
        if not self._opened.done():
            await dismiss(self._task)
        await asyncio.gather(self._task, return_exceptions=True)

    async def project(self, stream_ids: Sequence[UUID], poked_at: int | None) -> None:
        """Handle a message of the actor `project`."""
        opened = await self._ready()
        await self._count(PROJECT_ACTOR, lambda: opened.following.project(stream_ids, poked_at))
        projected, self._counted = opened.projector.projected - self._counted, opened.projector.projected
        self._metrics.projected.inc(projected)

    async def notify(self, stream_ids: Sequence[UUID], poked_at: int | None) -> None:
        """Handle a message of the actor `notify`."""
        opened = await self._ready()
        await self._count(NOTIFY_ACTOR, lambda: self._tell(opened, self._told.still(stream_ids, poked_at)))

    async def fan_out(self, stream_ids: Sequence[UUID]) -> None:
        """Handle a message of the actor `fan_out`."""
        opened = await self._ready()

        async def handle() -> int:
            self._metrics.notifications.inc(await opened.fanning_out.handle(stream_ids))
            opened.deliverer.wake()
            return 0

        await self._count(FAN_OUT_ACTOR, handle)

    async def replay(self, replay_id: int) -> None:
        """Handle a message of the actor `replay`."""
        opened = await self._ready()

        async def handle() -> int:
            await opened.replaying.handle(replay_id)
            return 0

        await self._count(REPLAY_ACTOR, handle)

    async def _count(self, actor: str, handle: Callable[[], Awaitable[int]]) -> None:
        outcome = "failed"
        try:
            if not await handle():
                outcome = "done"
        except FAULTS as error:
            _log.warning("a message to %s was given up: %s", actor, told(error))
        finally:
            self._metrics.messages.labels(actor, outcome).inc()

    async def _tell(self, opened: _Opened, stream_ids: Sequence[UUID]) -> int:
        assert self._telling is not None
        parked = await opened.letters.among(Projection.NOTIFICATIONS, stream_ids)
        async with self._telling:
            began = self._told.now()
            outcome = await opened.notifier.notify_all(stream_ids)
        self._metrics.notifications.inc(outcome.told)
        if outcome.told:
            opened.deliverer.wake()
        for stream_id in stream_ids:
            if stream_id not in outcome.failed:
                self._told.looked(stream_id, began)
        left = 0
        for stream_id in stream_ids:
            try:
                left += not await self._park(
                    opened, stream_id, outcome.failed.get(stream_id), parked.get(stream_id)
                )
            except Exception as error:  # noqa: BLE001 - whatever it was, the other threads go on
                _log.warning("notifications of %s: %s", stream_id, told(error))
                left += 1
        return left

    async def _park(
        self, opened: _Opened, stream_id: UUID, error: Exception | None, parked: Parked | None
    ) -> bool:
        """Keep the dead letter of a thread as what came of it says; whether nothing is left for later."""
        match error:
            case None:
                if parked is not None:
                    await opened.letters.resurrect(Projection.NOTIFICATIONS, stream_id, parked.version)
            case UnknownEventType():
                _log.warning("notifications of %s wait at version %d", stream_id, error.version)
                return False
            case PoisonEvent():
                _log.error(
                    "notifications of %s are parked before version %d, event %s",
                    *(stream_id, error.version, error.event_id),
                )
                await opened.letters.bury(Projection.NOTIFICATIONS, error)
            case _:
                _log.warning("nobody was told of %s: %s", stream_id, told(error))
                return False
        return True

    async def _ready(self) -> _Opened:
        if self._opened is None:
            raise Unavailable("this worker has not started")
        return await asyncio.wait_for(asyncio.shield(self._opened), _OPEN_S)

    async def _run(self, opened: asyncio.Future[_Opened], closing: asyncio.Event) -> None:
        while not closing.is_set():
            try:
                await self._hold(opened, closing)
            except Exception as error:  # noqa: BLE001 - nobody else would connect it
                _log.warning("this worker cannot connect: %s", told(error))
                await asyncio.sleep(_AGAIN_S)

    async def _hold(self, opened: asyncio.Future[_Opened], closing: asyncio.Event) -> None:
        settings = self._settings
        async with resources(settings) as made, delivering(made, self._metrics) as deliverer:
            letters = DeadLetters(made.pool, self._release)
            announcer = Announcer(made.redis)
            inboxes = Told(made.redis)
            snapshotter = Snapshotter(SnapshotWriter(made.log, Snapshots(made.pool)), self._metrics)
            made.projector.grown = snapshotter.moved
            made.replayer.bared = snapshotter.lost

            def announce(stream_id: UUID, version: int) -> None:
                announcer.moved(stream_id, version)
                snapshotter.moved(stream_id, version)

            following = Following(made.projector, letters, announce=announce)
            replaying = Replaying(made, letters)
            poker = Poker(settings.broker, aging=False)
            fanouts = Fanouts(made.pool, mails=settings.sends_mail)
            fanning_out = FanningOut(fanouts, poker, told=inboxes.of_site)
            notifier = Notifier(
                made.pool,
                made.keyring,
                mails=settings.sends_mail,
                told=inboxes.tell,
                fanned=lambda stream_ids: poker.poke(stream_ids, [FAN_OUT_ACTOR]),
            )
            broker = connect_redis(settings.broker)
            caretaker = asyncio.create_task(
                Caretaker(
                    made.hosts,
                    views=made.views,
                    broker=broker,
                    letters=letters,
                    poker=poker,
                    metrics=self._metrics,
                    budget=Budget(
                        made.redis,
                        made.views,
                        None if settings.views_memory_mb is None else settings.views_memory_mb << 20,
                    ),
                    hand_out=(replaying.look, fanning_out.look),
                ).run(),
                name="caretaker",
            )
            eraser = asyncio.create_task(
                Eraser(
                    made.pool,
                    made.erasures,
                    made.projector,
                    Remains(made.redis),
                    lambda: _appending(made, poker),
                ).run(),
                name="eraser",
            )
            snapshots = asyncio.create_task(snapshotter.run(), name="snapshotter")
            poker.start()
            opened.set_result(
                _Opened(
                    made.projector,
                    following,
                    notifier,
                    letters,
                    caretaker,
                    eraser,
                    replaying,
                    fanning_out,
                    deliverer,
                )
            )
            try:
                await closing.wait()
            finally:
                await dismiss(caretaker)
                await dismiss(eraser)
                await dismiss(snapshots)
                await following.stop()
                await announcer.stop()
                await inboxes.stop()
                await asyncio.to_thread(poker.stop)
                await broker.aclose()


@asynccontextmanager
async def _appending(made: Resources, poker: Poker) -> AsyncIterator[Appenders]:
    """Appenders of this process, which poke the workers as the API's do."""

    def committed(batch: Committed) -> None:
        if batch.moved:
            poker.poke(batch.moved)

    appenders = Appenders(
        made.hosts,
        made.lanes,
        on_committed=committed,
        max_batch=made.settings.max_batch,
        max_queue=made.settings.max_queue,
    )
    try:
        await appenders.start()
        yield appenders
    finally:
        await appenders.stop()
