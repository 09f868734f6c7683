"""Webhooks, as Standard Webhooks has them (github.com/standard-webhooks/standard-webhooks, v1.0.0).

The webhook-id is the delivery's: a receiver that has seen it drops what comes again. What is told is read
from the tables when it is sent, and holds no text: who wants that asks the API for what may be seen by then.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urljoin, urlsplit
from uuid import UUID

import orjson
from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver
from standardwebhooks import Webhook

from services.core.schedule import GIVEN_UP, open_for, wait
from services.core.thread import timestamp
from services.eventlog.deliveries import WEBHOOK, Again, Dead, Delivery, Dropped, Outcome, Sent
from services.eventlog.endpoints import Endpoints, Target
from services.workers.channels.public import Network, sockets

CONNECT_S: Final = 5.0
TOTAL_S: Final = 15.0
AT_ONCE: Final = 64
REDIRECTS: Final = 3
FAILURES: Final = 10
"""An endpoint is not switched off for fewer in a row, however many days lie between them."""
_FOLLOWED: Final = (301, 302, 307, 308)
"""With the same body to the next address: 303 asks for a GET, which delivers nothing."""
_QUOTED: Final = 100
"""Characters of an answer that are told."""
_READ: Final = 1024
_HEADERS: Final = {
    "Content-Type": "application/json",
    "User-Agent": "threadlog",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True, slots=True)
class _Gone:
    """The endpoint asks to be left alone: 410 (Standard Webhooks, "Disabling endpoints")."""


class WebhookChannel:
    """Sends deliveries to the endpoints of sites."""

    name = WEBHOOK
    at_once = AT_ONCE

    def __init__(
        self,
        endpoints: Endpoints,
        outside: ClientSession,
        inside: ClientSession,
        *,
        mails: bool,
        total: float,
    ) -> None:
        """`outside` takes https, `inside` http to allowed networks: see `webhooks`. `mails`: whether owners
        are told by mail of endpoints that are switched off. An answer, redirects included, has to be there
        within `total` seconds."""
        self._endpoints = endpoints
        self._sessions = {"https": outside, "http": inside}
        self._mails = mails
        self._total = total

    async def send(self, delivery: Delivery) -> Outcome:
        """Send one; the endpoint's circuit opens and closes by it."""
        endpoint_id = delivery.endpoint_id
        if endpoint_id is None:
            return Dead("it names no endpoint")
        target = await self._endpoints.target(endpoint_id, UUID(delivery.about["comment_id"]))
        if target is None:
            return Dropped("the endpoint was removed")
        if target.off:
            return Dead("the endpoint is switched off")
        if target.thread is None or target.erased:
            return Dropped("the comment was erased")
        body = payload(delivery, target)
        try:
            async with asyncio.timeout(self._total):
                found = await self._post(target.url, body, signed(delivery, target.secrets, body))
        except TimeoutError:
            found = Again("no answer in time")
        except ClientConnectorError as error:
            found = Again(f"no connection to {error.host}: {error.os_error}")
        except (ClientError, OSError, ValueError) as error:
            found = Again(str(error) or type(error).__name__)
        return await self._judged(endpoint_id, target, found)

    async def _post(self, url: str, body: str, headers: dict[str, str]) -> Outcome | _Gone:
        for _ in range(1 + REDIRECTS):
            session = self._sessions.get(urlsplit(url).scheme)
            if session is None:
                return Again(f"it leads to {url[:_QUOTED]}")
            async with session.post(
                url, data=body.encode(), headers=headers, allow_redirects=False
            ) as answer:
                to = answer.headers.get("Location")
                if answer.status not in _FOLLOWED or to is None:
                    return await _outcome(answer)
                url = urljoin(url, to)
        return Again(f"more than {REDIRECTS} redirects")

    async def _judged(self, endpoint_id: UUID, target: Target, found: Outcome | _Gone) -> Outcome:
        match found:
            case Sent():
                await self._endpoints.succeeded(endpoint_id)
            case _Gone():
                await self._switch_off(endpoint_id, "it answered 410 Gone")
                return Dead("410 Gone: the endpoint was switched off")
            case Again(reason, after):
                drawn = random.random()  # noqa: S311 - it spreads, and keeps nothing secret
                asked = 0.0 if after is None else wait(1, drawn, after)
                failing, times = await self._endpoints.failed(
                    endpoint_id, max(asked, open_for(target.failures + 1, drawn))
                )
                if failing > GIVEN_UP and times >= FAILURES:
                    said = f"nothing was taken for {failing.days} days; the last answer: {reason}"
                    await self._switch_off(endpoint_id, said)
        return found

    async def _switch_off(self, endpoint_id: UUID, reason: str) -> None:
        await self._endpoints.switch_off(endpoint_id, reason, mails=self._mails)


@asynccontextmanager
async def webhooks(
    endpoints: Endpoints,
    *,
    allowed: Sequence[Network] = (),
    mails: bool = False,
    total: float = TOTAL_S,
    resolver: AbstractResolver | None = None,
) -> AsyncIterator[WebhookChannel]:
    """The channel with its connections. `allowed` are networks that are not public and may be sent to
    nevertheless, by http too."""

    def session(*, public: bool) -> ClientSession:
        return ClientSession(
            connector=TCPConnector(
                limit=AT_ONCE,
                limit_per_host=0,
                use_dns_cache=False,
                resolver=resolver,
                socket_factory=sockets(allowed, public=public),
            ),
            timeout=ClientTimeout(total=None, sock_connect=CONNECT_S),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers=_HEADERS,
        )

    async with session(public=True) as outside, session(public=False) as inside:
        yield WebhookChannel(endpoints, outside, inside, mails=mails, total=total)


def payload(delivery: Delivery, target: Target) -> str:
    """What is sent, as JSON: ids, and where the comment stands."""
    page = target.thread
    assert page is not None, "there is a comment"
    return orjson.dumps(
        {
            "type": f"{delivery.kind}.created",
            "timestamp": timestamp(delivery.created_at),
            "data": {
                "site": delivery.site,
                "event_id": None if delivery.event_id is None else str(delivery.event_id),
                "thread": {"key": page.key, "title": page.title, "url": page.url},
                "comment_id": delivery.about["comment_id"],
                "actor_id": target.actor_id,
                "recipients": [{"id": one, "reason": reason} for one, reason in delivery.about["recipients"]],
            },
        }
    ).decode()


def signed(delivery: Delivery, secrets: Sequence[bytes], body: str) -> dict[str, str]:
    """The headers by which a receiver knows that it is from here, and whether it has seen it before."""
    now = datetime.now(UTC)
    said = str(delivery.id)
    return {
        "webhook-id": said,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(said, now, body) for secret in secrets),
    }


async def _outcome(answer: ClientResponse) -> Outcome | _Gone:
    """What an answer means. Of a 2xx nothing more is read, of others the beginning."""
    if answer.ok and answer.status < 300:
        return Sent()
    if answer.status == 410:
        return _Gone()
    said = b""
    with suppress(ClientError, TimeoutError):  # that it is refused is known; what follows only says why
        said = await answer.content.read(_READ)
    text = said.decode(errors="replace")[:_QUOTED]
    after = retry_after(answer.headers.get("Retry-After")) if answer.status in (429, 503) else None
    return Again(f"{answer.status} {answer.reason or ''}: {text}".rstrip(": "), after)


def retry_after(value: str | None) -> float | None:
    """The seconds that a Retry-After asks for, as a number or as a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    with suppress(ValueError, TypeError, IndexError):
        at = parsedate_to_datetime(value)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return None
