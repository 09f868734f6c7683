"""Cutting an appender's connection at its append, and what its tests share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg

from services.core.commands import PostComment
from tests.factories import Writer, once

FATES = ("lost", "answer lost", "either")


def appends(data: bytes) -> bool:
    """Whether a client sends the append, which commits: a Bind of the unnamed portal to that statement
    (PostgreSQL documentation, 54.7)."""
    return data[:1] == b"B" and data[5:13] == b"\0append\0"


class Cutter:
    """A unix socket before Postgres that cuts connections at their append.

    `lost`: the append never arrives. `answer lost`: it is carried out, and nobody is told. `either`: it is
    sent, and the connection is cut at once.
    """

    def __init__(self, url: str, fate: Callable[[], str | None]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cut-", dir="/tmp"))
        parts = urlsplit(url)
        self._postgres = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._fate = fate
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path}?host={quote(str(self._folder))}"
        self.cuts: list[str] = []
        self.asked = 0
        """How many times a client has sent something: each waits for its answer."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._folder / ".s.PGSQL.5432")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        shutil.rmtree(self._folder)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._postgres)
        down = asyncio.create_task(_copy(up_reader, writer))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.asked += 1
                fate = self._fate() if appends(data) else None
                if fate is None:
                    up_writer.write(data)
                    await up_writer.drain()
                    continue
                self.cuts.append(fate)
                down.cancel()
                if fate != "lost":
                    up_writer.write(data)
                    await up_writer.drain()
                if fate == "answer lost":
                    await asyncio.gather(down, return_exceptions=True)
                    await up_reader.read(1)
                break
        down.cancel()
        up_writer.close()
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def posts(writers: Sequence[Writer], count: int) -> list[PostComment]:
    return [
        await writers[n % len(writers)].post(f"number {n}", idempotency=once(os.urandom(8).hex()))
        for n in range(count)
    ]


async def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.005)  # between two looks at the condition


async def logged(pool: asyncpg.Pool[Any]) -> list[Any]:
    return [row["event_id"] for row in await pool.fetch("select event_id from events")]
