"""The appender: what queued meanwhile is one batch, and one batch is one transaction.

There is no timer: while a batch commits, the next one gathers. The lane's lock makes positions visible in
order and lets the decisions trust what they loaded; it is taken in a statement of its own, since a statement
that waits for a lock and then reads would read from a snapshot taken before the wait.

The lock is the session's, not a transaction's: it is kept from batch to batch while commands wait, for a
turn of some milliseconds, and given back when none do. So a batch takes two round trips: the load, and the
append, which is a transaction by itself (docs/decisions/0008-a-lane-is-held-for-a-turn.md).

A batch whose connection breaks has an unknown fate. The next attempt takes the lock, which the old session
holds until it has ended either way, and looks for one of the batch's events in its place. Until that look is
taken, whatever goes wrong, nothing is decided anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.core.commands import Command
from services.errors import Overloaded, Refusal, ThreadlogError, Unavailable, WriteFailed
from services.eventlog.batch import Appended, Batch, Outcome, SettingsCache
from services.eventlog.locks import LockClass
from services.eventlog.log import NIL
from services.eventlog.needs import needs_of
from services.eventlog.pool import Hosts
from services.eventlog.queries import QUERIES
from services.eventlog.session import IDLE, LOST, SESSION, is_lost

_log = logging.getLogger(__name__)

_TURN_S: Final = 0.01
"""Seconds for which a lane is held from batch to batch before others have their turn."""

_AWAY_PAUSE_S: Final = 0.5


class LaneMoved(ThreadlogError):
    """The lane's head is not where the load saw it: somebody appends without the lock."""


@dataclass(slots=True)
class _Waiting:
    command: Command
    answer: asyncio.Future[Appended]
    taken: float
    """When it was submitted, by the loop's clock."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A batch that was sent: its outcomes, and where one of its events must be if it was committed."""

    outcomes: list[Outcome]
    stream_id: UUID
    version: int
    event_id: UUID
    batch: Batch


@dataclass(frozen=True, slots=True)
class Committed:
    """What followers of an appender are told after each batch. Times in seconds."""

    lane: int
    commands: int
    events: int
    refusals: tuple[Refusal, ...]
    moved: list[UUID]
    seconds: float


class Appender:
    """Appends to one lane. Many may exist, in many processes; the lane's lock puts them in a row."""

    def __init__(
        self,
        database: str | Hosts,
        lane: int,
        *,
        on_committed: Callable[[Committed], None] = lambda _: None,
        max_batch: int = 200,
        max_queue: int = 4000,
        patience: float = 10.0,
    ) -> None:
        """`patience`: seconds from `submit` for which a command is tried again before it is answered with
        Unavailable. An attempt under way is not broken off: it has bounds of its own (SESSION)."""
        self.lane = lane
        self._hosts = Hosts.of(database)
        self._on_committed = on_committed
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._patience = patience
        self._queue: deque[_Waiting] = deque()
        self._filled = asyncio.Event()
        self._settings = SettingsCache()
        self._connection: asyncpg.Connection | None = None
        self._statements: dict[str, asyncpg.prepared_stmt.PreparedStatement] = {}
        self._task: asyncio.Task[None] | None = None
        # Kept, since to ask for the running loop is a system call (getpid, in CPython 3.11).
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._away = False
        self._held_since: float | None = None
        self._take = f"set idle_session_timeout = '{IDLE}';\n{self._on_lane('take_lane')}"
        self._give = f"{self._on_lane('give_lane')};\nset idle_session_timeout = 0"
        self._pass_on = f"{self._on_lane('give_lane')};\n{self._on_lane('take_lane')}"

    def _on_lane(self, statement: str) -> str:
        """A statement about the lane's lock as text, so that it can go together with others."""
        text = QUERIES[statement].replace("$1", str(int(LockClass.LANE))).replace("$2", str(self.lane))
        return text.rstrip(";\n ")

    @property
    def away(self) -> bool:
        """Whether it has lost patience with Postgres, and takes no commands until it is connected again."""
        return self._away

    @property
    def queued(self) -> int:
        """Commands that wait for their batch."""
        return len(self._queue)

    async def start(self) -> None:
        """Connect and begin to take commands. Raises what asyncpg raises where Postgres is away."""
        self._loop = asyncio.get_running_loop()
        await self._connect()
        self._task = asyncio.create_task(self._run(), name=f"appender-{self.lane}")

    async def stop(self) -> None:
        """Take no more, finish what was taken (or lose patience with it), disconnect."""
        self._stopping = True
        self._filled.set()
        if self._task is not None:
            await self._task
        await self._disconnect()

    async def submit(self, command: Command) -> Appended:
        """Append what `command` adds, durably.

        Raises the Refusal of the rules, Overloaded at once where the queue is full, Unavailable where
        Postgres did not answer in time (and at once as long as it is `away`), WriteFailed where it refused
        this command alone.
        """
        if self._stopping:
            raise Unavailable("this process is stopping")
        if self._away:
            raise _unavailable()
        if len(self._queue) >= self._max_queue:
            raise Overloaded("the write queue")
        loop = self._loop
        assert loop is not None, "not started"
        answer: asyncio.Future[Appended] = loop.create_future()
        if not self._queue:
            self._filled.set()
        self._queue.append(_Waiting(command, answer, loop.time()))
        return await answer

    async def _run(self) -> None:
        while True:
            if not self._queue and self._held_since is not None:
                await self._give_back()
                continue
            if not self._queue:
                if self._stopping:
                    return
                self._filled.clear()
                if self._away:
                    await self._look_again()
                else:
                    await self._filled.wait()
                continue
            count = min(len(self._queue), self._max_batch)
            batch = [self._queue.popleft() for _ in range(count)]
            batch = [waiting for waiting in batch if not waiting.answer.done()]
            if batch:
                await self._settle(batch)

    async def _look_again(self) -> None:
        """Try to connect, and wait a while where that fails."""
        try:
            await self._connect()
        except Exception:  # noqa: BLE001 - whatever keeps us from connecting, we are still away
            await self._disconnect()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AWAY_PAUSE_S):
                    await self._filled.wait()  # `stop` ends the wait

    async def _settle(self, waiting: Sequence[_Waiting]) -> None:
        """Give every command of a batch its answer, whatever happens to the connection."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        doubtful: _Attempt | None = None
        pause = 0.05
        while True:
            attempt: _Attempt | None = None
            try:
                await self._hold(await self._connect())
                if doubtful is not None and await self._was_committed(doubtful):
                    await self._replicate()
                    self._answer(waiting, doubtful, loop.time() - started)
                    return
                doubtful = None
                waiting = [one for one in waiting if not one.answer.done()]
                attempt = await self._decide(waiting)
                if attempt.batch.writes:
                    await self._append(attempt.batch)
                elif any(isinstance(outcome, Appended) for outcome in attempt.outcomes):
                    await self._replicate()
                self._answer(waiting, attempt, loop.time() - started)
                return
            except Exception as error:  # noqa: BLE001 - whatever it was, each command gets its answer
                await self._disconnect()
                if doubtful is None and not is_lost(error):
                    await self._isolate(waiting, error)
                    return
                doubtful = doubtful or attempt
                _log.warning("lane %d: %s", self.lane, type(error).__name__)
                self._lose_patience(waiting)
                if all(one.answer.done() for one in waiting):
                    return
                await asyncio.sleep(pause)  # backoff between attempts to reach Postgres
                pause = min(pause * 2, 1.0)

    async def _hold(self, connection: asyncpg.Connection) -> None:
        """Hold the lane, waiting for it if need be; at the end of a turn, let others have it first."""
        now = asyncio.get_running_loop().time()
        if self._held_since is None:
            await connection.execute(self._take)
        elif now - self._held_since > _TURN_S:
            await connection.execute(self._pass_on)
        else:
            return
        self._held_since = asyncio.get_running_loop().time()

    async def _give_back(self) -> None:
        """Leave the lane to others: no command waits."""
        self._held_since = None
        if self._connection is None or self._connection.is_closed():
            return  # the lock went with it
        try:
            await self._connection.execute(self._give)
        except Exception as error:  # noqa: BLE001 - then the lock goes with the connection
            _log.warning("lane %d: %s", self.lane, type(error).__name__)
            await self._disconnect()

    def _lose_patience(self, waiting: Sequence[_Waiting]) -> None:
        """After a failed attempt: answer what waits for too long, of the batch and of the queue."""
        oldest = asyncio.get_running_loop().time() - self._patience
        late = [one for one in waiting if one.taken < oldest]
        while self._queue and self._queue[0].taken < oldest:
            late.append(self._queue.popleft())
        if late:
            self._away = True
            _fail(late, _unavailable())

    async def _isolate(self, waiting: Sequence[_Waiting], error: Exception) -> None:
        """Find the command that a batch failed of, so that the others do not fail with it.

        Only the kind of error is told: its message may quote what somebody wrote.
        """
        kind = f"{type(error).__name__} {getattr(error, 'sqlstate', '')}".strip()
        if len(waiting) == 1:
            _log.error("lane %d: a command failed: %s", self.lane, kind)
            _fail(waiting, WriteFailed(kind))
            return
        _log.warning("lane %d: a batch of %d failed: %s; one by one", self.lane, len(waiting), kind)
        rest = deque(waiting)
        while rest:
            await self._settle([rest.popleft()])
            if self._away:
                self._lose_patience(rest)
                # Those that may still wait do so where the next failure finds them.
                self._queue.extendleft(reversed(rest))
                return

    async def _decide(self, waiting: Sequence[_Waiting]) -> _Attempt:
        needs = needs_of(one.command for one in waiting)
        reports = sorted(needs.reports)
        votes = sorted(needs.votes)
        loaded = await self._statement("load").fetchrow(
            self.lane,
            list(needs.streams),
            list(needs.comments),
            [comment_id for comment_id, _ in reports],
            [reporter_id for _, reporter_id in reports],
            list(needs.key_macs),
            list(needs.keys),
            [comment_id for comment_id, _ in votes],
            [voter_id for _, voter_id in votes],
            list(needs.parents),
        )
        assert loaded is not None
        batch = Batch(tuple(loaded), self.lane, self._settings)
        outcomes = [batch.run(one.command) for one in waiting]
        if batch.events:
            first = batch.events[0]
            return _Attempt(outcomes, first.stream_id, first.version, first.event_id, batch)
        return _Attempt(outcomes, NIL, 0, NIL, batch)

    async def _append(self, batch: Batch) -> None:
        """Write the batch, durably or not at all."""
        try:
            await self._statement("append").fetchval(*batch.arguments())
        except asyncpg.DivisionByZeroError as error:
            raise LaneMoved(f"lane {self.lane} moved under its lock") from error

    async def _replicate(self) -> None:
        """Before what others have written is acknowledged: wait until the standbys have it too.

        A commit whose wait for them was broken off (its session was ended, a statement was cancelled, the
        server began again) is there to be read, and may yet be lost.
        """
        await self._statement("replicate").fetch(self.lane)

    async def _was_committed(self, attempt: _Attempt) -> bool:
        found = await self._statement("event_at").fetchval(attempt.stream_id, attempt.version)
        return bool(found == attempt.event_id)

    def _answer(self, waiting: Sequence[_Waiting], attempt: _Attempt, seconds: float) -> None:
        for one, outcome in zip(waiting, attempt.outcomes, strict=True):
            if one.answer.done():
                continue
            if isinstance(outcome, Appended):
                one.answer.set_result(outcome)
            else:
                one.answer.set_exception(outcome)
        refusals = tuple(outcome for outcome in attempt.outcomes if isinstance(outcome, Refusal))
        told = Committed(
            self.lane, len(waiting), len(attempt.batch.events), refusals, attempt.batch.moved, seconds
        )
        try:
            self._on_committed(told)
        except Exception:  # noqa: BLE001 - the commands are in the log and answered, whatever a follower does
            _log.exception("lane %d: a follower of the appender failed", self.lane)

    async def _connect(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._statements.clear()
            self._held_since = None
            self._connection = await self._hosts.connect(
                server_settings=SESSION, timeout=5, command_timeout=10, statement_cache_size=0
            )
            for name in ("load", "append", "event_at", "replicate"):
                self._statements[name] = await self._connection.prepare(QUERIES[name], name=name)
            self._away = False
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._held_since = None
        if connection is not None:
            with contextlib.suppress(*LOST, asyncpg.PostgresError):
                connection.terminate()

    def _statement(self, name: str) -> Any:
        return self._statements[name]


def _unavailable() -> Unavailable:
    return Unavailable("the log does not answer", retry_after=2)


def _fail(waiting: Sequence[_Waiting], error: ThreadlogError) -> None:
    for one in waiting:
        if not one.answer.done():
            one.answer.set_exception(error)
