"""The limits that all processes share, in Redis: what asks while a call is under way goes with the next one.

There is no timer, as in the appender: one script call is under way at a time, and one call carries the writes
that gathered meanwhile. A call goes out when the handlers that are ready have run, so that the requests that
one look at the sockets brought are one call.

    tl:limit:<format>:{<site>}:<kind>:<digest>  string  the limit's theoretical arrival time, microseconds;
                                                       expires when it has come

`digest` is keyed: who writes, and from where, cannot be read in Redis. A site's limits carry one hash tag.
One call takes the limits of many sites, which a Redis Cluster would refuse; the broker's is never one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from importlib.resources import files
from typing import Final

import structlog
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ResponseError

from services.api.limits.policy import Charge, Used
from services.readmodel.line import Line, packed

FORMAT: Final = 1

_AT_ONCE: Final = 256
"""Writes in one call, which keeps the server for about a millisecond."""
_WAITING: Final = 1024
"""Writes that wait for a call."""
_PATIENCE_S: Final = 0.05
"""How long one call may take."""
_AWAY_S: Final = 1.0
"""How long Redis is not asked after it failed."""
_CONNECT_S: Final = 1.0

_log = structlog.get_logger("threadlog.api")


class SharedLimits:
    """The limits in the Redis at `url`. While it is away, no charge is answered, and its maker decides."""

    def __init__(self, url: str) -> None:
        self._pool = ConnectionPool.from_url(
            url, socket_connect_timeout=_CONNECT_S, socket_timeout=_CONNECT_S
        )
        self._line = Line(self._pool)
        self._script = (files("services.api.limits") / "gcra.lua").read_bytes()
        self._sha = hashlib.sha1(self._script, usedforsecurity=False).hexdigest().encode()
        self._waiting: deque[tuple[Charge, asyncio.Future[Used | None]]] = deque()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._silent_until = 0.0
        self.away = True
        """Whether it is not asked now."""
        self.calls = 0
        """Script calls that were answered."""

    async def start(self) -> None:
        """Connect, if that is possible now; go on trying where it is not."""
        await self._connect()
        self._task = asyncio.create_task(self._run(), name="rate limits")

    async def stop(self) -> None:
        """Answer nothing any more, and disconnect."""
        self.away = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._give_up()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CONNECT_S):
                await self._pool.disconnect()

    def ask(self, charge: Charge) -> asyncio.Future[Used | None] | None:
        """What is used of the charge's limits; None, or a future of None, where Redis does not decide."""
        waiting = self._waiting
        if self.away or len(waiting) >= _WAITING:
            return None
        assert self._task is not None, "not started"
        answer: asyncio.Future[Used | None] = self._task.get_loop().create_future()
        if not waiting:
            self._filled.set()
        waiting.append((charge, answer))
        return answer

    async def _run(self) -> None:
        while True:
            if self.away:
                # Nothing but time ends this wait: Redis is left alone until then.
                await asyncio.sleep(self._silent_until - asyncio.get_running_loop().time())
                await self._connect()
            elif not self._waiting:
                self._filled.clear()
                await self._filled.wait()
            else:
                await self._call()

    async def _call(self) -> None:
        count = min(len(self._waiting), _AT_ONCE)
        batch = [self._waiting.popleft() for _ in range(count)]
        try:
            async with asyncio.timeout(_PATIENCE_S):
                used = await self._exchange([charge for charge, _ in batch])
            self.calls += 1
            start = 0
            for charge, answer in batch:
                end = start + len(charge.keys)
                if not answer.done():
                    answer.set_result(used[start:end])
                start = end
        except BaseException as error:
            # Whatever it is, nobody may be left waiting: `_give_up` answers those that are.
            self._waiting.extendleft(reversed(batch))
            if not isinstance(error, Exception):
                raise
            self._lost(error)

    async def _exchange(self, charges: list[Charge]) -> list[int]:
        keys: list[bytes] = []
        arguments: list[int] = []
        for charge in charges:
            keys += charge.keys
            for limit in charge.policy.limits:
                arguments += (limit.interval, limit.room)
            arguments[-1] = -charge.policy.limits[-1].room
        rest: tuple[bytes | int, ...] = (len(keys), *keys, *arguments)
        try:
            [used] = await self._line.ask(packed(b"EVALSHA", self._sha, *rest))
        except ResponseError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            [used] = await self._line.ask(packed(b"EVAL", self._script, *rest))
        if not isinstance(used, list) or len(used) != len(keys):
            raise ConnectionResetError
        return used

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._line.ask(packed("PING"))
        except Exception as error:  # noqa: BLE001 - whatever it is, the process' own limits hold meanwhile
            self._lost(error)
        else:
            if self._task is not None:
                _log.info("rate limits are shared again")
            self.away = False

    def _lost(self, error: Exception) -> None:
        """Nobody waits for Redis until it has been left alone for a while."""
        if not self.away:
            _log.warning("rate limits are this process' own for now", error=type(error).__name__)
        self.away = True
        self._silent_until = asyncio.get_running_loop().time() + _AWAY_S
        self._give_up()

    def _give_up(self) -> None:
        while self._waiting:
            _, answer = self._waiting.popleft()
            if not answer.done():
                answer.set_result(None)
