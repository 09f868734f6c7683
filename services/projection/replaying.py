"""The work of a replay: range by range, each leased, replayed some threads at a time, and checkpointed.

Any number of tasks, processes and machines do this for one replay at once. Whoever is killed, frozen or
paused has its range taken up from the last checkpoint, so that a thread is replayed once more at most where
somebody was in the middle of it; that changes nothing, but costs its time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar
from uuid import UUID, uuid4

import asyncpg
from redis.exceptions import RedisError

from services.errors import PoisonEvent, Unavailable, UnknownEventType, where
from services.eventlog.checkpoints import DeadLetters, Projection
from services.eventlog.replays import LEASE_S, Logged, Range, Replay, Replays, State, Step
from services.eventlog.state import Difference
from services.projection.replay import TOGETHER, Replayed, Replayer, is_rebuilt
from services.projection.verify import Verifier

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

PAGE: Final = 64
"""Streams between two checkpoints, at most."""

EVENTS: Final = 4_000
"""Events of short threads that are replayed together, at most, beside one thread's."""

_AWAY: Final = (Unavailable, RedisError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What goes by, or is no single thread's fault."""

_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each next try of what did not answer."""

_BUSY_S: Final = (0.2, 1.0, 1.0)

_PIECE_S: Final = 0.5


@dataclass(slots=True)
class _Lease:
    """A range that this task holds, unless it was lost, or the replay does not run any more."""

    range: Range
    state: State | None = State.RUNNING

    @property
    def holds(self) -> bool:
        return self.state is State.RUNNING


class ReplayWork:
    """Does the work of replays, for one process."""

    def __init__(
        self, replays: Replays, replayer: Replayer, verifier: Verifier, letters: DeadLetters
    ) -> None:
        self._replays = replays
        self._replayer = replayer
        self._verifier = verifier
        self._letters = letters
        self._stopping = False
        self._long = asyncio.Semaphore(1)
        """One long thread at a time: it is folded whole in memory."""

    def stop(self) -> None:
        """Give back what is leased, after the threads that are under way."""
        self._stopping = True

    async def all(self, replay: Replay, at_once: int) -> None:
        """Work on ranges, so many at a time, until the replay runs no more or `stop` is called.

        Raises what a dependency that stays away raises; the replay may be resumed then.
        """
        done = await asyncio.gather(*(self._ranges(replay) for _ in range(at_once)), return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _ranges(self, replay: Replay) -> None:
        try:
            await self._each_range(replay)
        except Exception:
            self.stop()  # what ends one of them would end the others
            raise

    async def _each_range(self, replay: Replay) -> None:
        while not self._stopping:
            if await self.one(replay):
                continue
            # What others hold may fall to us, should they be gone.
            await self._replays.finish(replay.id)
            now = await self._replays.one(replay.id)
            if now is None or now.state is not State.RUNNING:
                return
            await asyncio.sleep(_PIECE_S)

    async def one(self, replay: Replay) -> bool:
        """Work on one range that nobody works on; whether there was one."""
        mine = await self._replays.claim(replay.id, uuid4())
        if mine is None:
            return False
        lease = _Lease(mine)
        async with self._kept(lease):
            if mine.last is None:
                await self._strays(replay, lease)
            else:
                await self._range(replay, lease, mine.last)
        return True

    @asynccontextmanager
    async def _kept(self, lease: _Lease) -> AsyncIterator[None]:
        """Renew the lease meanwhile, and give back what is not done."""
        renewing = asyncio.create_task(self._renew(lease))
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            with suppress(*_AWAY):  # it runs out by itself
                await self._replays.give_back(lease.range)

    async def _renew(self, lease: _Lease) -> None:
        while lease.holds:
            await asyncio.sleep(LEASE_S / 4)
            with suppress(*_AWAY):
                lease.state = await self._replays.renew(lease.range)

    async def _range(self, replay: Replay, lease: _Lease, last: UUID) -> None:
        behind = lease.range.done_through
        while lease.holds and not self._stopping:
            found = await self._insist(
                replay, lease, partial(self._replays.streams, replay.selected, behind, last, PAGE)
            )
            if found is None:
                return
            streams, through = found
            if replay.max_rate is not None and not await self._paid(replay, lease, streams):
                return
            step = await self._insist(replay, lease, partial(self._replay, replay, streams, through or last))
            if step is None:
                return
            lease.state = await self._replays.checkpoint(lease.range, step, ends=through is None)
            if through is None:
                await self._replays.finish(replay.id)
                return
            behind = through

    async def _strays(self, replay: Replay, lease: _Lease) -> None:
        rows = await self._insist(replay, lease, lambda: self._replayer.remove_strays(keys=replay.differing))
        if rows is None:
            return
        step = Step(lease.range.done_through, 0, 0, 0, rows, ())
        await self._replays.checkpoint(lease.range, step, ends=True)
        await self._replays.finish(lease.range.replay_id)

    async def _paid(self, replay: Replay, lease: _Lease, streams: Sequence[Logged]) -> bool:
        """Wait for the turn of these events; whether the range is held by then."""
        events = sum(one.version or 0 for one in streams)
        until = time.monotonic() + (await self._replays.pay(replay.id, events) if events else 0.0)
        while lease.holds and not self._stopping:
            left = until - time.monotonic()
            if left <= 0:
                return True
            await asyncio.sleep(min(left, _PIECE_S))
        return False

    async def _insist(self, replay: Replay, lease: _Lease, attempt: Callable[[], Awaitable[_T]]) -> _T | None:
        """Do it again where something was away; None where the range is held no more."""
        for pause in (*_PAUSES_S, None):
            try:
                return await attempt()
            except _AWAY as error:
                if pause is None:
                    raise
                _log.warning("replay %d waits: %s", replay.id, error)
                await asyncio.sleep(pause)
                if not lease.holds or self._stopping:
                    return None
        return None

    async def _replay(self, replay: Replay, streams: Sequence[Logged], through: UUID) -> Step:
        chosen = await self._differing(streams) if replay.differing else list(streams)
        outcomes: list[Replayed] = []
        for batch in _batches([one for one in chosen if _is_short(one)]):
            outcomes += await self._together(batch)
        for one in chosen:
            if not _is_short(one):
                outcomes.append(await self._patiently(one))
        sites = {one.stream_id for one in chosen if one.is_site}
        failed = [
            await self._failed(one, one.error, thread=one.stream_id not in sites)
            for one in outcomes
            if one.error is not None
        ]
        stopped = {stream_id for stream_id, _ in failed}
        # Of a thread whose row was lost it is known only now how long it is.
        versions = {one.stream_id: one.version for one in outcomes if one.version}
        return Step(
            through=through,
            threads=sum(not one.is_site for one in streams),
            rebuilt=sum(not one.is_site and one.stream_id not in stopped for one in chosen),
            events=sum(versions.get(one.stream_id, one.version or 0) for one in streams if not one.is_site),
            repaired=sum(one.rows for one in outcomes),
            failed=failed,
        )

    async def _differing(self, streams: Sequence[Logged]) -> list[Logged]:
        """Those of these streams that are not as the log has them, and those that cannot be folded."""
        found: set[UUID] = set()
        for batch in _batches([one for one in streams if not one.is_site]):
            ids = [one.stream_id for one in batch]
            try:
                checked = await self._verifier.threads(ids)
            except Unavailable:
                found.update(ids)  # one of them is replaced faster than it can be compared
            else:
                found.update(one.stream_id for one in checked if any(map(_concerns, one.differences)))
        for one in streams:
            if one.is_site and any(map(_concerns, await self._verifier.site(one.stream_id))):
                found.add(one.stream_id)
        return [one for one in streams if one.stream_id in found]

    async def _together(self, batch: list[Logged]) -> list[Replayed]:
        try:
            done = await self._replayer.replay_together([one.stream_id for one in batch])
            named = {one.stream_id: one for one in batch}
            return [
                await self._patiently(named[one.stream_id]) if isinstance(one.error, Unavailable) else one
                for one in done
            ]
        except _AWAY:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, it is told of the one whose it is
            _log.debug("threads are replayed one by one: %s", where(error))
            return [await self._patiently(one) for one in batch]

    async def _patiently(self, one: Logged) -> Replayed:
        """As `_alone`, some times, where others always wrote the thread's view first."""
        done = await self._alone(one)
        for pause in _BUSY_S:
            if not isinstance(done.error, Unavailable):
                break
            await asyncio.sleep(pause)
            done = await self._alone(one)
        return done

    async def _alone(self, one: Logged) -> Replayed:
        replay = self._replayer.site if one.is_site else self._replayer.replay
        try:
            if one.version is not None and one.version <= TOGETHER:
                return await replay(one.stream_id)
            async with self._long:
                return await replay(one.stream_id)
        except _AWAY as error:
            if not isinstance(error, Unavailable):
                raise
            return Replayed(one.stream_id, 0, 0, error=error)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other threads go on
            return Replayed(one.stream_id, 0, 0, error=error)

    async def _failed(self, one: Replayed, error: Exception, *, thread: bool) -> tuple[UUID, str]:
        if isinstance(error, PoisonEvent):
            if thread and not isinstance(error, UnknownEventType):
                await self._letters.bury(Projection.VIEW, error)
            return one.stream_id, f"version {error.version}: {error.reason}"
        known = isinstance(error, _AWAY)
        _log.warning("%s was not replayed: %s", one.stream_id, error if known else where(error))
        return one.stream_id, str(error) if known else where(error)


def _concerns(difference: Difference) -> bool:
    return is_rebuilt(difference) or difference.kind == "event"


def _is_short(one: Logged) -> bool:
    return one.key is not None and one.version is not None and one.version <= TOGETHER


def _batches(streams: Sequence[Logged]) -> Iterator[list[Logged]]:
    """These streams, so many at a time that their events are not too many."""
    batch: list[Logged] = []
    events = 0
    for one in streams:
        events += one.version or 0
        if batch and events > EVENTS:
            yield batch
            batch, events = [], one.version or 0
        batch.append(one)
    if batch:
        yield batch
