"""How long after its 201 a comment is first read: the worker's way, and no `min_version` to shorten it."""

from __future__ import annotations

import asyncio
import re
import time
from random import Random
from typing import Final, Self, TypedDict
from uuid import uuid4

import orjson

from services.errors import Unavailable
from services.ops.bench import prose
from services.ops.bench.load import quantile, split

_PATIENCE_S: Final = 30.0
_BETWEEN_READS_S: Final = 0.001
_PAUSES: Final = (0.02, 0.3, 1.5)
"""Seconds between two posts, in turn: workers that slept for long wake more slowly."""

_VERSION: Final = re.compile(rb"\r\nthreadlog-version: *(\d+)")


class Visible(TypedDict):
    """Times from the 201 to the first answer that holds the comment, in seconds."""

    posts: int
    median: float
    p95: float
    max: float


class Client:
    """A kept connection for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        """Connect to the loopback."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, path: str, token: str | None = None, body: object = None) -> Answer:
        """Send a request, wait for its answer."""
        raw = b"" if body is None else orjson.dumps(body)
        lines = [f"{method} {path} HTTP/1.1", "Host: bench", f"Content-Length: {len(raw)}"]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        if body is not None:
            lines += ["Content-Type: application/json", f"Idempotency-Key: {uuid4()}"]
        self._writer.write("\r\n".join([*lines, "\r\n"]).encode() + raw)
        answer = b""
        while (found := split(answer)) is None:
            part = await self._reader.read(1 << 18)
            if not part:
                raise Unavailable(f"{method} {path}: the connection was closed")
            answer += part
        return Answer(*found)

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        await self._writer.wait_closed()


class Answer:
    """An answer: its status, its headers in lower case, its body."""

    def __init__(self, status: str, head: bytes, body: bytes) -> None:
        self.status = status
        self.head = head
        self.body = body

    @property
    def version(self) -> int:
        """Threadlog-Version; 0 where it is not given."""
        found = _VERSION.search(self.head)
        return 0 if found is None else int(found[1])


async def measure(port: int, site: str, token: str, posts: int, *, thread: str, seed: int) -> Visible:
    """Post one comment at a time and read until it is there.

    Raises Unavailable where a post is refused, or a comment is not there within 30 seconds.
    """
    random = Random(seed)  # noqa: S311 - texts, not secrets
    client = await Client.connect(port)
    path = f"/v1/sites/{site}/threads/{thread}/comments"
    page = f"{path}?limit=1&sort=newest"
    times = []
    try:
        # The first read builds the view, and would be the one that shows the comment.
        await _post(client, path, token, random)
        await client.ask("GET", page)
        for number in range(posts):
            await asyncio.sleep(_PAUSES[number % len(_PAUSES)])
            version = await _post(client, path, token, random)
            answered = time.perf_counter()
            while (await client.ask("GET", page)).version < version:
                if time.perf_counter() - answered > _PATIENCE_S:
                    raise Unavailable(
                        f"version {version} was not visible within {_PATIENCE_S:.0f} s: no worker?"
                    )
                await asyncio.sleep(_BETWEEN_READS_S)
            times.append(time.perf_counter() - answered)
    finally:
        await client.close()
    times.sort()
    return Visible(
        posts=len(times),
        median=quantile(times, 0.5),
        p95=quantile(times, 0.95),
        max=times[-1] if times else 0.0,
    )


async def _post(client: Client, path: str, token: str, random: Random) -> int:
    answer = await client.ask("POST", path, token, {"body": prose.body(random)})
    if answer.status != "201":
        raise Unavailable(f"a post was answered with {answer.status}: {answer.body[:200].decode()}")
    return answer.version
