"""A thread folded whole in memory, and what was read of it so far.

Readers who ask at the same moment share one: a page that several ask for is picked once, and its texts are
opened and rendered once.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final
from uuid import UUID

from schema.events.envelope import Recorded
from services.core.page import FoldIndex, PageRequest, Selection
from services.core.thread import ThreadState
from services.errors import PoisonEvent
from services.readmodel.records import Head

PAGES: Final = 32
"""Pages of one fold that are kept for others who ask for the same."""


class Nodes(dict[int, bytes]):
    """The nodes that were made; any other is empty."""

    def __missing__(self, posted: int) -> bytes:
        return b""


class Whole:
    """A thread folded whole in memory: its index, and the events at hand for its texts.

    `poison` is the event before which the fold had to stop, if there is one.
    """

    __slots__ = (
        "began",
        "events",
        "index",
        "indexed",
        "nodes",
        "pages",
        "poison",
        "reading",
        "thread",
    )

    def __init__(self, stream_id: UUID) -> None:
        self.thread = ThreadState(stream_id)
        self.events: dict[int, Recorded] = {}
        self.index = FoldIndex(self.thread, {})
        self.indexed = 0
        self.poison: PoisonEvent | None = None
        self.began = time.monotonic()
        """When the fold began: it holds whatever was in the log by then."""
        self.reading = asyncio.Lock()
        """Held by who reads, so that what two ask for is opened and rendered once."""
        self.nodes = Nodes()
        """The nodes made for readers so far, by posting version; the index's own."""
        self.pages: dict[PageRequest, Selection] = {}

    @property
    def head(self) -> Head | None:
        """What a view of this fold stands for; None for a thread without events."""
        return Head.of(self.thread) if self.thread.version else None

    def keep(self, request: PageRequest, selection: Selection) -> None:
        """Remember a page for others who ask for it."""
        if len(self.pages) >= PAGES:
            del self.pages[next(iter(self.pages))]
        self.pages[request] = selection
