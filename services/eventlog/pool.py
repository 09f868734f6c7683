"""The pool of connections that everything but the appenders shares, and the hosts that all connect to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit
from weakref import WeakSet

import asyncpg
from asyncpg.pool import PoolAcquireContext, PoolConnectionProxy

if TYPE_CHECKING:
    _Pool = asyncpg.Pool[Any]
else:  # generic in its stubs only
    _Pool = asyncpg.Pool

PATIENCE_S: Final = 5.0
"""How long one waits for a connection, whether all are in use or Postgres does not answer."""


class Hosts:
    """The hosts of a database URL, tried one after the other; the one that answered last is tried first.

    asyncpg tries them too, but has one timeout for all: a machine that is gone and refuses nothing would use
    it up, and the next would never be asked. Once another host has answered, every connection to the last one
    is ended: what waits there would wait for long, and what is read there may be out of date.
    """

    def __init__(self, database_url: str) -> None:
        self._urls = list(_of_one_host(database_url))
        self._connections: WeakSet[asyncpg.Connection] = WeakSet()

    @classmethod
    def of(cls, database: str | Hosts) -> Hosts:
        """These hosts, or those of a URL."""
        return cls(database) if isinstance(database, str) else database

    async def connect(self, *_: Any, **options: Any) -> asyncpg.Connection:
        """As asyncpg's, with this object's URL; the hosts share the `timeout` of its options (seconds).

        Raises what the last host failed with, and OSError where none is as target_session_attrs asks.
        """
        failed: Exception = ConnectionError("no host")
        share = options.pop("timeout") / len(self._urls)
        for url in list(self._urls):
            try:
                found: asyncpg.Connection = await asyncpg.connect(url, timeout=share, **options)
            except asyncpg.TargetServerAttributeNotMatched:
                failed = ConnectionRefusedError("no host is as target_session_attrs asks")
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError) as error:
                failed = error
            else:
                if url != self._urls[0]:
                    self._move_to(url)
                self._connections.add(found)
                return found
        raise failed

    def _move_to(self, url: str) -> None:
        self._urls.sort(key=lambda other: other != url)
        for connection in list(self._connections):
            connection.terminate()
        self._connections.clear()


def _of_one_host(database_url: str) -> Iterator[str]:
    """The URL for each of its hosts alone."""
    parts = urlsplit(database_url)
    query = dict(parse_qsl(parts.query))
    login, at, in_netloc = parts.netloc.rpartition("@")
    names = (in_netloc or query.get("host", "")).split(",")
    ports = query.get("port", "").split(",")
    ports = ports * len(names) if len(ports) == 1 else ports
    if len(names) == 1 or len(ports) != len(names):  # where they do not match, asyncpg says so
        yield database_url
        return
    for name, port in zip(names, ports, strict=True):
        asked = query | ({"port": port} if port else {}) | ({} if in_netloc else {"host": name})
        netloc = f"{login}{at}{name}" if in_netloc else parts.netloc
        yield parts._replace(netloc=netloc, query=urlencode(asked)).geturl()


class BoundedPool(_Pool):
    """A pool whose connections are not waited for without end; TimeoutError after `patience` seconds.

    asyncpg's own waits as long as it takes, unless each call says otherwise, and `fetch` cannot.
    """

    patience: float = PATIENCE_S

    def acquire(self, *, timeout: float | None = None) -> PoolAcquireContext[Any]:
        """As asyncpg's; `timeout` is in seconds."""
        return super().acquire(timeout=self.patience if timeout is None else timeout)


async def _learn_arrays(connection: asyncpg.Connection | PoolConnectionProxy[Any]) -> None:
    """Have a new connection look up the array types that queries name, which takes asyncpg some milliseconds:
    the first reader would wait for that, after a start and whenever the pool grows."""
    await connection.prepare("select null::uuid[], null::bigint[], null::text[], null::bytea[]")


def open_pool(
    database: str | Hosts, size: int, *, session: Mapping[str, str], patience: float = PATIENCE_S
) -> BoundedPool:
    """A pool of at most `size` connections, to be entered with `async with`. `session` is set in each."""
    pool = BoundedPool(
        min_size=1,
        max_size=size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        connect=Hosts.of(database).connect,
        timeout=5,
        command_timeout=30,
        server_settings=dict(session),
        init=_learn_arrays,
    )
    pool.patience = patience
    return pool
