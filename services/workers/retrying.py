"""Dead letters at an operator's word: tried again, whatever release left them, or passed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from services.errors import PoisonEvent, UnknownEventType
from services.eventlog.checkpoints import DeadLetter, DeadLetters, Projection
from services.projection.advance import Projector
from services.workers.notifier import Notifier
from services.workers.projector import Following


class Became(StrEnum):
    """What became of a dead letter."""

    CAUGHT_UP = "caught up"
    PARKED = "parked again"
    WAITS = "waits for a newer release"


@dataclass(frozen=True, slots=True)
class Retried:
    """A dead letter that was tried again: `version` is the one that the projection reached, or stands before;
    `error` is what stopped it there."""

    became: Became
    version: int
    error: str | None = None


class Retrying:
    """Does what the workers would do for a thread that is not parked, in this process."""

    def __init__(
        self,
        projector: Projector,
        notifier: Notifier,
        letters: DeadLetters,
        announce: Callable[[UUID, int], None],
    ) -> None:
        """`letters` names the release of this process; `announce` as of `Following`."""
        self._following = Following(projector, letters, announce=announce)
        self._notifier = notifier
        self._letters = letters

    async def retry(self, letter: DeadLetter) -> Retried:
        """Try again what the letter stands for. Raises whatever fault keeps that from being known."""
        try:
            if letter.projection is Projection.VIEW:
                head = await self._following.retry(letter.stream_id)
                version = 0 if head is None else head.version
                if head is not None and head.stale:  # another process has parked it meanwhile
                    return Retried(Became.PARKED, version + 1)
                return Retried(Became.CAUGHT_UP, version)
            return Retried(Became.CAUGHT_UP, await self._notify(letter))
        except UnknownEventType as error:
            return Retried(Became.WAITS, error.version, error.reason)
        except PoisonEvent as error:
            return Retried(Became.PARKED, error.version, error.reason)

    async def discard(self, letter: DeadLetter, reason: str) -> Retried:
        """Pass over the event of a letter of notifications, record it, and go on behind it.

        Raises LetterMoved, and as `retry`.
        """
        await self._letters.discard(letter, reason)
        return await self.retry(letter)

    async def _notify(self, letter: DeadLetter) -> int:
        try:
            await self._notifier.notify(letter.stream_id)
        except UnknownEventType as error:
            await self._letters.resurrect(letter.projection, letter.stream_id, error.version - 1)
            raise
        except PoisonEvent as error:
            await self._letters.bury(letter.projection, error)
            raise
        reached = await self._notifier.reached(letter.stream_id)
        await self._letters.resurrect(letter.projection, letter.stream_id, reached)
        return reached
