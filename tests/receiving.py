"""A receiver of webhooks on loopback, and the deliveries that it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from standardwebhooks import Webhook

from services.eventlog.deliveries import Deliveries, Delivery, Listed, Outcome
from services.eventlog.endpoints import Endpoints, NewEndpoint
from services.eventlog.keys import MasterKey
from services.eventlog.queries import QUERIES
from services.eventlog.sites import Sites
from services.workers.metrics import WorkerMetrics
from tests.processes import SECRET
from tests.writer import MASTER_KEY, SITE, Writer

LOOPBACK: Final = IPv4Network("127.0.0.0/8")
Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Got:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> UUID:
        """Which delivery it says that it is."""
        return UUID(self.headers["webhook-id"])

    def opened(self, secret: str) -> dict[str, Any]:
        """What it tells, its signature checked as receivers do. Raises WebhookVerificationError."""
        found: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return found


@dataclass(slots=True)
class Receiver:
    """Takes what is posted to it. `answers` says how, by path; where it says nothing, with 204."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answers: dict[str, Answering] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append(Got(request.path, headers, await request.read()))
        answering = self.answers.get(request.path)
        return web.Response(status=204) if answering is None else await answering(request)

    def says(self, path: str, status: int, text: str = "", **headers: str) -> str:
        """Answer so at a path; its address."""

        async def answer(_: web.Request) -> web.StreamResponse:
            said = {name.replace("_", "-"): value for name, value in headers.items()}
            return web.Response(status=status, text=text, headers=said)

        self.answers[path] = answer
        return self.url + path


@asynccontextmanager
async def receiving(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver that listens on an address of loopback."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        receiver.url = f"http://{host}:{runner.addresses[0][1]}"
        yield receiver
    finally:
        await runner.cleanup()


class Desk:
    """Enters deliveries of a site as those who tell people do, and looks at them."""

    def __init__(self, log: Writer) -> None:
        self.log = log
        self.pool: asyncpg.Pool[Any] = log.pool
        self.deliveries = Deliveries(log.pool)
        self.endpoints = Endpoints(log.pool, MasterKey(MASTER_KEY))

    async def site(self) -> None:
        """Make the site, unless it is there."""
        await Sites(self.pool, MasterKey(MASTER_KEY)).add(SITE, SECRET)

    async def endpoint(self, url: str, owner: str | None = None) -> NewEndpoint:
        """Add an endpoint of the site."""
        return await self.endpoints.add(SITE, url, owner)

    async def tell(
        self, comment_id: UUID, recipients: Sequence[tuple[str, str]] = (("ann", "reply"),)
    ) -> None:
        """Enter what webhooks are to tell of a comment."""
        about = {"comment_id": str(comment_id), "recipients": [list(one) for one in recipients]}
        await self.pool.execute(
            QUERIES["enter_webhooks"], [SITE], [comment_id], [orjson.dumps(about).decode()], ["told"]
        )

    async def comments(self, count: int) -> list[UUID]:
        """Post so many comments."""
        return [(await self.log.post("t", "bob")).event_id for _ in range(count)]

    async def due(self) -> None:
        """Let everything that waits be due now, and every circuit be closed enough for a look."""
        await self.pool.execute("update deliveries set next_at = now() where state = 'pending'")
        await self.pool.execute("update webhook_endpoints set open_until = null")

    async def states(self) -> dict[str, int]:
        """How many deliveries are in which state."""
        rows = await self.pool.fetch("select state, count(*) as number from deliveries group by state")
        return {row["state"]: row["number"] for row in rows}

    async def one(self, delivery_id: UUID) -> Listed:
        """A delivery, which must be there."""
        found = await self.deliveries.one(delivery_id)
        assert found is not None
        return found


@dataclass
class Slot:
    """A channel whose outcomes the test says; what it was given is kept."""

    name: str
    says: Callable[[Delivery], Awaitable[Outcome]]
    at_once: int = 8
    given: list[Delivery] = field(default_factory=list)

    async def send(self, delivery: Delivery) -> Outcome:
        """Keep it, and answer."""
        self.given.append(delivery)
        return await self.says(delivery)


def metrics() -> WorkerMetrics:
    """Counts of the test's own."""
    return WorkerMetrics(CollectorRegistry())
