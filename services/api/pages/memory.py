"""The answers of one process to anonymous readers, by everything that they depend on.

An answer is read once for each change of its thread, however many ask, and compressed once in each coding
that somebody takes. What only some may see never comes here: every entry is what everybody sees.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final
from uuid import UUID

from services.api.pages.encodings import Coding, encoded
from services.api.pages.freshness import AHEAD_S, FRESH_S, GRACE_S, NEVER, Looks, SeenHead, Stamp, Watched

HEADS: Final = 4
"""Heads of answers that an entry keeps ready, of half a kilobyte each."""
_OVERHEAD: Final = 4096
"""Bytes that an entry is counted as beside its bodies."""
IDLE_S: Final = 20.0
"""Seconds for which an answer is remembered that nobody asks for. No text stays for longer than that after
its view lost it: an erasure is not told to those who remember."""
_INLINE: Final = 16 * 1024
"""Bytes of the largest body that is compressed on the event loop, in a fraction of a millisecond."""
_SHARE: Final = 8
"""No entry takes more than this part of the memory."""
_RESTING: Final = 2_000_000
"""Bytes of an answer that rests for a second, if it were let; to make so many takes some 30 ms."""
REST_S: Final = 0.25
"""Seconds for which the largest answer rests."""

Reading = Callable[[int | None], Awaitable["Read"]]
"""Reads an answer whose thread is at that version or later."""


@dataclass(frozen=True, slots=True)
class Read:
    """An answer as it was read: `body` is for everybody, `tag` its ETag without quotes and coding, `stale`
    whether it is marked so. `apart` are the authors who are shown something else (None: it is not known who).
    """

    head: SeenHead
    body: bytes
    tag: str
    stale: bool = False
    apart: frozenset[str] | None = None


class Entry:
    """An answer that is remembered. It never changes, but for what is made of its body on demand. `serial` is
    a number that no other has, from 1.

    It rests until `rests`: it is used until then, though its thread has moved on, so that a thread that moves
    all the time does not have its pages made all the time. From `due` on the next one is made. That is the
    longer the larger the answer is; a small one does not rest at all.
    """

    __slots__ = (
        "_bodies",
        "_making",
        "apart",
        "body",
        "due",
        "heads",
        "rests",
        "serial",
        "slot",
        "stale",
        "stamp",
        "tag",
        "version",
    )

    def __init__(self, read: Read, stamp: Stamp, serial: int, asked: float = NEVER) -> None:
        """`asked` is when its reading began; it does not rest where that is not told."""
        rest = min(len(read.body) / _RESTING, REST_S)
        self.rests = asked + rest
        self.due = asked + rest / 2
        self.serial = serial
        self.version = read.head.version
        self.body = read.body
        self.tag = read.tag
        self.stale = read.stale
        self.apart = read.apart
        self.stamp = stamp
        self.slot: Slot | None = None
        self.heads: dict[Hashable, bytes] = {}
        """What stands above the body, by what it depends on (`services.api.pages.wire`)."""
        self._bodies: dict[Coding, bytes] = {"identity": read.body}
        self._making: dict[Coding, asyncio.Task[bytes]] = {}

    @property
    def weight(self) -> int:
        """Bytes that it holds."""
        return _OVERHEAD + sum(map(len, self._bodies.values()))

    def is_shared_with(self, author_id: str) -> bool:
        """Whether this author is shown the same as everybody."""
        return self.apart is not None and author_id not in self.apart

    def made(self, coding: Coding) -> bytes | None:
        """The body in that coding, if it was asked for before."""
        return self._bodies.get(coding)

    async def make(self, coding: Coding, ended: Callable[[Entry], None]) -> bytes:
        """The body in that coding, made once: a large one in a thread of its own. `ended` is called then."""
        making = self._making.get(coding)
        if making is None:
            making = asyncio.get_running_loop().create_task(self._make(coding, ended))
            self._making[coding] = making
        return await asyncio.shield(making)

    async def _make(self, coding: Coding, ended: Callable[[Entry], None]) -> bytes:
        try:
            if len(self.body) > _INLINE:
                made = await asyncio.to_thread(encoded, self.body, coding)
            else:
                made = encoded(self.body, coding)
        finally:
            del self._making[coding]
        self._bodies[coding] = made
        ended(self)
        return made


class Slot:
    """The place of an answer. Its entry changes with its thread, and is None once it is forgotten. `reading`
    reads the next one."""

    __slots__ = ("entry", "key", "reading", "thread", "weight")

    def __init__(self, key: Hashable, thread: Watched, reading: Reading) -> None:
        self.key = key
        self.thread = thread
        self.reading = reading
        self.entry: Entry | None = None
        self.weight = 0


class PageMemory:
    """Remembers answers in at most `limit` bytes, those used last."""

    def __init__(
        self,
        limit: int,
        heads: Callable[[Collection[UUID]], Awaitable[Mapping[UUID, SeenHead]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`heads` reads the heads of views from Redis; `clock` tells seconds, as `time.monotonic`."""
        self._limit = limit
        self.clock = clock
        self.looks = Looks(heads, clock)
        self._slots: OrderedDict[Hashable, Slot] = OrderedDict()
        self._threads: dict[UUID, Watched] = {}
        self._reading: dict[tuple[Hashable, int | None], asyncio.Task[Entry]] = {}
        self._serials = count(1)
        self._sweeping: asyncio.TimerHandle | None = None
        self.held = 0
        """Bytes that are remembered."""
        self.reads = 0
        """How many answers were read, since none that was remembered would do."""
        self.compressions = 0
        """How many bodies were compressed."""

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        """Those that were used least first."""
        return iter(self._slots.values())

    def slot(self, key: Hashable) -> Slot | None:
        """The place of the answer with that key, where it is remembered."""
        return self._slots.get(key)

    def used(self, slot: Slot) -> None:
        """The slot's entry was used: it is forgotten after all others."""
        if slot.entry is not None:
            self._slots.move_to_end(slot.key)

    def ready(self, slot: Slot, now: float, coding: Coding) -> Entry | None:
        """The slot's entry where it will do at once. If it soon will not do, its thread is looked at, and,
        once that has moved, the next entry is read, with its body in that coding; nobody waits for that."""
        entry = slot.entry
        if entry is None:
            return None
        age = now - entry.stamp.checked
        if age > FRESH_S and now > entry.rests:
            return None
        if age > AHEAD_S and now >= entry.due and entry.version:
            if slot.thread.stamp is entry.stamp:
                self.looks.ahead(slot.thread)
            elif not entry.stale:
                self._flight(slot.key, slot.thread.stream_id, slot.reading, None, coding)
        return entry

    async def get(
        self, key: Hashable, stream_id: UUID, read: Reading, min_version: int | None = None
    ) -> Entry:
        """The answer with that key, of that thread, at `min_version` or later.

        Where none that is remembered will do it is read, once for all who ask meanwhile. What `read` raises
        is raised to all of them, and not remembered.
        """
        slot = self._slots.get(key)
        if slot is not None:
            self._slots.move_to_end(key)
            entry = await self._remembered(slot, min_version)
            if entry is not None:
                return entry
        return await asyncio.shield(self._flight(key, stream_id, read, min_version, "identity"))

    async def body(self, entry: Entry, coding: Coding) -> bytes:
        """The entry's body in that coding."""
        made = entry.made(coding)
        return await entry.make(coding, self._compressed) if made is None else made

    def opened(self, streams: Collection[UUID]) -> None:
        """This process has added to these threads: what is remembered as empty is so no more."""
        for stream_id in streams:
            thread = self._threads.get(stream_id)
            if thread is not None and thread.stamp is not None and not thread.stamp.version:
                thread.stamp.checked = NEVER
                thread.missed(self.clock())

    async def _remembered(self, slot: Slot, min_version: int | None) -> Entry | None:
        """The slot's entry where it will do."""
        arrived = self.clock()
        entry = slot.entry
        if entry is None or entry.version < (min_version or 0):
            return None
        if arrived - entry.stamp.checked <= FRESH_S or arrived <= entry.rests:
            return entry
        if not entry.version:
            return None  # a thread that has no events has no head either
        told = await self.looks.look(slot.thread)
        entry = slot.entry
        if entry is None or entry.version < (min_version or 0):
            return None
        checked = entry.stamp.checked
        if checked >= arrived or self.clock() - checked <= (FRESH_S if told else GRACE_S):
            return entry
        return None

    def _flight(
        self, key: Hashable, stream_id: UUID, read: Reading, min_version: int | None, coding: Coding
    ) -> asyncio.Task[Entry]:
        """The reading of an answer, one for all who ask meanwhile."""
        flight = (key, min_version)
        reading = self._reading.get(flight)
        if reading is None:
            reading = asyncio.get_running_loop().create_task(
                self._read(key, stream_id, read, min_version, coding)
            )
            self._reading[flight] = reading
            reading.add_done_callback(lambda done: self._ended(flight, done))
        return reading

    async def _read(
        self, key: Hashable, stream_id: UUID, reading: Reading, min_version: int | None, coding: Coding
    ) -> Entry:
        self.reads += 1
        asked = self.clock()
        read = await reading(min_version)
        thread = self._threads.get(stream_id) or Watched(stream_id)
        if read.stale and not read.head.stale:
            # From the log, while Redis is away: once it is back, its head is another, and this is read anew.
            stamp = Stamp(read.head, asked, stale=True)
        else:
            stamp = thread.saw(read.head, asked)
        lasts = read.head.version and not read.stale
        entry = Entry(read, stamp, next(self._serials), asked if lasts else NEVER)
        if coding != "identity":
            await self.body(entry, coding)
        self._keep(key, thread, entry, reading)
        return entry

    def _ended(self, flight: tuple[Hashable, int | None], done: asyncio.Task[Entry]) -> None:
        del self._reading[flight]
        if not done.cancelled():
            done.exception()  # whoever waited has it; where nobody does any more, nobody needs to hear of it

    def _keep(self, key: Hashable, thread: Watched, entry: Entry, reading: Reading) -> None:
        if entry.weight > self._limit // _SHARE:
            return
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = Slot(key, thread, reading)
            if self._sweeping is None:
                self._sweeping = asyncio.get_running_loop().call_later(IDLE_S, self._sweep)
            thread.answers += 1
            self._threads[thread.stream_id] = thread
        self._slots.move_to_end(key)
        if slot.entry is not None and slot.entry.stamp.checked > entry.stamp.checked:
            return  # another read of it, which began later, was faster
        slot.entry, entry.slot = entry, slot
        self._weigh(slot)

    def _compressed(self, entry: Entry) -> None:
        self.compressions += 1
        if entry.slot is not None and entry.slot.entry is entry:
            self._weigh(entry.slot)

    def _weigh(self, slot: Slot) -> None:
        """Count what the slot holds now, and make room for it."""
        weight = 0 if slot.entry is None else slot.entry.weight
        self.held += weight - slot.weight
        slot.weight = weight
        while self.held > self._limit and self._slots:
            self._forget(self._slots.popitem(last=False)[1])

    def sweep(self) -> None:
        """Forget what was not compared with its view for long: nobody asked for it."""
        since = self.clock() - IDLE_S
        for slot in [one for one in self if one.entry is None or one.entry.stamp.checked < since]:
            del self._slots[slot.key]
            self._forget(slot)

    def _sweep(self) -> None:
        self._sweeping = None
        self.sweep()
        if self._slots:
            self._sweeping = asyncio.get_running_loop().call_later(IDLE_S, self._sweep)

    def _forget(self, slot: Slot) -> None:
        self.held -= slot.weight
        slot.entry, slot.weight = None, 0
        slot.thread.answers -= 1
        if not slot.thread.answers and self._threads.get(slot.thread.stream_id) is slot.thread:
            del self._threads[slot.thread.stream_id]  # two that began at once may each have made their own
