"""Gathering votes: a comment's tally is told at once, and then at most once a second.

A tally that waits is told with the version that the stream has reached by then, since ids never go back. Who
is cut off while one waits has that version already: after a resume, tallies that may have waited are told
again. So a tally may come twice, which changes nothing, and is never missed. The look back is short: a vote
waits only after another one on the same comment, at most 5 seconds older by the log's clock, and while
nothing is told that is 5 seconds or 1,000 versions younger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from services.api.live.frames import MODERATORS_ONLY, VOTED, Note

GATHER_S: Final = 1.0
"""Seconds between two tallies of one comment."""
LATELY_S: Final = 5.0
"""Seconds of the log's clock, see above."""
LATELY: Final = 1000
"""Versions, see above."""

_LATELY: Final = timedelta(seconds=LATELY_S)


class Votes:
    """The tallies of one thread that wait, and when each was told."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[UUID, tuple[float, datetime]] = {}
        """When a tally was told, and when the last vote in it was recorded."""
        self._waiting: dict[UUID, tuple[float, int, datetime]] = {}
        """When each is due, and the version and time of the first vote that it stands for."""

    def pass_on(self, notes: Sequence[Note], last: Note) -> list[Note]:
        """Of the events up to `last`, those to be told now; votes that came too soon wait."""
        now = self._clock()
        passed = []
        for note in notes:
            comment_id = note.comment_id
            if comment_id is None or note.type != VOTED:
                if comment_id is not None and note.type not in MODERATORS_ONLY:
                    self._waiting.pop(comment_id, None)  # whoever is told this sees the tally too
                passed.append(note)
            elif comment_id in self._waiting:
                continue
            elif self._waits(comment_id, note, last, now):
                due = self._told[comment_id][0] + GATHER_S
                self._waiting[comment_id] = (due, note.version, note.recorded_at)
            else:
                self._told[comment_id] = (now, note.recorded_at)
                passed.append(note)
        return passed

    def _waits(self, comment_id: UUID, note: Note, last: Note, now: float) -> bool:
        told = self._told.get(comment_id)
        return (
            told is not None
            and now - told[0] < GATHER_S
            and note.recorded_at - told[1] <= _LATELY
            and last.recorded_at - note.recorded_at <= _LATELY
            and last.version - note.version < LATELY
        )

    def overdue(self, last: Note) -> list[UUID]:
        """Those that may wait no longer once `last` is told."""
        return self._take(
            [
                comment_id
                for comment_id, (_, version, recorded_at) in self._waiting.items()
                if last.recorded_at - recorded_at > _LATELY or last.version - version >= LATELY
            ]
        )

    def due(self) -> list[UUID]:
        """Those that have waited for long enough."""
        now = self._clock()
        return self._take([one for one, (when, _, _) in self._waiting.items() if when <= now])

    def _take(self, ids: list[UUID]) -> list[UUID]:
        now = self._clock()
        for comment_id in ids:
            self._told[comment_id] = (now, self._waiting.pop(comment_id)[2])
        return ids

    def wait(self) -> float | None:
        """Seconds until one is due; None where none waits. What is remembered without need is forgotten."""
        now = self._clock()
        self._told = {one: told for one, told in self._told.items() if now - told[0] < GATHER_S}
        if not self._waiting:
            return None
        return max(0.0, min(when for when, _, _ in self._waiting.values()) - now)


def may_have_waited(votes: Sequence[tuple[UUID, datetime]], reached: datetime) -> list[UUID]:
    """Of the comments voted on, those whose tally may not have been told when an event that was recorded at
    `reached` was. `votes` are those of the last `2 * LATELY_S` seconds, oldest first."""
    latest: dict[UUID, datetime] = {}
    waited: dict[UUID, None] = {}
    for comment_id, recorded_at in votes:
        before = latest.get(comment_id)
        if before is not None and recorded_at - before <= _LATELY and reached - recorded_at <= _LATELY:
            waited[comment_id] = None
        latest[comment_id] = recorded_at
    return list(waited)
