"""What is sealed in an event, for those who read the log itself: opened, or why it stays shut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from schema.events.envelope import Recorded
from services.errors import PoisonEvent
from services.eventlog.keys import AuthorKey
from services.projection.fold import open_text


@dataclass(frozen=True, slots=True)
class Opened:
    """What an event had sealed. `shut` says why that is not told: its key is not there, destroyed or never
    brought along, or it does not open, damaged or sealed by another key. Both are None where nothing was."""

    text: dict[str, str] | None = None
    shut: Literal["no key", "broken"] | None = None

    def told(self) -> dict[str, object]:
        """As members of the event's JSON."""
        return {"opened": self.text, "shut": self.shut}


NOTHING = Opened()


def opened(event: Recorded, keys: Mapping[UUID, AuthorKey]) -> Opened:
    """What is sealed in an event, under one of these living keys."""
    if event.sealed is None:
        return NOTHING
    try:
        text = open_text(event, keys)
    except PoisonEvent:
        return Opened(shut="broken")
    return Opened(text, None if text is not None else "no key")
