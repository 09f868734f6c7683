"""The deliverer of a worker process, with its channels, from its start to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from services.eventlog.deliveries import Channel, Deliveries
from services.eventlog.endpoints import Endpoints
from services.wiring import Resources
from services.workers.caretaker import dismiss
from services.workers.channels.mail import mails
from services.workers.channels.webhook import webhooks
from services.workers.deliverer import GRACE_S, Deliverer
from services.workers.metrics import WorkerMetrics


@asynccontextmanager
async def delivering(made: Resources, metrics: WorkerMetrics) -> AsyncIterator[Deliverer]:
    """Send deliveries meanwhile, by every channel that is configured. What is under way at the end is given
    some seconds; what did not make it is sent again by whoever claims it next."""
    async with AsyncExitStack() as stack:
        deliverer = Deliverer(Deliveries(made.pool), await _channels(stack, made, metrics), metrics)
        task = asyncio.create_task(deliverer.run(), name="deliverer")
        try:
            yield deliverer
        finally:
            deliverer.stop()
            await asyncio.wait([task], timeout=2 * GRACE_S)
            await dismiss(task)


async def _channels(stack: AsyncExitStack, made: Resources, metrics: WorkerMetrics) -> list[Channel]:
    settings = made.settings
    webhook = webhooks(
        Endpoints(made.pool, made.master), allowed=settings.webhook_allow_private, mails=settings.sends_mail
    )
    channels: list[Channel] = [await stack.enter_async_context(webhook)]
    if settings.sends_mail:
        mail = mails(made, lambda away: metrics.mail_server_away.set(int(away)))
        channels.append(await stack.enter_async_context(mail))
    return channels
