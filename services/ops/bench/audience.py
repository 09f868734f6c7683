"""Clients that listen to one live stream each, on one epoll: thousands of them cost little themselves.

`python -m services.ops.bench.audience` is a process of its own. It takes an `Audience` as a line of JSON, and
answers with a line once all listen. To each further line it answers, once an event has come to all of them,
with a `Heard`: times are `time.perf_counter`'s, which the processes of a machine share on Linux.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from typing import Final, TypedDict

import orjson

from services.api.connections import raise_file_limit

_AT_ONCE: Final = 100
_PATIENCE_S: Final = 60.0
_PART: Final = 1 << 16
_EVENT: Final = b"data: "


class Audience(TypedDict):
    """How many listen, and to what."""

    port: int
    path: str
    streams: int


class Heard(TypedDict):
    """When the first, the median and the last of them had the event; how many have none, and the bytes."""

    first: float
    median: float
    last: float
    missing: int
    size: int


class _Listeners:
    def __init__(self, audience: Audience) -> None:
        self._port = audience["port"]
        self._request = f"GET {audience['path']} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        for first in range(0, audience["streams"], _AT_ONCE):
            self._join(min(_AT_ONCE, audience["streams"] - first))

    def _join(self, count: int) -> None:
        """Connect some more, and wait until their streams have begun."""
        new = []
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE_S)
            one.sendall(self._request)
            new.append(one)
        for one in new:
            begun = b""
            while b"retry:" not in begun:
                part = one.recv(_PART)
                if not part:
                    raise SystemExit(f"a stream ended: {begun[:500]!r}")
                begun += part
            one.setblocking(False)
            self._selector.register(one, selectors.EVENT_READ)
            self._sockets.append(one)

    def hear(self) -> Heard:
        """Wait until an event has come to all of them."""
        times: dict[int, float] = {}
        size = 0
        deadline = time.perf_counter() + _PATIENCE_S
        while len(times) < len(self._sockets) and (now := time.perf_counter()) < deadline:
            for key, _ in self._selector.select(deadline - now):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                part = one.recv(_PART)
                if not part:
                    self._selector.unregister(one)
                elif _EVENT in part:
                    times.setdefault(key.fd, time.perf_counter())
                    size = len(part)
        order = sorted(times.values()) or [0.0]
        return Heard(
            first=order[0],
            median=order[len(order) // 2],
            last=order[-1],
            missing=len(self._sockets) - len(times),
            size=size,
        )


def main() -> None:
    """One audience, until the input ends."""
    raise_file_limit()
    listeners = _Listeners(orjson.loads(sys.stdin.buffer.readline()))
    _answer({})
    for _ in sys.stdin.buffer:
        _answer(listeners.hear())


def _answer(value: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
