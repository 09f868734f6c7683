"""What may go wrong beside the code, and how it is told: never with what might quote a text."""

from __future__ import annotations

from typing import Final

import asyncpg
from redis.exceptions import RedisError

from services.errors import ThreadlogError, where

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
    return f"{type(error).__name__}: {error}" if isinstance(error, FAULTS) else where(error)
