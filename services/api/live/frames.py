"""What a live stream says of an event: made once for each class of readers, as bytes.

An event is told as its comment is now, as the view has it: a text that was hidden, removed or erased since is
not shown again by whoever follows late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from schema.events.envelope import Recorded
from services.core.pagejson import Reader
from services.readmodel.records import Head

EVENTS: Final = 100
"""Events told together, at most."""
PIECE: Final = 1 << 16
"""Bytes written to a connection at once, beside a single longer event."""
VOTED: Final = "CommentVoted"
RESET: Final = "reset"

_POSTED: Final = frozenset({"CommentPosted", "ReplyPosted"})
MODERATORS_ONLY: Final = frozenset({"CommentReported"})
_IMPORTED: Final = "import:"


class Note(NamedTuple):
    """An event of the log that live streams tell of. `comment_id` is None for a thread's own event."""

    version: int
    type: str
    comment_id: UUID | None
    recorded_at: datetime


class Read(NamedTuple):
    """Events of the log: what there is to tell of, and the last of them, whatever it is."""

    notes: list[Note]
    last: Note


def note_of(event: Recorded) -> Note | None:
    """What there is to tell of an event; None for what an import wrote, which is silent."""
    payload = orjson.loads(event.data)
    if "imported" in payload:
        return None
    if event.type in _POSTED:
        return Note(event.version, event.type, event.event_id, event.recorded_at)
    comment_id = payload.get("comment_id")
    if comment_id is not None:
        return Note(event.version, event.type, UUID(comment_id), event.recorded_at)
    if event.type == "ThreadDescribed" and payload.get("by") == "client":
        actor = event.actor_id
        if actor is None or actor.startswith(_IMPORTED):
            return None  # a first comment's that came from another system
    return Note(event.version, event.type, None, event.recorded_at)


def latest_votes(notes: Sequence[Note]) -> list[Note]:
    """The same with the last of each comment's votes only: a tally is told as it is now."""
    last = {note.comment_id: note.version for note in notes if note.type == VOTED}
    return [note for note in notes if note.type != VOTED or last[note.comment_id] == note.version]


@dataclass(frozen=True, slots=True)
class Told:
    """An event as its readers may see it: `data` for everyone, for moderators, and for the author whose own
    text others do not see; None for whom it is not."""

    version: int
    type: str
    public: bytes | None
    moderators: bytes | None
    author_id: str | None = None
    author: bytes | None = None

    def to(self, reader: Reader) -> bytes | None:
        """What this reader is told."""
        if reader.moderator:
            return self.moderators
        if self.author is not None and reader.author_id == self.author_id:
            return self.author
        return self.public


class Piece(NamedTuple):
    """Some events of a stream, as they go over the wire. `chunk` is `plain` as one chunk of HTTP/1.1."""

    plain: bytes
    chunk: bytes
    last_id: int


def block(version: int, type_: str, data: bytes) -> bytes:
    """One event of a stream (HTML, section 9.2)."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (version, type_.encode(), data)


def piece(plain: bytes, last_id: int) -> Piece:
    """Bytes that are ready to be written."""
    return Piece(plain, b"%x\r\n%b\r\n" % (len(plain), plain), last_id)


@dataclass(frozen=True, slots=True)
class Batch:
    """The events after version `after` up to `to`, in order."""

    after: int
    to: int
    told: Sequence[Told]
    _pieces: dict[object, tuple[Piece, ...]] = field(default_factory=dict, repr=False)
    _parts: dict[int, Batch] = field(default_factory=dict, repr=False)
    _authors: frozenset[str | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        own = frozenset(one.author_id for one in self.told if one.author is not None)
        object.__setattr__(self, "_authors", own)

    def behind(self, position: int) -> Batch | None:
        """What of it goes to who was told everything up to `position`; None where that is all of it."""
        if position <= self.after:
            return self
        if position >= self.to:
            return None
        part = self._parts.get(position)
        if part is None:
            told = [one for one in self.told if one.version > position]
            part = self._parts[position] = Batch(position, self.to, told)
        return part

    def pieces(self, reader: Reader) -> tuple[Piece, ...]:
        """What goes to this reader: readers of one class get the same bytes."""
        key: object = None
        if reader.moderator:
            key = True
        elif self._authors and reader.author_id in self._authors:
            key = reader.author_id
        made = self._pieces.get(key)
        if made is None:
            made = self._pieces[key] = tuple(_pieces(self.told, reader))
        return made

    def items(self, reader: Reader) -> list[bytes]:
        """The same for polling: each event as a JSON object."""
        return [
            item(one.version, one.type, data) for one in self.told if (data := one.to(reader)) is not None
        ]


def item(version: int, type_: str, data: bytes) -> bytes:
    """An event as polling answers it."""
    return b'{"id":%d,"event":%b,"data":%b}' % (version, orjson.dumps(type_), data)


def _pieces(told: Sequence[Told], reader: Reader) -> Iterator[Piece]:
    blocks: list[bytes] = []
    size = last = 0
    for one in told:
        data = one.to(reader)
        if data is None:
            continue
        made = block(one.version, one.type, data)
        if blocks and size + len(made) > PIECE:
            yield piece(b"".join(blocks), last)
            blocks.clear()
            size = 0
        blocks.append(made)
        size += len(made)
        last = one.version
    if blocks:
        yield piece(b"".join(blocks), last)


def thread_data(head: Head | None) -> bytes:
    """The `thread` of an event; that of a thread without events for None."""
    comments, version = (0, 0) if head is None else (head.visible, head.version)
    return b'"thread":{"comments":%d,"version":%d}' % (comments, version)


def reset(version: int, head: Head | None) -> Batch:
    """What sends a client to load the thread anew, and go on after `version`."""
    data = b"{%b}" % thread_data(head)
    return Batch(version, version, (Told(version, RESET, data, data),))
