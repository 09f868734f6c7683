"""Working on one piece while the next is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

_T = TypeVar("_T")


async def ahead(pieces: AsyncIterator[_T]) -> AsyncIterator[_T]:
    """These pieces, each of which is read while the one before it is worked on."""
    reading = asyncio.ensure_future(_next(pieces))
    try:
        while piece := await reading:
            reading = asyncio.ensure_future(_next(pieces))
            yield piece[0]
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _next(pieces: AsyncIterator[_T]) -> tuple[_T] | None:
    async for piece in pieces:
        return (piece,)
    return None
