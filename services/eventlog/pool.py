"""The pool of connections that everything but the appenders shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg.pool import PoolAcquireContext

if TYPE_CHECKING:
    _Pool = asyncpg.Pool[Any]
else:  # generic in its stubs only
    _Pool = asyncpg.Pool

PATIENCE_S: Final = 5.0
"""How long one waits for a connection, whether all are in use or Postgres does not answer."""


class BoundedPool(_Pool):
    """A pool whose connections are not waited for without end; TimeoutError after `patience` seconds.

    asyncpg's own waits as long as it takes, unless each call says otherwise, and `fetch` cannot.
    """

    patience: float = PATIENCE_S

    def acquire(self, *, timeout: float | None = None) -> PoolAcquireContext[Any]:
        """As asyncpg's; `timeout` is in seconds."""
        return super().acquire(timeout=self.patience if timeout is None else timeout)


def open_pool(
    database_url: str, size: int, *, session: Mapping[str, str], patience: float = PATIENCE_S
) -> BoundedPool:
    """A pool of at most `size` connections, to be entered with `async with`. `session` is set in each."""
    pool = BoundedPool(
        database_url,
        min_size=1,
        max_size=size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        timeout=5,
        command_timeout=30,
        server_settings=dict(session),
    )
    pool.patience = patience
    return pool
