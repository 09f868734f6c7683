"""Webhooks, sent to real servers on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from services.core.thread import timestamp
from services.eventlog.deliveries import Again, Dead, Delivery, Dropped, Outcome, Sent
from services.workers.channels.webhook import WebhookChannel, retry_after, signed, webhooks
from tests.receiving import Desk, Receiver, receiving
from tests.writer import SITE, writer

HERE = "127.0.0.2"
"""Where the receiver of these tests listens; nothing is allowed to be sent to 127.0.0.1."""
IN_TIME = 10.0
TOO_LATE = 0.4


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    async with writer(database_url) as log:
        desk = Desk(log)
        await desk.site()
        yield desk


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving(HERE) as receiver:
        yield receiver


@pytest.fixture
async def private() -> AsyncIterator[Receiver]:
    """A server that nothing may reach."""
    async with receiving("127.0.0.1") as receiver:
        yield receiver


class Names(AbstractResolver):
    """Answers with one address after the other; the last one again and again."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(hostname=host, host=one, port=port, family=family, proto=0, flags=0)
            for one in answer
        ]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def sending(
    desk: Desk, *, total: float = IN_TIME, resolver: AbstractResolver | None = None, mails: bool = True
) -> AsyncIterator[WebhookChannel]:
    async with webhooks(
        desk.endpoints, allowed=[ip_network(f"{HERE}/32")], mails=mails, total=total, resolver=resolver
    ) as channel:
        yield channel


async def claimed(desk: Desk) -> Delivery:
    """The one delivery that is due, claimed."""
    await desk.due()
    (delivery,) = await desk.deliveries.claim("webhook", 10, 60)
    return delivery


async def told(desk: Desk, url: str, owner: str | None = None) -> Delivery:
    """What an endpoint at `url` is told of a comment, claimed."""
    await desk.endpoint(url, owner)
    (comment,) = await desk.comments(1)
    await desk.tell(comment)
    return await claimed(desk)


async def sent(desk: Desk, url: str, **given: Any) -> Outcome:
    delivery = await told(desk, url)
    async with sending(desk, **given) as channel:
        return await channel.send(delivery)


# --- what is sent ------------------------------------------------------------------------------------------


async def test_a_receiver_is_told_who_was_told_of_what(desk: Desk, receiver: Receiver) -> None:
    made = await desk.endpoint(receiver.url + "/hooks")
    (comment,) = await desk.comments(1)
    await desk.pool.execute(
        "update streams set title = 'On tea', url = 'https://b.example/tea' where key = 't'"
    )
    await desk.tell(comment, [("ann", "reply"), ("cleo", "mention")])
    delivery = await claimed(desk)
    async with sending(desk) as channel:
        assert await channel.send(delivery) == Sent()
    (got,) = receiver.got
    assert got.path == "/hooks"
    assert got.headers["content-type"] == "application/json"
    assert got.id == delivery.id
    assert got.opened(made.secret) == {
        "type": "notification.created",
        "timestamp": timestamp(delivery.created_at),
        "data": {
            "site": SITE,
            "event_id": str(comment),
            "thread": {"key": "t", "title": "On tea", "url": "https://b.example/tea"},
            "comment_id": str(comment),
            "actor_id": "bob",
            "recipients": [{"id": "ann", "reason": "reply"}, {"id": "cleo", "reason": "mention"}],
        },
    }
    assert b"by *bob*" not in got.body


async def test_another_secret_opens_nothing(desk: Desk, receiver: Receiver) -> None:
    made = await desk.endpoint(receiver.url)
    other = await desk.endpoint(receiver.url + "/other")
    (comment,) = await desk.comments(1)
    await desk.tell(comment)
    async with sending(desk) as channel:
        for delivery in await desk.deliveries.claim("webhook", 10, 60):
            assert await channel.send(delivery) == Sent()
    assert len(receiver.got) == 2
    for got in receiver.got:
        mine, not_mine = (other, made) if got.path == "/other" else (made, other)
        got.opened(mine.secret)
        with pytest.raises(WebhookVerificationError):
            got.opened(not_mine.secret)


async def test_while_a_secret_is_replaced_both_sign(desk: Desk, receiver: Receiver) -> None:
    made = await desk.endpoint(receiver.url)
    new = await desk.endpoints.rotate_secret(SITE, made.id)
    assert new != made.secret
    first, second = await desk.comments(2)
    await desk.tell(first)
    async with sending(desk) as channel:
        assert await channel.send(await claimed(desk)) == Sent()
        await desk.pool.execute("update deliveries set state = 'sent', ended_at = now()")
        await desk.pool.execute("update webhook_endpoints set before_until = now() - interval '1 s'")
        await desk.tell(second)
        assert await channel.send(await claimed(desk)) == Sent()
    both, alone = receiver.got
    assert both.opened(made.secret) == both.opened(new)
    alone.opened(new)
    with pytest.raises(WebhookVerificationError):
        alone.opened(made.secret)


def test_the_signature_is_that_of_the_specification() -> None:
    """The vector of the reference libraries: github.com/standard-webhooks/standard-webhooks."""
    signature = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").sign(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        '{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_signed_time_is_the_one_that_is_sent() -> None:
    delivery = Delivery(
        UUID(int=7), SITE, "webhook", "notification", None, None, None, {}, 1, datetime.now(UTC)
    )
    headers = signed(delivery, [b"k" * 32], "{}")
    Webhook(b"k" * 32).verify("{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(b"k" * 32).verify("{ }", headers)


async def test_nothing_is_sent_of_a_comment_that_was_erased(desk: Desk, receiver: Receiver) -> None:
    delivery = await told(desk, receiver.url)
    await desk.pool.execute("update comments set state = 'erased'")
    async with sending(desk) as channel:
        assert await channel.send(delivery) == Dropped("the comment was erased")
    assert receiver.got == []


async def test_nothing_is_sent_to_an_endpoint_that_was_removed(desk: Desk, receiver: Receiver) -> None:
    delivery = await told(desk, receiver.url)
    assert delivery.endpoint_id is not None
    await desk.endpoints.remove(SITE, delivery.endpoint_id)
    async with sending(desk) as channel:
        assert await channel.send(delivery) == Dropped("the endpoint was removed")
    assert receiver.got == []


# --- what comes back ---------------------------------------------------------------------------------------


async def test_an_error_is_tried_again_and_counts_against_the_endpoint(
    desk: Desk, receiver: Receiver
) -> None:
    url = receiver.says("/", 500, "out of \x1b[31mtea" + "!" * 10_000)
    outcome = await sent(desk, url)
    assert isinstance(outcome, Again)
    assert outcome.reason.startswith("500 Internal Server Error: out of ")
    assert len(outcome.reason) < 200
    (endpoint,) = await desk.endpoints.of(SITE)
    assert endpoint.failures == 1
    assert endpoint.failing_since is not None
    del receiver.answers["/"]
    async with sending(desk) as channel:
        assert await channel.send(await claimed(desk)) == Sent()
    (endpoint,) = await desk.endpoints.of(SITE)
    assert (endpoint.failures, endpoint.failing_since) == (0, None)


async def test_gone_switches_an_endpoint_off_and_its_owner_is_told_once(
    desk: Desk, receiver: Receiver
) -> None:
    delivery = await told(desk, receiver.says("/", 410), "me@b.example")
    async with sending(desk) as channel:
        assert isinstance(await channel.send(delivery), Dead)
        assert isinstance(await channel.send(delivery), Dead)
    assert len(receiver.got) == 1
    (endpoint,) = await desk.endpoints.of(SITE)
    assert endpoint.disabled_reason == "it answered 410 Gone"
    rows = await desk.pool.fetch("select site, kind, endpoint_id from deliveries where channel = 'mail'")
    assert [tuple(row) for row in rows] == [(SITE, "endpoint-off", delivery.endpoint_id)]


@pytest.mark.parametrize(("owner", "mails"), [(None, True), ("me@b.example", False)])
async def test_nobody_is_told_where_there_is_no_owner_or_no_mail(
    desk: Desk, receiver: Receiver, owner: str | None, *, mails: bool
) -> None:
    delivery = await told(desk, receiver.says("/", 410), owner)
    async with sending(desk, mails=mails) as channel:
        await channel.send(delivery)
    assert await desk.pool.fetchval("select count(*) from deliveries where channel = 'mail'") == 0


async def test_an_endpoint_that_failed_for_days_is_switched_off(desk: Desk, receiver: Receiver) -> None:
    delivery = await told(desk, receiver.says("/", 500, "no tea"), "me@b.example")
    since = "update webhook_endpoints set failing_since = now() - $1::interval, failures = 40"
    async with sending(desk) as channel:
        await desk.pool.execute(since, timedelta(days=4, hours=23))
        await channel.send(delivery)
        assert (await desk.endpoints.of(SITE))[0].disabled_at is None
        await desk.pool.execute(since, timedelta(days=5, hours=1))
        await channel.send(delivery)
    (endpoint,) = await desk.endpoints.of(SITE)
    assert endpoint.disabled_at is not None
    said = "nothing was taken for 5 days; the last answer: 500 Internal Server Error: no tea"
    assert endpoint.disabled_reason == said


async def test_an_endpoint_that_fails_twice_with_days_between_is_not_switched_off(
    desk: Desk, receiver: Receiver
) -> None:
    delivery = await told(desk, receiver.says("/", 500, "no tea"))
    async with sending(desk) as channel:
        await channel.send(delivery)
        await desk.pool.execute("update webhook_endpoints set failing_since = now() - interval '9 days'")
        await channel.send(delivery)
    (endpoint,) = await desk.endpoints.of(SITE)
    assert (endpoint.disabled_at, endpoint.failures) == (None, 2)


@pytest.mark.parametrize("status", [429, 503])
async def test_an_endpoint_is_left_alone_for_as_long_as_it_asks(
    desk: Desk, receiver: Receiver, status: int
) -> None:
    outcome = await sent(desk, receiver.says("/", status, Retry_After="120"))
    assert isinstance(outcome, Again)
    assert outcome.after == 120
    (endpoint,) = await desk.endpoints.of(SITE)
    assert endpoint.open_until is not None
    assert endpoint.open_until - datetime.now(UTC) > timedelta(seconds=100)


def test_a_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after("120") == 120
    assert retry_after(" 7 ") == 7
    in_a_minute = retry_after(format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True))
    assert in_a_minute is not None
    assert 0 < in_a_minute <= 60
    assert retry_after(format_datetime(datetime.now(UTC) - timedelta(minutes=1), usegmt=True)) == 0
    for wrong in (None, "", "soon", "-5", "1.5", "\u0661"):
        assert retry_after(wrong) is None


async def test_who_hangs_is_given_up_in_time(desk: Desk, receiver: Receiver) -> None:
    ended = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await ended.wait()
        return web.Response()

    receiver.answers["/"] = hang
    try:
        assert await sent(desk, receiver.url + "/", total=TOO_LATE) == Again("no answer in time")
    finally:
        ended.set()


async def test_who_answers_byte_by_byte_is_given_up_in_time(desk: Desk) -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass
        finally:
            writer.close()
            left.set()

    left = asyncio.Event()
    async with await asyncio.start_server(drip, HERE, 0) as server:
        port = server.sockets[0].getsockname()[1]
        outcome = await sent(desk, f"http://{HERE}:{port}/", total=TOO_LATE)
        await asyncio.wait_for(left.wait(), 30)
    assert outcome == Again("no answer in time")


async def test_of_a_huge_answer_only_the_beginning_is_read(desk: Desk, receiver: Receiver) -> None:
    written = 0

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal written
        answer = web.StreamResponse(status=500)
        await answer.prepare(request)
        with suppress(ConnectionError):
            for _ in range(1_000):
                await answer.write(b"x" * 1_000_000)
                written += 1_000_000
        return answer

    receiver.answers["/"] = pour
    outcome = await sent(desk, receiver.url + "/")
    assert isinstance(outcome, Again)
    assert len(outcome.reason) < 200
    assert written < 100_000_000


async def test_who_is_not_there_is_tried_again(desk: Desk) -> None:
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        outcome = await sent(desk, f"http://{HERE}:{taken.getsockname()[1]}/")
    assert isinstance(outcome, Again)
    assert outcome.reason.startswith("no connection to 127.0.0.2: ")


# --- where nothing is sent ---------------------------------------------------------------------------------


def port_of(receiver: Receiver) -> str:
    return receiver.url.rpartition(":")[2]


async def test_nothing_is_sent_to_a_private_address(desk: Desk, private: Receiver) -> None:
    outcome = await sent(desk, private.url)
    assert isinstance(outcome, Again)
    assert "127.0.0.1: no public address" in outcome.reason
    assert private.got == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_followed_with_the_same_body(desk: Desk, receiver: Receiver, status: int) -> None:
    outcome = await sent(desk, receiver.says("/", status, Location="/moved"))
    assert outcome == Sent()
    first, second = receiver.got
    assert second.path == "/moved"
    assert (first.body, first.id) == (second.body, second.id)
    assert first.headers["webhook-signature"] == second.headers["webhook-signature"]


@pytest.mark.parametrize(
    "to", ["http://127.0.0.1:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://inside.example:{port}/"]
)
async def test_a_redirect_leads_to_no_private_address(
    desk: Desk, receiver: Receiver, private: Receiver, to: str
) -> None:
    url = receiver.says("/", 307, Location=to.format(port=port_of(private)))
    outcome = await sent(desk, url, resolver=Names(["127.0.0.1"]))
    assert isinstance(outcome, Again)
    assert "no public address" in outcome.reason
    assert private.got == []
    assert len(receiver.got) == 1


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://b.example/", "javascript:alert(1)"])
async def test_a_redirect_leads_to_nothing_but_http(desk: Desk, receiver: Receiver, to: str) -> None:
    outcome = await sent(desk, receiver.says("/", 307, Location=to))
    assert isinstance(outcome, Again)
    assert outcome.reason.startswith("it leads to ")


async def test_redirects_in_a_circle_end(desk: Desk, receiver: Receiver) -> None:
    outcome = await sent(desk, receiver.says("/", 307, Location="/"))
    assert outcome == Again("more than 3 redirects")
    assert len(receiver.got) == 4


async def test_see_other_delivers_nothing(desk: Desk, receiver: Receiver) -> None:
    outcome = await sent(desk, receiver.says("/", 303, Location="/moved"))
    assert isinstance(outcome, Again)
    assert len(receiver.got) == 1


async def test_an_answer_of_the_names_that_changes_leads_nowhere_else(
    desk: Desk, receiver: Receiver, private: Receiver
) -> None:
    """Whatever a name is said to be next: the address that is connected to is the one that was checked."""
    port = port_of(receiver)
    async with receiving("127.0.0.1", int(port)) as same_port:
        names = Names([HERE], ["127.0.0.1"])
        delivery = await told(desk, receiver.says("/", 500, Connection="close").replace(HERE, "b.example"))
        async with sending(desk, resolver=names) as channel:
            first = await channel.send(delivery)
            second = await channel.send(delivery)
    assert isinstance(first, Again)
    assert first.reason.startswith("500")
    assert isinstance(second, Again)
    assert "no public address" in second.reason
    assert (len(receiver.got), same_port.got) == (1, [])


async def test_of_several_addresses_the_private_ones_are_left_out(desk: Desk, receiver: Receiver) -> None:
    port = port_of(receiver)
    async with receiving("127.0.0.1", int(port)) as same_port:
        names = Names(["127.0.0.1", HERE, "127.0.0.1"])
        outcome = await sent(desk, f"http://b.example:{port}/", resolver=names)
    assert outcome == Sent()
    assert (len(receiver.got), same_port.got) == (1, [])


async def test_http_leads_to_allowed_networks_alone(desk: Desk) -> None:
    outcome = await sent(desk, "http://b.example:9/", resolver=Names(["1.1.1.1"]))
    assert isinstance(outcome, Again)
    assert "1.1.1.1: http:// is for allowed networks" in outcome.reason


async def test_a_proxy_of_the_environment_is_not_asked(
    desk: Desk, receiver: Receiver, private: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", private.url)
    assert await sent(desk, receiver.url) == Sent()
    assert private.got == []


async def test_a_cookie_is_not_sent_back(desk: Desk, receiver: Receiver) -> None:
    delivery = await told(desk, receiver.says("/", 200, Set_Cookie="a=b; Path=/"))
    async with sending(desk) as channel:
        for _ in range(2):
            assert await channel.send(delivery) == Sent()
    assert len(receiver.got) == 2
    assert "cookie" not in receiver.got[1].headers
