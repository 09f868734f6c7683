"""Pokes: hints to the workers that threads moved. Lost, repeated or late, they change nothing but latency.

A message names streams, never content, and is built by the actor's name: whoever pokes imports no worker.
What a lost message would have done, the sweeper finds in the log within seconds; so nothing here retries.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable
from typing import Final
from uuid import UUID

import dramatiq
import redis
from dramatiq import MessageProxy
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import AgeLimit, Middleware
from redis.backoff import NoBackoff
from redis.retry import Retry

_log = logging.getLogger(__name__)

PROJECT_QUEUE: Final = "threadlog-project"
PROJECT_ACTOR: Final = "project"
"""Brings views up to the log. Takes `stream_ids`, UUIDs as text, and `poked_at`, Unix ms or null."""
NOTIFY_QUEUE: Final = "threadlog-notify"
NOTIFY_ACTOR: Final = "notify"
"""Tells people of replies. Takes `stream_ids`, as the other one does."""
FAN_OUT_QUEUE: Final = "threadlog-fan-out"
FAN_OUT_ACTOR: Final = "fan_out"
"""Tells the followers of a large thread. Takes `stream_ids`, as the others do."""

REPLAY_QUEUE: Final = "threadlog-replay"
REPLAY_ACTOR: Final = "replay"
"""Works on a range of a replay. Takes `replay_id`."""

QUEUES: Final = {
    PROJECT_ACTOR: PROJECT_QUEUE,
    NOTIFY_ACTOR: NOTIFY_QUEUE,
    FAN_OUT_ACTOR: FAN_OUT_QUEUE,
    REPLAY_ACTOR: REPLAY_QUEUE,
}
MOVED: Final = (PROJECT_ACTOR, NOTIFY_ACTOR)
"""Who follows the log, and looks at a thread whenever it moves."""

_NAMESPACE: Final = "threadlog"
_MAX_AGE_MS: Final = 60_000
_DEAD_TTL_MS: Final = 60_000
_REFUSED_S: Final = 0.5
_GATHER_S: Final = {PROJECT_ACTOR: 0.02, NOTIFY_ACTOR: 0.04, FAN_OUT_ACTOR: 0.02}
"""Seconds between two rounds of messages to an actor, at least. An author who looks on is to hear of a reply
within a tenth of a second; a busy thread is looked at less often all the same."""
_FULL_MS: Final = 20
"""The longest that a worker which has taken all it may waits before it takes more."""
_UNASKED: Final = 20
"""Messages sent between two looks at the length of a queue, at most."""


class _Consumer(_RedisConsumer):
    """Waits for messages in Redis, instead of asking for them again and again: a message is taken when it
    comes, and an idle worker asks once in `timeout` milliseconds, which also tells that it lives."""

    def __init__(self, broker: RedisBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        super().__init__(broker, queue_name, prefetch, _FULL_MS)  # type: ignore[no-untyped-call]
        self._wait_s = timeout / 1000

    def __next__(self) -> MessageProxy | None:
        if not self.message_cache and self.outstanding_message_count < self.prefetch:
            key = queue_key(self.queue_name)
            try:
                # From the queue's head to its head: nothing moves, but it waits until there is something.
                self.broker.client.blmove(key, key, self._wait_s, "LEFT", "LEFT")
            except redis.ResponseError:
                pass  # a server that is full, or does not allow it: then it is asked again and again
            except (redis.RedisError, OSError) as error:
                raise ConnectionClosed(error) from error  # type: ignore[no-untyped-call]
        message: MessageProxy | None = super().__next__()  # type: ignore[no-untyped-call]
        return message


class _Broker(RedisBroker):
    @property
    def consumer_class(self) -> type[_Consumer]:
        return _Consumer

    def do_requeue(self, queue: str, *message_ids: str) -> None:
        """Put messages back that were taken and not begun. Raises Dramatiq's ConnectionClosed.

        Redis' own errors would escape from the end of a worker, which then leaves its threads behind. As
        hints, the messages may be lost.
        """
        try:
            self._dispatch("requeue")(queue, *message_ids)  # type: ignore[no-untyped-call]
        except (redis.RedisError, OSError) as error:
            raise ConnectionClosed(error) from error  # type: ignore[no-untyped-call]


def make_broker(url: str, *middleware: Middleware) -> RedisBroker:
    """The broker at `url`, connected when it is first used.

    Of Dramatiq's middleware only AgeLimit is taken: a hint that waited a minute is stale, since the sweeper
    has given it again, and after an outage a queue of them must not stand before the new ones. There is no
    Retries: the log knows what is still to do, a failed message does not. Without it the others (TimeLimit,
    ShutdownNotifications, Callbacks, Pipelines) have nothing to act on. Dropped messages are kept for a
    minute, not Dramatiq's seven days.
    """
    client = redis.Redis.from_url(
        url, socket_connect_timeout=2.0, socket_timeout=5.0, retry=Retry(NoBackoff(), 1)
    )
    return _Broker(  # type: ignore[no-untyped-call]
        client=client,
        namespace=_NAMESPACE,
        dead_message_ttl=_DEAD_TTL_MS,
        middleware=[AgeLimit(max_age=_MAX_AGE_MS), *middleware],
    )


def queue_key(queue: str) -> str:
    """The Redis list that holds the ids of a queue's waiting messages; its length is the queue's."""
    return f"{_NAMESPACE}:{queue}"


def message(actor: str, stream_ids: Iterable[UUID], *, aging: bool = True) -> dramatiq.Message[None]:
    """The message that makes `actor` look at these streams. An `aging` one is stale after a later look."""
    return dramatiq.Message(
        queue_name=QUEUES[actor],
        actor_name=actor,
        args=(),
        kwargs={
            "stream_ids": [str(stream_id) for stream_id in stream_ids],
            "poked_at": time.time_ns() // 1_000_000 if aging else None,
        },
        options={},
    )


class Poker:
    """Sends pokes from one thread of its own, for callers that must not wait, such as an event loop.

    The first poke goes at once. Streams that are poked within an actor's `_GATHER_S` of it gather, each once,
    and go together: under load a message for each batch would cost the event loop, which shares the
    interpreter with this thread, a tenth of its time. Where the broker is away, its queue full, or more
    streams gather than `limit`, pokes are dropped and counted.
    """

    def __init__(
        self,
        broker_url: str,
        *,
        limit: int = 20_000,
        streams_per_message: int = 100,
        queue_limit: int = 2_000,
        aging: bool = True,
    ) -> None:
        """`limit`: streams that wait for one actor; `queue_limit`: messages that wait in one queue; `aging`:
        as in `message`."""
        self._aging = aging
        self._broker = make_broker(broker_url)
        self._limit = limit
        self._per_message = streams_per_message
        self._queue_limit = queue_limit
        self._waiting: dict[str, dict[UUID, None]] = {actor: {} for actor in QUEUES}
        self._room = dict.fromkeys(QUEUES, 0)
        self._sent_at = dict.fromkeys(QUEUES, float("-inf"))
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="poker", daemon=True)
        self._silent_until = 0.0
        self._away = False
        self.sent = 0
        """Messages sent."""
        self.dropped = 0
        """Pokes of one actor about one stream that were dropped."""

    def start(self) -> None:
        """Start the sending thread. Raises nothing where the broker is away."""
        self._thread.start()

    def poke(self, stream_ids: Iterable[UUID], actors: Collection[str] = MOVED) -> None:
        """Have the actors look at these streams soon. Returns at once."""
        ids = list(stream_ids)
        with self._changed:
            idle = False
            for actor in actors:
                waiting = self._waiting[actor]
                idle = idle or not waiting
                for stream_id in ids:
                    if len(waiting) < self._limit or stream_id in waiting:
                        waiting[stream_id] = None
                    else:
                        self.dropped += 1
            if idle:  # else the thread is awake, or gathering
                self._changed.notify()

    def stop(self, patience: float = 2.0) -> None:
        """Send what waits, for at most `patience` seconds, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(patience)
        if not self._thread.is_alive():
            self._broker.client.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and (left := self._left()) > 0:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                due = [actor for actor in QUEUES if self._stopping or self._left(actor) <= 0]
                taken = {actor: self._waiting[actor] for actor in due if self._waiting[actor]}
                self._waiting.update({actor: {} for actor in taken})
                if self._stopping and not taken:
                    return
            for actor, streams in taken.items():
                ids = list(streams)
                for start in range(0, len(ids), self._per_message):
                    self._send(actor, ids[start : start + self._per_message])
                self._sent_at[actor] = time.monotonic()

    def _left(self, *actors: str) -> float:
        """Seconds until a message may go to one of these actors, or to any; infinite where nothing waits."""
        now = time.monotonic()
        return min(
            (
                self._sent_at[actor] + _GATHER_S[actor] - now
                for actor in actors or QUEUES
                if self._waiting[actor]
            ),
            default=float("inf"),
        )

    def _is_full(self, actor: str) -> bool:
        """Whether the queue is as long as it may be. While it is far from that, it is not asked each time."""
        room = self._room[actor]
        if room <= 0:
            length: int = self._broker.client.llen(queue_key(QUEUES[actor]))
            # Other processes fill it too: half of the room, and soon another look.
            room = min((self._queue_limit - length + 1) // 2, _UNASKED)
        self._room[actor] = room - 1
        return room <= 0

    def _send(self, actor: str, stream_ids: list[UUID]) -> None:
        if time.monotonic() < self._silent_until:
            self.dropped += len(stream_ids)
            return
        try:
            if self._is_full(actor):
                self.dropped += len(stream_ids)
                return
            self._broker.enqueue(message(actor, stream_ids, aging=self._aging))
        except (redis.RedisError, OSError) as error:
            self.dropped += len(stream_ids)
            self._silent_until = time.monotonic() + _REFUSED_S
            if not self._away:
                _log.warning("the broker is away, the sweeper will catch up: %s", error)
            self._away = True
        except Exception as error:  # noqa: BLE001 - without this thread no hint would ever go again
            self.dropped += len(stream_ids)
            _log.error("a hint could not be sent: %s", type(error).__name__)
        else:
            self.sent += 1
            if self._away:
                _log.info("the broker is back")
            self._away = False
