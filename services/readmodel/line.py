"""One connection to Redis that all readers of a process share.

What is asked for goes out at once, and the answers come back in the same order. redis-py gives each question
a connection of its own and takes it back, and reads an answer through several layers, each a wait of its own:
that cost three times as much. It still makes the connection, so that addresses, TLS, signing in and Sentinel
are its business, and its pool closes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.readmodel.resting import RestingPool

MOST: Final = 2_000
"""Questions that wait for an answer at most."""


def packed(*words: str | bytes | int) -> bytes:
    """A command in the protocol of Redis."""
    return cast(bytes, hiredis.pack_command(words))  # type: ignore[arg-type]


def _refusal(told: str) -> ResponseError:
    full = told.startswith("OOM ")
    return OutOfMemoryError(told.removeprefix("OOM ")) if full else ResponseError(told)


class Line:
    """Asks Redis over one connection of a pool, which is made when it is needed."""

    __slots__ = ("_connection", "_making", "_patience", "_pool", "_talk")

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._patience = cast(float | None, pool.connection_kwargs.get("socket_timeout"))
        self._making = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._talk: _Talk | None = None

    async def ask(self, *commands: bytes) -> list[Any]:
        """The answers to these commands, as `packed` makes them; between them others may be carried out.

        Raises redis.exceptions.RedisError: ResponseError where one of them is refused.
        """
        answers = await self.tell(*commands)
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers

    async def tell(self, *commands: bytes) -> list[Any]:
        """As `ask`, with a ResponseError in the place of each command that is refused."""
        pool = self._pool
        if isinstance(pool, RestingPool) and pool.resting:
            raise RedisConnectionError("Redis did not answer, and is left alone for a moment")
        talk = self._talk
        if talk is None or talk.over:
            talk = await self._made()
        return await talk.ask(commands)

    async def _made(self) -> _Talk:
        async with self._making:
            if self._talk is not None and not self._talk.over:
                return self._talk
            connection, self._connection, self._talk = self._connection, None, None
            if connection is not None:
                try:
                    await connection.disconnect(nowait=True)
                finally:  # whoever is cancelled here must not take a place in the pool along
                    await asyncio.shield(self._pool.release(connection))
            connection = cast(AbstractConnection, await self._pool.get_connection())  # type: ignore[no-untyped-call]
            self._connection = connection
            self._talk = _Talk(connection, self._patience, self._failed)
            return self._talk

    def _failed(self) -> None:
        if isinstance(self._pool, RestingPool):
            self._pool.failed()


class _Talk(asyncio.Protocol):
    """What is said over one connection, in the place of redis-py's own side of it."""

    def __init__(
        self, connection: AbstractConnection, patience: float | None, failed: Callable[[], None]
    ) -> None:
        """`failed` is told once, where somebody has no answer within `patience` seconds, or at all."""
        self.over = False
        self._loop = asyncio.get_running_loop()
        # redis-py has no public name for it.
        writer = cast(asyncio.StreamWriter, connection._writer)  # noqa: SLF001
        self._transport = cast(asyncio.Transport, writer.transport)
        self._own = cast(asyncio.Protocol, self._transport.get_protocol())
        self._patience = patience
        self._failed = failed
        self._reader = hiredis.Reader(replyError=_refusal)
        self._answers: list[Any] = []
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    def ask(self, commands: Sequence[bytes]) -> asyncio.Future[list[Any]]:
        """Send them, and give what will be their answers. Raises redis.exceptions.ConnectionError."""
        if len(self._waiting) >= MOST:
            raise RedisConnectionError(f"{MOST} questions wait for Redis to answer")
        told: asyncio.Future[list[Any]] = self._loop.create_future()
        self._transport.write(b"".join(commands))
        self._waiting.append((told, len(commands), self._loop.time()))
        if self._timer is None and self._patience is not None:
            self._timer = self._loop.call_later(self._patience, self._look)
        return told

    def data_received(self, data: bytes) -> None:
        reader, answers = self._reader, self._answers
        try:
            reader.feed(data)
            while self._waiting:
                answer = reader.gets()
                if answer is False:
                    return
                if isinstance(answer, hiredis.PushNotification):
                    continue
                answers.append(answer)
                if len(answers) == self._waiting[0][1]:
                    told = self._waiting.popleft()[0]
                    if not told.done():
                        told.set_result(answers)
                    answers = self._answers = []
        except hiredis.ProtocolError as error:
            self._end(RedisConnectionError(f"Redis answered out of shape: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(RedisConnectionError(f"the connection to Redis was lost: {exc}"))
        self._own.connection_lost(exc)

    def eof_received(self) -> bool:
        return False  # nothing can come any more: redis-py's side would leave the connection half open

    def pause_writing(self) -> None:
        self._own.pause_writing()

    def resume_writing(self) -> None:
        self._own.resume_writing()

    def _look(self) -> None:
        """See whether whoever waits longest has waited too long."""
        self._timer = None
        if not self._waiting or self._patience is None:
            return
        left = self._waiting[0][2] + self._patience - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._end(RedisTimeoutError(f"Redis did not answer within {self._patience:g} s"))

    def _end(self, error: RedisConnectionError | RedisTimeoutError) -> None:
        """No more is said here: whoever waits is told why."""
        if self.over:
            return
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for told, _, _ in waiting:
            if not told.done():
                told.set_exception(error)
        if waiting:
            self._failed()
