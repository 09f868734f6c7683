"""Pokes: bounded, coalesced, and lost where they have to be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from uuid import UUID

import pytest
import redis
from dramatiq import MessageProxy

from services.dev.servers import EmbeddedRedis
from services.pokes import (
    MOVED,
    NOTIFY_ACTOR,
    NOTIFY_QUEUE,
    PROJECT_ACTOR,
    PROJECT_QUEUE,
    QUEUES,
    Poker,
    make_broker,
    message,
    queue_key,
)
from tests.processes import until


@pytest.fixture
def poker(broker_url: str) -> Iterator[Poker]:
    poker = Poker(broker_url)
    poker.start()
    yield poker
    poker.stop()


def waiting(broker_url: str, queue: str) -> int:
    with redis.Redis.from_url(broker_url) as client:
        return int(client.llen(queue_key(queue)))


async def sent(poker: Poker, count: int) -> None:
    async def all_sent() -> bool:
        return poker.sent >= count

    await until(all_sent, f"{count} messages sent")


async def test_a_poke_is_one_message_to_each_actor(poker: Poker, broker_url: str) -> None:
    poker.poke([UUID(int=1), UUID(int=2)])
    await sent(poker, 2)
    assert [waiting(broker_url, QUEUES[actor]) for actor in MOVED] == [1, 1]


async def test_a_poke_may_be_for_one_actor(poker: Poker, broker_url: str) -> None:
    poker.poke([UUID(int=1)], [PROJECT_ACTOR])
    await sent(poker, 1)
    assert [waiting(broker_url, QUEUES[actor]) for actor in (PROJECT_ACTOR, NOTIFY_ACTOR)] == [1, 0]


def test_what_waits_is_coalesced_bounded_and_sent_at_the_end(broker_url: str) -> None:
    poker = Poker(broker_url, limit=10, streams_per_message=4)
    for _ in range(3):
        poker.poke((UUID(int=number) for number in range(12)), [PROJECT_ACTOR])
    assert poker.dropped == 6
    poker.start()
    poker.stop()
    assert waiting(broker_url, PROJECT_QUEUE) == poker.sent == 3


async def test_a_full_queue_takes_no_more(broker_url: str) -> None:
    poker = Poker(broker_url, queue_limit=2, streams_per_message=1)
    poker.poke((UUID(int=number) for number in range(5)), [PROJECT_ACTOR])
    poker.start()
    poker.stop()
    assert (waiting(broker_url, PROJECT_QUEUE), poker.sent, poker.dropped) == (2, 2, 3)


async def test_pokes_are_dropped_while_the_broker_is_away_and_go_again_when_it_is_back(
    start_redis: Callable[..., EmbeddedRedis],
) -> None:
    server = start_redis()
    poker = Poker(server.url(1))
    poker.start()
    poker.poke([UUID(int=1)])
    await sent(poker, 2)
    server.stop()
    poker.poke([UUID(int=2)])

    async def dropped() -> bool:
        return poker.dropped >= 2

    await until(dropped, "two pokes dropped")
    server.start()

    async def is_back() -> bool:
        poker.poke([UUID(int=3)])
        return poker.sent >= 4

    await until(is_back, "messages to go again")
    before = threading.active_count()
    poker.stop()
    assert threading.active_count() == before - 1


async def test_of_a_busy_thread_notifiers_hear_less_often_than_projectors(
    poker: Poker, broker_url: str
) -> None:
    began = time.monotonic()
    for count in range(1, 11):
        poker.poke([UUID(int=1)])

        async def projectors_heard(count: int = count) -> bool:
            return waiting(broker_url, PROJECT_QUEUE) >= count

        await until(projectors_heard, f"{count} messages to the projector")
    # The first goes at once, the others 40 ms after one another, half as often as to projectors.
    assert waiting(broker_url, NOTIFY_QUEUE) <= 1 + (time.monotonic() - began) / 0.04


async def test_a_worker_that_waits_takes_a_message_when_it_comes(
    start_redis: Callable[..., EmbeddedRedis],
) -> None:
    server = start_redis()
    broker = make_broker(server.url(1))
    with closing(broker.client), redis.Redis.from_url(server.url(1)) as client:
        consumer = broker.consume(PROJECT_QUEUE, prefetch=2, timeout=4_000)
        taken: list[MessageProxy] = []

        def take() -> None:
            # It gives None where nothing has come, as after four seconds on a slow machine.
            taken.append(next(filter(None, consumer)))

        taking = threading.Thread(target=take)
        taking.start()

        async def waiting_workers() -> int:
            return int(client.info("clients")["blocked_clients"])

        await until(waiting_workers, "the worker to wait", bool)
        sent = [broker.enqueue(message(PROJECT_ACTOR, [UUID(int=number)])) for number in range(3)]
        taking.join(30)
        # All of them, in their order, each once: for the third one there is room when another is done.
        take()
        consumer.ack(taken[0])
        take()
        assert [one.message_id for one in taken] == [one.message_id for one in sent]
        assert client.llen(queue_key(PROJECT_QUEUE)) == 0


async def test_a_worker_whose_broker_does_not_let_it_wait_asks_instead(
    start_redis: Callable[..., EmbeddedRedis],
) -> None:
    server = start_redis()
    with redis.Redis.from_url(server.url(1)) as client:
        client.acl_setuser(
            "default", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-blmove"]
        )
    broker = make_broker(server.url(1))
    with closing(broker.client):
        sent = broker.enqueue(message(PROJECT_ACTOR, [UUID(int=1)]))
        taken = next(filter(None, broker.consume(PROJECT_QUEUE, prefetch=1, timeout=4_000)))
    assert taken.message_id == sent.message_id
