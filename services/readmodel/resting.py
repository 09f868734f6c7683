"""A Redis that does not answer is left alone for a while, so that not every reader waits for it in vain.

Each connection tells the pool of a time-out or a fault. The pool then gives out no connections: whoever asks
for one is refused at once, as if Redis were away, while one probe at a time looks, in the background, whether
it answers again. So a Redis that hangs costs those who were waiting for it their patience, and nobody after
them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, TypeVar, cast

from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

_log = logging.getLogger(__name__)

PROBE_S: Final = 0.5
"""Seconds that a probe waits for an answer."""

PAUSE_S: Final = 0.25
"""Seconds between a probe without an answer and the next one."""

_FAULTS: Final = (RedisConnectionError, RedisTimeoutError, OSError)
_C = TypeVar("_C", bound=AbstractConnection)


class RestingPool(BlockingConnectionPool):
    """A pool that rests from a fault of any of its connections until a probe is answered."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._plain = self.connection_class
        self.connection_class = _telling(self.connection_class, self)
        self._probing: asyncio.Task[None] | None = None
        self.faults = 0
        """How many times a connection had no answer, or was lost: each kept somebody waiting."""

    @property
    def resting(self) -> bool:
        """Whether Redis is left alone just now."""
        return self._probing is not None

    def failed(self) -> None:
        """A connection met a fault: rest, and probe."""
        self.faults += 1
        if self._probing is None:
            self._probing = asyncio.create_task(self._probe(), name="views-probe")

    async def get_connection(
        self, command_name: object = None, *keys: object, **options: object
    ) -> AbstractConnection:
        """A connection. Raises redis.exceptions.ConnectionError while the pool rests."""
        self._refuse_while_resting()
        connection = cast(AbstractConnection, await super().get_connection())  # type: ignore[no-untyped-call]
        if self.resting:  # since this one began to wait for its turn
            await self.release(connection)
            self._refuse_while_resting()
        return connection

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001 - redis-py's
        """End all connections, and the probing."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
            self._probing = None
        await super().disconnect(inuse_connections)

    def _refuse_while_resting(self) -> None:
        if self.resting:
            raise RedisConnectionError("Redis did not answer, and is left alone for a moment")

    async def _probe(self) -> None:
        while True:
            if await self._answers():
                break
            await asyncio.sleep(PAUSE_S)
        self._probing = None
        _log.info("the views' Redis answers")

    async def _answers(self) -> bool:
        options = dict(self.connection_kwargs) | {
            "socket_timeout": PROBE_S,
            "socket_connect_timeout": PROBE_S,
        }
        connection = self._plain(**options)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("PING")
            await connection.read_response()
        except (RedisError, OSError):
            return False
        finally:
            await connection.disconnect(nowait=True)
        return True


def _telling(own: type[_C], pool: RestingPool) -> type[_C]:
    """Connections of the class `own` that tell `pool` of their faults."""

    class Telling(own):  # type: ignore[misc, valid-type]
        async def connect(self) -> None:
            try:
                await super().connect()
            except _FAULTS:
                pool.failed()
                raise

        async def read_response(self, *arguments: Any, **named: Any) -> Any:
            try:
                return await super().read_response(*arguments, **named)
            except _FAULTS:
                pool.failed()
                raise

    return cast(type[_C], Telling)
