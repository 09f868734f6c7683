"""Following the whole log: every event once, in the order of its lane, whoever writes meanwhile.

Positions become visible in order within a lane, and not between lanes. So whoever follows keeps one position
for each lane, and never passes over what is still to be committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Final

from schema.events.envelope import Recorded
from services.errors import CursorInvalid, StreamBroken
from services.eventlog.log import EventLog

PAGE: Final = 500
"""Events that `walk` reads at once."""

SLICE: Final = 100
"""Events of one lane that `stretch` reads at once."""

BYTES: Final = 4 << 20
"""Bytes of payloads in one stretch, beside a single larger one."""

WINDOW: Final = 20_000
"""Positions of a lane that are looked through at once for the events of one site."""

LOOKED: Final = 200_000
"""Positions that one stretch looks through for the events of one site, about."""


async def walk(
    log: EventLog, cursors: dict[int, int], to: Mapping[int, int] | None = None
) -> AsyncGenerator[list[Recorded], None]:
    """The events behind `cursors` (lane to position), lane by lane, up to the end or `to`.

    A cursor moves once the caller is done with the events that it was given, and asks for more: who fails in
    between is given them again. A gap is no event that is still to come, but a broken log. Raises
    StreamBroken; CursorInvalid where a lane ends before its cursor: the log was set back.
    """
    heads = await log.lanes() if to is None else to
    for lane in list(cursors):
        if heads.get(lane, 0) < cursors[lane]:
            raise CursorInvalid(f"lane {lane} ends before position {cursors[lane]}: the log was set back")
        while cursors[lane] < heads[lane]:
            events = await log.by_position(lane, cursors[lane], min(PAGE, heads[lane] - cursors[lane]))
            reached = _dense(lane, cursors[lane], events)
            if not events:
                break
            yield events
            cursors[lane] = reached


def _dense(lane: int, position: int, events: list[Recorded]) -> int:
    """The last position of events that follow `position`. Raises StreamBroken where one is missing."""
    for event in events:
        if event.position != position + 1:
            reason = f"lane {lane} goes from position {position} to {event.position}"
            raise StreamBroken(event.stream_id, event.version, reason)
        position = event.position
    return position


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some events that follow each other, and where to go on: the position of each lane."""

    events: list[Recorded]
    positions: dict[int, int]


@dataclass(slots=True)
class _Lane:
    """One lane of a stretch: what was read of it and is not given yet, and how far it was read."""

    number: int
    read: int
    head: int
    waiting: deque[Recorded] = field(default_factory=deque)

    @property
    def position(self) -> int:
        """Up to where everything was given, or is of no interest."""
        return self.waiting[0].position - 1 if self.waiting else self.read


async def stretch(log: EventLog, after: Mapping[int, int], limit: int, site: str | None = None) -> Stretch:
    """The next events behind `after` (lane to position), at most `limit` of them, of one site or of all.

    Lanes are merged by the time that their events were recorded, and each keeps its order. Without events the
    log has no more for now; of one site, that may also mean that many events of others were passed over: the
    positions have moved. Raises CursorInvalid where a lane ends before its position, StreamBroken.
    """
    heads = await log.lanes()
    lanes = [_Lane(lane, after.get(lane, 0), head) for lane, head in heads.items()]
    if any(lane.read > lane.head for lane in lanes) or after.keys() - heads.keys():
        raise CursorInvalid("the log ends before this cursor: it was restored, or is another log")
    found: list[Recorded] = []
    size = looked = 0
    while len(found) < limit and size < BYTES:
        for lane in lanes:
            while not lane.waiting and lane.read < lane.head and looked < LOOKED:
                looked += await _read(log, lane, min(limit, SLICE), site)
        ready = [lane for lane in lanes if lane.waiting]
        if not ready:
            break
        event = min(ready, key=lambda lane: lane.waiting[0].recorded_at).waiting.popleft()
        found.append(event)
        size += len(event.data) + len(event.sealed or b"")
    return Stretch(found, {lane.number: lane.position for lane in lanes})


async def _read(log: EventLog, lane: _Lane, limit: int, site: str | None) -> int:
    """Read on in a lane; how many positions were looked through for a site."""
    before = lane.read
    if site is None:
        events = await log.by_position(lane.number, before, min(limit, lane.head - before))
        lane.read = _dense(lane.number, before, events)
        looked = 0
    else:
        events, to = await log.of_site(site, lane.number, before, min(lane.head, before + WINDOW), limit)
        lane.read = events[-1].position if len(events) == limit else to
        looked = lane.read - before
    if lane.read == before:  # a standby that is behind the one that told of the head
        lane.head = before
    lane.waiting.extend(events)
    return looked
