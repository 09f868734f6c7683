"""Comparing the names that are kept of a thread with a fold of the log up to where they were folded.

What was sealed under a key that is destroyed since cannot be compared any more: what is kept of such texts
goes when the notifier comes to their erasure. Whom a text named behind one of them is not known for sure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from schema.events.envelope import Recorded
from services.core.tellable import READ, step_of
from services.eventlog.queries import QUERIES
from services.eventlog.state import Connection, Difference
from services.projection.names import Mentioned, Reading, Said, ThreadNames


@dataclass(slots=True)
class Kept:
    """The names that are kept of a thread, folded up to `named`."""

    named: int = 0
    bearers: dict[tuple[bytes, str], int] = field(default_factory=dict)
    mentioned: dict[UUID, Mentioned] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self.named or self.bearers or self.mentioned)


async def kept(connection: Connection, stream_ids: Sequence[UUID]) -> dict[UUID, Kept]:
    """What is kept of these threads' names."""
    found = {stream_id: Kept() for stream_id in stream_ids}
    for stream_id, named in await connection.fetch(QUERIES["named"], stream_ids):
        found[stream_id].named = named
    for stream_id, name, author, version in await connection.fetch(QUERIES["bearers_kept"], stream_ids):
        found[stream_id].bearers[name, author] = version
    for stream_id, comment_id, version, people, before in await connection.fetch(
        QUERIES["mentioned_kept"], stream_ids
    ):
        found[stream_id].mentioned[comment_id] = Mentioned(version, tuple(people), tuple(before))
    return found


async def fold(names: ThreadNames, events: Sequence[Recorded], reading: Reading) -> None:
    """Take in more events of a thread. What cannot be read says nothing, as where the notifier passed over
    it."""
    asked = [event for event in events if event.type in READ]
    keys = await reading.keys(asked)
    for event in asked:
        with suppress(Exception):  # no I/O here: whatever it is, it is this event's, and told of by the fold
            if (step := step_of(event)) is not None:
                text = step.what in ("post", "edit")
                names.fold(step, reading.read(event, keys) if text else Said())


def differences(stored: Kept, names: ThreadNames) -> Iterator[Difference]:
    """What is not as the fold has it."""
    bearers = {(name, who): version for name, each in names.bearers.items() for who, version in each.items()}
    for pair in sorted(stored.bearers.keys() | bearers.keys()):
        was, is_ = stored.bearers.get(pair), bearers.get(pair)
        if was != is_ and (was is None or names.closed.get(was) != pair[1]):
            path = f"{pair[0].hex()} of {pair[1]}"
            yield Difference("participants", f"{path}: version", was or "no row", is_ or "no row")
    for comment_id in sorted(stored.mentioned.keys() | names.mentioned.keys()):
        before, after = stored.mentioned.get(comment_id), names.mentioned.get(comment_id)
        if before == after or comment_id in names.unsure:
            continue
        if before is None or after is None:
            yield Difference("mentioned", str(comment_id), _there(before), _there(after))
            continue
        for name in ("version", "people", "before"):
            found, replayed = getattr(before, name), getattr(after, name)
            if found != replayed:
                yield Difference("mentioned", f"{comment_id}: {name}", found, replayed)


def _there(mentioned: Mentioned | None) -> str:
    return "no row" if mentioned is None else "a row"
