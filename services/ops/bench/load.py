"""The load generator: posts comments over kept connections, each of which sends its next when it is answered.

`python -m services.ops.bench.load` is a process of its own. It takes one JSON object a line on its standard
input, first a `Target`, then a `Round` for each round, and answers each round with a `Result` on a line.
It speaks just as much HTTP as the answers need (a Content-Length, no chunks): a full client would cost more
than the server that is measured.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Final, TypedDict, cast
from urllib.parse import quote

import orjson
import uvloop

from services.ops.bench import prose

_BODIES: Final = 1_000
_PARENTS: Final = 16
_REPLIES: Final = 0.5
_PATIENCE_S: Final = 10.0
_GROWTH: Final = math.log(1.01)
_ID: Final = slice(-36, None)
"""Where the comment's id stands in its address."""


class Target(TypedDict):
    """What all rounds have in common: one server. `tokens` belong to as many authors; `parents`, of each
    thread, are comments that are there already."""

    port: int
    site: str
    tokens: list[str]
    threads: list[str]
    parents: list[list[str]]
    seed: int


class Round(TypedDict):
    """One round: `seconds` are counted, `warm` seconds before them are not. The first `threads` threads are
    posted to."""

    connections: int
    warm: float
    seconds: float
    threads: int


class Result(TypedDict):
    """What a round gave. `posts` were answered with 201 in `seconds`; `latencies` of them by bucket (see
    `bucket_of`); `sent` and `cpu_seconds` (of this process) count the warming too. `statuses`: all answers by
    status."""

    posts: int
    sent: int
    seconds: float
    wall_seconds: float
    cpu_seconds: float
    latencies: dict[str, int]
    statuses: dict[str, int]
    broken: int


class Writer:
    """Writes the requests of one run: which author says what, below what, in which thread."""

    def __init__(self, target: Target) -> None:
        self._random = Random(target["seed"])  # noqa: S311 - texts, not secrets
        self._threads = [quote(thread, safe="").encode() for thread in target["threads"]]
        self._site = target["site"]
        self._tokens = [token.encode() for token in target["tokens"]]
        self._bodies = [orjson.dumps(prose.body(self._random)) for _ in range(_BODIES)]
        self._posted = [[parent.encode() for parent in parents] for parents in target["parents"]]
        self._posted += [[] for _ in self._threads[len(self._posted) :]]
        self._run = os.urandom(8).hex().encode()
        self._count = 0

    def request(self, threads: int) -> tuple[int, bytes]:
        """A request to one of the first `threads` threads, and its number. Half of them are replies."""
        random = self._random
        self._count += 1
        number = int(random.random() * min(threads, len(self._threads)))
        posted = self._posted[number]
        body = b'{"body":' + self._bodies[int(random.random() * _BODIES)]
        if posted and random.random() < _REPLIES:
            body += b',"parent_id":"' + posted[int(random.random() * len(posted))] + b'"}'
        else:
            body += b"}"
        return number, (
            b"POST /v1/sites/%b/threads/%b/comments HTTP/1.1\r\nHost: bench\r\n"
            b"Authorization: Bearer %b\r\nIdempotency-Key: %b-%d\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (
                self._site.encode(),
                self._threads[number],
                self._token(),
                self._run,
                self._count,
                len(body),
                body,
            )
        )

    def _token(self) -> bytes:
        """Each author's first, then anyone's: what an author's first post costs is paid in the beginning."""
        if self._count <= len(self._tokens):
            return self._tokens[self._count - 1]
        return self._tokens[int(self._random.random() * len(self._tokens))]

    def answered(self, number: int, head: bytes) -> None:
        """Remember a comment to reply to; of each thread a few, so that replies do not nest without end."""
        posted = self._posted[number]
        if len(posted) < _PARENTS:
            posted.append(_location(head)[_ID])
        elif self._random.random() < 0.1:
            posted[int(self._random.random() * len(posted))] = _location(head)[_ID]


class Count:
    """What the connections of one round add up to."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.counting = False
        self.stopping = False
        self.latencies: list[float] = []
        self.statuses: dict[str, int] = {}
        self.sent = 0
        self.broken = 0


class Poster(asyncio.Protocol):
    """One kept connection."""

    def __init__(self, writer: Writer, count: Count) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writer = writer
        self._count = count
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._number = 0
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is registered as none
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._count.broken += not self._count.stopping
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        answer = split(self._buffer + data if self._buffer else data)
        if answer is None:
            self._buffer += data
            return
        self._buffer = b""
        status, head, _ = answer
        count = self._count
        if status == "201":
            self._writer.answered(self._number, head)
            if count.counting:
                count.latencies.append(time.perf_counter() - self._sent_at)
        count.statuses[status] = count.statuses.get(status, 0) + 1
        if count.stopping:
            assert self._transport is not None
            self._transport.close()
        else:
            self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._number, request = self._writer.request(self._count.threads)
        self._count.sent += 1
        self._sent_at = time.perf_counter()
        self._transport.write(request)


def _location(head: bytes) -> bytes:
    return head.partition(b"\r\nlocation:")[2].partition(b"\r\n")[0]


def split(answer: bytes) -> tuple[str, bytes, bytes] | None:
    """Status, head and body of an answer that is complete; None for one that is not."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = answer[:end].lower()
    begin = head.find(b"\r\ncontent-length:")
    size = 0 if begin < 0 else int(head[begin + 17 :].split(b"\r\n", 1)[0])
    body = answer[end + 4 :]
    if len(body) < size:
        return None
    return head[9:12].decode(), head, body


async def drive(writer: Writer, port: int, asked: Round) -> Result:
    """One round."""
    loop = asyncio.get_running_loop()
    count = Count(asked["threads"])
    cpu, began = time.process_time(), time.perf_counter()
    posters = [
        (await loop.create_connection(lambda: Poster(writer, count), "127.0.0.1", port))[1]
        for _ in range(asked["connections"])
    ]
    await asyncio.sleep(asked["warm"])  # the length of the warm-up is what was asked
    count.counting = True
    started = time.perf_counter()
    await asyncio.sleep(asked["seconds"])  # and that of the measurement
    count.counting = False
    seconds = time.perf_counter() - started
    count.stopping = True
    await asyncio.wait([poster.closed for poster in posters], timeout=_PATIENCE_S)
    return Result(
        posts=len(count.latencies),
        sent=sum(count.statuses.values()),
        seconds=seconds,
        wall_seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
        latencies={str(bucket): found for bucket, found in Counter(map(bucket_of, count.latencies)).items()},
        statuses=count.statuses,
        broken=count.broken,
    )


def quantile(ordered: list[float], share: float) -> float:
    """The value below which `share` of the ordered values lie; 0 where there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def bucket_of(seconds: float) -> int:
    """The bucket of a latency. Each is a hundredth wider than the one before."""
    return math.floor(math.log(max(seconds, 1e-9)) / _GROWTH)


def quantile_of(buckets: Mapping[int, int], share: float) -> float:
    """The latency in seconds below which `share` of all lie, to half a hundredth; 0 where there are none."""
    rest = int(sum(buckets.values()) * share)
    for bucket in sorted(buckets):
        rest -= buckets[bucket]
        if rest < 0:
            return math.exp((bucket + 0.5) * _GROWTH)
    return math.exp((max(buckets) + 0.5) * _GROWTH) if buckets else 0.0


def main() -> None:
    """Answer rounds until the input ends."""
    target: Target = orjson.loads(sys.stdin.buffer.readline())
    writer = Writer(target)
    for line in sys.stdin.buffer:
        result = uvloop.run(drive(writer, target["port"], orjson.loads(line)))
        sys.stdout.buffer.write(orjson.dumps(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
