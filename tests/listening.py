"""A client of live streams: sends a request over a socket of its own, and reads the events as they come."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientResponse, ClientSession, ClientTimeout
from yarl import URL


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    id: int
    type: str
    data: Any

    @property
    def body(self) -> Any:
        """The text of the comment that it is about."""
        return self.data["comment"]["body"]


@dataclass(slots=True)
class Stream:
    """An open stream. `last_id` is what an EventSource would send as Last-Event-ID."""

    answer: ClientResponse
    last_id: int = 0
    heartbeats: int = 0
    retries: list[int] = field(default_factory=list)
    rest: bytes = b""

    async def event(self, within: float = 20.0) -> Event:
        """The next event. Fails where the stream ends, or none comes in time."""
        async with asyncio.timeout(within):
            while True:
                if (found := await self._block()) is not None:
                    return found

    async def events(self, count: int, within: float = 20.0) -> list[Event]:
        """The next events."""
        return [await self.event(within) for _ in range(count)]

    async def until(self, version: int, within: float = 20.0) -> list[Event]:
        """The events up to the one with this id."""
        found = [await self.event(within)]
        while found[-1].id < version:
            found.append(await self.event(within))
        return found

    async def beaten(self, within: float = 40.0) -> None:
        """Wait for a heartbeat; an event instead of it is a failure."""
        before = self.heartbeats
        async with asyncio.timeout(within):
            while self.heartbeats == before:
                assert await self._block() is None

    async def end(self, within: float = 20.0) -> list[Event]:
        """What comes until the server ends the stream in good order."""
        found = []
        async with asyncio.timeout(within):
            with contextlib.suppress(EOFError):
                while True:
                    if (event := await self._block()) is not None:
                        found.append(event)
        return found

    async def _block(self) -> Event | None:
        """The next block; None for one that is no event. Raises EOFError at the end."""
        while b"\n\n" not in self.rest:
            part = await self.answer.content.readany()
            if not part:
                assert not self.rest, self.rest
                raise EOFError("the stream has ended")
            self.rest += part
        block, _, self.rest = self.rest.partition(b"\n\n")
        given: dict[str, str] = {}
        for line in block.decode().split("\n"):
            name, colon, value = line.partition(":")
            assert colon, block
            if not name:
                self.heartbeats += 1
            else:
                assert name not in given, block
                given[name] = value.removeprefix(" ")
        if "retry" in given:
            self.retries.append(int(given["retry"]))
        if "id" in given:
            self.last_id = int(given["id"])
        if "data" not in given:
            return None
        return Event(self.last_id, given["event"], json.loads(given["data"]))


@asynccontextmanager
async def listening(
    base: str, path: str, *, after: int | None = None, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Stream]:
    """A stream, which must be answered with one; `after` goes as Last-Event-ID."""
    sent = {"Accept": "text/event-stream", **(headers or {})}
    if after is not None:
        sent["Last-Event-ID"] = str(after)
    timeout = ClientTimeout(total=None, sock_connect=10)
    async with (
        ClientSession(timeout=timeout) as session,
        session.get(URL(base + path, encoded=True), headers=sent) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert answer.headers["Content-Type"] == "text/event-stream"
        yield Stream(answer, last_id=after or 0)
