"""What may go wrong beside the code, and how it is told: never with what might quote a text."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Final

import asyncpg
from redis.exceptions import RedisError

from services.errors import ThreadlogError

FAULTS: Final = (
    ThreadlogError,
    RedisError,
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)
"""What may go wrong with one stream, or one dependency, without being wrong with the code."""


def told(error: BaseException) -> str:
    """An error as it may be logged.

    Of one that nobody expected only its kind and place are told: its message may quote what it met.
    """
    kind = type(error).__name__
    if isinstance(error, FAULTS):
        return f"{kind}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{kind} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else kind
