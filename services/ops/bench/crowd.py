"""Clients that cost a server memory and nothing else: some are idle, some hardly read.

`python -m services.ops.bench.crowd` is a process of its own. It takes a `Crowd` as a line of JSON, answers
with a line once all are connected, and leaves when its input ends. The idle ones have asked once, and keep
their connection; one that is closed by the server connects anew. The slow ones ask for a large page several
times, more than the kernels' buffers hold, and read a byte a second of it until the server cuts them off.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from typing import Final, TypedDict

import orjson
import uvloop

from services.api.connections import raise_file_limit

_AT_ONCE: Final = 200
_ASKED: Final = 8
"""Requests that a slow reader sends at once."""
_BUFFER: Final = 4096


class Crowd(TypedDict):
    """How many of each there are, and what the slow ones read."""

    port: int
    idle: int
    slow: int
    path: str


class _Idle(asyncio.Protocol):
    def __init__(self) -> None:
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        transport.write(b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_result(None)
        self.closed.set_result(None)


async def _idle(port: int, turn: asyncio.Semaphore, there: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    while True:
        async with turn:
            try:
                client = (await loop.create_connection(_Idle, "127.0.0.1", port))[1]
            except OSError:
                await asyncio.sleep(0.1)  # the server takes no more at once
                continue
            await client.answered
        there.set()
        await client.closed


async def _slow(port: int, path: str, there: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode() * _ASKED
    with socket.socket() as client, contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, request)
        there.set()
        while await loop.sock_recv(client, 1):  # noqa: ASYNC110 - it is what makes it slow
            await asyncio.sleep(1.0)


async def stand(crowd: Crowd, gone: asyncio.Event) -> None:
    """Be there until `gone`."""
    turn = asyncio.Semaphore(_AT_ONCE)
    arrivals = [asyncio.Event() for _ in range(crowd["idle"] + crowd["slow"])]
    tasks = [
        asyncio.create_task(
            _idle(crowd["port"], turn, there)
            if number < crowd["idle"]
            else _slow(crowd["port"], crowd["path"], there)
        )
        for number, there in enumerate(arrivals)
    ]
    for there in arrivals:
        await there.wait()
    sys.stdout.buffer.write(b"{}\n")
    sys.stdout.buffer.flush()
    await gone.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def main() -> None:
    """One crowd, until the input ends."""
    raise_file_limit()
    crowd: Crowd = orjson.loads(sys.stdin.buffer.readline())
    gone, loop = asyncio.Event(), asyncio.get_running_loop()

    def leave() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(gone.set)

    threading.Thread(target=leave, daemon=True).start()
    await stand(crowd, gone)


if __name__ == "__main__":
    uvloop.run(main())
