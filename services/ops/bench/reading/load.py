"""The load generator of reads: kept connections, each of which asks for its next page when it is answered.

`python -m services.ops.bench.reading.load` takes a port on a line, then an `Ask` for each round, and answers
each with a `Result`, all as JSON. As the one that posts, it speaks just as much HTTP as the answers need.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from itertools import cycle
from typing import Final, TypedDict, cast

import orjson
import uvloop

from services.ops.bench.load import bucket_of

_PATIENCE_S: Final = 60.0
_VERSION: Final = b"\r\nthreadlog-version:"
_LENGTH: Final = b"\r\ncontent-length:"


class Ask(TypedDict):
    """One round: `seconds` are counted, `warm` seconds before them are not. The paths are asked for in turn:
    again and again, or each `once`, and the round ends with the last. `headers` go with each request, and an
    X-Request-ID of its own where heads are to be `distinct`."""

    connections: int
    warm: float
    seconds: float
    paths: list[str]
    once: bool
    headers: dict[str, str]
    distinct: bool


class Result(TypedDict):
    """What a round gave. `answers` of them in `seconds` were 200 or 304; `latencies` by bucket (see
    `services.ops.bench.load.bucket_of`); `sent` and `cpu_seconds` (of this process) count the warming too.
    `versions`: when the last request was sent that was answered with each version, by the monotonic clock."""

    answers: int
    sent: int
    seconds: float
    wall_seconds: float
    cpu_seconds: float
    bytes: int
    latencies: dict[str, int]
    statuses: dict[str, int]
    versions: dict[str, float]
    broken: int


class Count:
    """What the connections of one round add up to, and what they ask for next."""

    def __init__(self, asked: Ask) -> None:
        run = os.urandom(6).hex()
        extra = "".join(f"{name}: {value}\r\n" for name, value in asked["headers"].items())
        requests = [f"GET {path} HTTP/1.1\r\nHost: bench\r\n{extra}".encode() for path in asked["paths"]]
        self._requests = iter(requests) if asked["once"] else cycle(requests)
        self._distinct = f"X-Request-ID: {run}-%d\r\n\r\n".encode() if asked["distinct"] else None
        self.counting = False
        self.stopping = False
        self.latencies: list[float] = []
        self.statuses: dict[str, int] = {}
        self.versions: dict[bytes, float] = {}
        self.bytes = 0
        self.sent = 0
        self.broken = 0

    def request(self) -> bytes | None:
        """The next request; None where all were sent."""
        head = None if self.stopping else next(self._requests, None)
        if head is None:
            return None
        self.sent += 1
        return head + (b"\r\n" if self._distinct is None else self._distinct % self.sent)


class Getter(asyncio.Protocol):
    """One kept connection."""

    def __init__(self, count: Count) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count = count
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._missing = 0
        self._head = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is registered as none
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._count.broken += bool(self._sent_at)
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        count = self._count
        count.bytes += len(data)
        if self._head:
            self._missing -= len(data)
        else:
            self._parts.append(data)
            whole = data if len(self._parts) == 1 else b"".join(self._parts)
            end = whole.find(b"\r\n\r\n")
            if end < 0:
                return
            self._parts.clear()
            self._head = whole[:end].lower()
            self._missing = _number(self._head, _LENGTH) - (len(whole) - end - 4)
        if self._missing <= 0:
            self._answered()

    def _answered(self) -> None:
        count, head = self._count, self._head
        self._head = b""
        status = head[9:12].decode()
        if count.counting and status in ("200", "304"):
            count.latencies.append(time.perf_counter() - self._sent_at)
        count.statuses[status] = count.statuses.get(status, 0) + 1
        place = head.find(_VERSION)
        if place >= 0:
            version = head[place + len(_VERSION) : head.find(b"\r\n", place + 2)]
            count.versions[version] = max(count.versions.get(version, 0.0), self._sent_at)
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        request = self._count.request()
        if request is None:
            self._sent_at = 0.0
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


def _number(head: bytes, name: bytes) -> int:
    place = head.find(name)
    return 0 if place < 0 else int(head[place + len(name) :].split(b"\r\n", 1)[0])


async def drive(port: int, asked: Ask) -> Result:
    """One round."""
    loop = asyncio.get_running_loop()
    count = Count(asked)
    cpu, began = time.process_time(), time.perf_counter()
    getters = [
        (await loop.create_connection(lambda: Getter(count), "127.0.0.1", port))[1]
        for _ in range(asked["connections"])
    ]
    closed = asyncio.gather(*(getter.closed for getter in getters))
    await asyncio.wait([closed], timeout=asked["warm"])
    count.counting = True
    bytes_before, started = count.bytes, time.perf_counter()
    await asyncio.wait([closed], timeout=asked["seconds"])
    count.counting = False
    seconds, received = time.perf_counter() - started, count.bytes - bytes_before
    count.stopping = True
    await asyncio.wait([closed], timeout=_PATIENCE_S)
    return Result(
        answers=len(count.latencies),
        sent=sum(count.statuses.values()),
        seconds=seconds,
        wall_seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
        bytes=received,
        latencies={str(bucket): found for bucket, found in Counter(map(bucket_of, count.latencies)).items()},
        statuses=count.statuses,
        versions={version.decode().strip(): when for version, when in count.versions.items()},
        broken=count.broken,
    )


def main() -> None:
    """Answer rounds until the input ends."""
    port = int(sys.stdin.buffer.readline())
    for line in sys.stdin.buffer:
        result = uvloop.run(drive(port, orjson.loads(line)))
        sys.stdout.buffer.write(orjson.dumps(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
