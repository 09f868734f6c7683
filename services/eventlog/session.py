"""An appender's session with Postgres: its bounds, and the errors that mean that it is lost."""

from __future__ import annotations

from typing import Final

import asyncpg

SESSION: Final = {
    "application_name": "threadlog-appender",
    "default_transaction_isolation": "read committed",
    "jit": "off",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "3s",
    "transaction_timeout": "8s",
    "tcp_user_timeout": "5s",
    "synchronous_commit": "on",
    "plan_cache_mode": "force_generic_plan",
    # The plan is made once, perhaps while the tables are still empty, and must hold when they are large.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
"""Bounds after which Postgres ends an appender's statement by itself. While a session holds its lane, it also
ends after `IDLE` of silence: a host that freezes stops that lane for seconds, not for ever."""

IDLE: Final = "3s"

LOST: Final = (
    OSError,
    asyncpg.InterfaceError,
    # What asyncpg makes of a server's farewell that comes while it is sending.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.exceptions.IdleSessionTimeoutError,
    asyncpg.exceptions.TransactionTimeoutError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.ReadOnlySQLTransactionError,
    # The disk is full, memory is, or there are too many connections.
    asyncpg.InsufficientResourcesError,
    # The server's rules of access, or our password, are being changed.
    asyncpg.InvalidAuthorizationSpecificationError,
    TimeoutError,
)
"""After these the transaction may be tried again as it is."""


def is_lost(error: Exception) -> bool:
    """Whether the connection failed, not the batch. asyncpg counts a value that it cannot encode among its
    InterfaceErrors, and marks it as a ValueError, which a wrong certificate (an OSError) is too."""
    return isinstance(error, LOST) and (isinstance(error, OSError) or not isinstance(error, ValueError))
