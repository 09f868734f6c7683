"""An API whose memory of answers goes by a clock that the test sets, and raw requests to it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from services.api.app import create_app, runner
from services.api.deps import Api
from services.api.metrics import Metrics
from services.api.pages.memory import PageMemory
from services.api.pages.shortcut import HEADS, Shortcut
from services.core.addresses import thread_stream_id
from tests.integration.api_client import SITE, Client, T

COMMENTS = f"{T}/comments"


@dataclass(slots=True)
class Clock:
    """Seconds, as the test says."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came: the headers as pairs, in order."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __getitem__(self, name: str) -> str:
        return dict(self.headers)[name]

    @property
    def lasting(self) -> tuple[tuple[str, str], ...]:
        """The headers that are the same for the next answer."""
        return tuple(pair for pair in self.headers if pair[0] not in ("X-Request-ID", "Date"))


@dataclass(slots=True)
class Wire:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, raw: bytes) -> Reply:
        """Send these bytes, one request, and read its answer."""
        self.writer.write(raw)
        return await self.read(head=raw.startswith(b"HEAD"))

    async def read(self, *, head: bool = False) -> Reply:
        """The next answer."""
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        line, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = tuple((name, value) for name, _, value in (one.partition(": ") for one in lines))
        length = 0 if head else int(dict(pairs).get("Content-Length", "0"))
        return Reply(int(line.split()[1]), pairs, await self.reader.readexactly(length))


def request(path: str = COMMENTS, method: str = "GET", **headers: str) -> bytes:
    """A request's bytes; `Accept_Encoding="gzip"` is a header."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@dataclass(slots=True)
class Remembering:
    """The API once more, beside the client's own: its memory goes by `clock`."""

    api: Api
    client: Client
    clock: Clock = field(default_factory=Clock)

    @property
    def short(self) -> int:
        """How many answers took the shortcut."""
        return self.api.shortcut.answers

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        """A connection of its own."""
        port = self.client.running.port
        reader, writer = await asyncio.open_connection(self.client.running.host, port)
        try:
            yield Wire(reader, writer)
        finally:
            writer.close()

    async def ask(self, path: str = COMMENTS, method: str = "GET", **headers: str) -> Reply:
        """One request on a connection of its own."""
        async with self.wire() as wire:
            return await wire.ask(request(path, method, **headers))

    async def advance(self, thread: str = "story") -> None:
        """Bring the thread's view up to the log, as a worker would."""
        await self.client.running.resources.projector.advance(thread_stream_id(SITE, thread))

    async def commands(self) -> Mapping[str, int]:
        """How often each command was sent to the views' server, since it started."""
        stats = await self.client.running.resources.redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}


@asynccontextmanager
async def remembering(
    client: Client, limit: int = 64 << 20, heads: int = HEADS
) -> AsyncIterator[Remembering]:
    """Serve the client's API on another port, with a memory of at most `limit` bytes, and so many heads."""
    clock = Clock()
    pages = PageMemory(limit, client.running.resources.reader.heads, clock)
    api = dataclasses.replace(client.running.api, pages=pages, metrics=Metrics())
    shortcut = Shortcut(pages, api.counts, api.sites.kept, lambda: api.drain.begun, heads)
    object.__setattr__(api, "shortcut", shortcut)  # as the API itself makes it
    running = runner(create_app(api))
    await running.setup()
    try:
        await web.TCPSite(running, "127.0.0.1", 0).start()
        port = running.addresses[0][1]
        there = dataclasses.replace(client.running, api=api, port=port)
        yield Remembering(api, dataclasses.replace(client, running=there), clock)
    finally:
        await running.cleanup()
