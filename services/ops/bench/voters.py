"""The voters: each sends one vote over kept connections, as fast as these are answered.

`python -m services.ops.bench.voters` is a process of its own. It takes one JSON object on its standard input,
a `Poll`, and answers with a `Turnout`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from typing import Final, TypedDict, cast

import orjson
import uvloop

from services.ops.bench.load import quantile, split

_PATIENCE_S: Final = 300.0


class Poll(TypedDict):
    """Who votes on what: the voter of `tokens[n]` casts `values[n]` at `path`."""

    port: int
    path: str
    tokens: list[str]
    values: list[int]
    connections: int


class Turnout(TypedDict):
    """What came of it: times in seconds, all answers by status."""

    votes: int
    seconds: float
    cpu_seconds: float
    p50: float
    p99: float
    statuses: dict[str, int]
    broken: int


class Queue:
    """The votes that are not yet cast, and what became of the others."""

    def __init__(self, poll: Poll) -> None:
        self._path = poll["path"].encode()
        self._waiting = deque(zip(poll["tokens"], poll["values"], strict=True))
        self.latencies: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.broken = 0

    def next(self) -> bytes | None:
        """The next request; None where all have voted."""
        if not self._waiting:
            return None
        token, value = self._waiting.popleft()
        body = b'{"value":%d}' % value
        return (
            b"PUT %b HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (self._path, token.encode(), len(body), body)
        )


class Voter(asyncio.Protocol):
    """One kept connection."""

    def __init__(self, queue: Queue) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue = queue
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._waits = False
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is registered as none
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._queue.broken += self._waits
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        answer = split(self._buffer + data if self._buffer else data)
        if answer is None:
            self._buffer += data
            return
        self._buffer = b""
        self._queue.latencies.append(time.perf_counter() - self._sent_at)
        self._queue.statuses[answer[0]] += 1
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        request = self._queue.next()
        self._waits = request is not None
        if request is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


async def hold(poll: Poll) -> Turnout:
    """Have everybody vote."""
    loop, queue = asyncio.get_running_loop(), Queue(poll)
    cpu, began = time.process_time(), time.perf_counter()
    voters = [
        (await loop.create_connection(lambda: Voter(queue), "127.0.0.1", poll["port"]))[1]
        for _ in range(min(poll["connections"], len(poll["tokens"])))
    ]
    await asyncio.wait([voter.closed for voter in voters], timeout=_PATIENCE_S)
    seconds = time.perf_counter() - began
    latencies = sorted(queue.latencies)
    return Turnout(
        votes=queue.statuses["200"],
        seconds=seconds,
        cpu_seconds=time.process_time() - cpu,
        p50=quantile(latencies, 0.5),
        p99=quantile(latencies, 0.99),
        statuses=dict(queue.statuses),
        broken=queue.broken,
    )


def main() -> None:
    """Hold one poll."""
    poll: Poll = orjson.loads(sys.stdin.buffer.readline())
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(hold(poll))) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
