"""Reading what live streams tell: events from the log, their comments from the view as they are now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final
from uuid import UUID

import orjson
from redis.exceptions import RedisError

from schema.events.envelope import EPOCH
from services.api.live.frames import (
    EVENTS,
    MODERATORS_ONLY,
    VOTED,
    Batch,
    Note,
    Read,
    Told,
    latest_votes,
    note_of,
    thread_data,
)
from services.core.pagejson import PUBLIC, Reader, comment_json
from services.errors import CommentNotFound, Unavailable
from services.eventlog.log import EventLog
from services.eventlog.sites import Sites
from services.projection.reader import OneComment, ThreadReader
from services.readmodel.records import Head
from services.readmodel.views import Views

_MODERATORS: Final = Reader(moderator=True)
_AWAY: Final = (RedisError, Unavailable)
_TRIES: Final = 2
_AT_ONCE: Final = 16


class Teller:
    """Reads what live streams tell, from the log and the views."""

    def __init__(self, log: EventLog, reader: ThreadReader, views: Views, sites: Sites) -> None:
        self.log = log
        self._reader = reader
        self._views = views
        self._sites = sites

    async def read(self, stream_id: UUID, version: int, to: int | None = None) -> Read | None:
        """The next events after `version`, up to `to` where it is given, at most 100; None where there are
        none."""
        limit = EVENTS if to is None else min(EVENTS, to - version)
        events = await self.log.events_after(stream_id, version, limit)
        if not events:
            return None
        notes = [note for event in events if (note := note_of(event)) is not None]
        last = events[-1]
        return Read(latest_votes(notes), Note(last.version, last.type, None, last.recorded_at))

    async def after(self, stream_id: UUID, site: str, version: int) -> Batch:
        """The next events after `version` as they are told; empty, and up to `version`, where there are none.

        Raises what `told` raises.
        """
        read = await self.read(stream_id, version)
        if read is None:
            return Batch(version, version, ())
        to = read.last.version
        return Batch(version, to, await self.told(stream_id, site, read.notes, to))

    async def tallies(self, stream_id: UUID, site: str, ids: Sequence[UUID], version: int) -> Batch:
        """Tallies of these comments, told at `version`. Raises what `told` raises."""
        notes = [Note(version, VOTED, comment_id, EPOCH) for comment_id in ids]
        return Batch(version, version, await self.told(stream_id, site, notes, version))

    async def head(self, stream_id: UUID, version: int) -> Head | None:
        """The thread at `version` or later. Raises as ThreadReader does."""
        head, _ = await self._reader.thread(stream_id, version or None)
        return head

    async def told(self, stream_id: UUID, site: str, notes: Sequence[Note], version: int) -> list[Told]:
        """These events, as the thread is now, at `version` or later.

        Raises ThreadParked where the view does not get there, and what ThreadReader raises.
        """
        if not notes:
            return []
        ids = {note.comment_id: None for note in notes if note.comment_id is not None}
        found = await self._comments(stream_id, list(ids), version) if ids else {}
        head = None
        if any(note.comment_id is None for note in notes):
            head = await self.head(stream_id, version)
        known = await self._sites.get(site)
        url = "" if known is None else known.settings.comment_url
        shown = {comment_id: _shown(one, url) for comment_id, one in found.items()}
        return [told for note in notes if (told := _told(note, shown, head)) is not None]

    async def _comments(
        self, stream_id: UUID, ids: Sequence[UUID], version: int
    ) -> Mapping[UUID, OneComment]:
        """Those of these comments that the thread has, at `version` or later."""
        try:
            for _ in range(_TRIES):
                found = await self._views.comments(stream_id, ids)
                if found is not None and all(one.head.version >= version for one in found):
                    self._reader.reads.add(stream_id)
                    return {
                        comment_id: OneComment(one.head, one.picked, one.path)
                        for comment_id, one in zip(ids, found, strict=True)
                        if one.picked is not None
                    }
                await self._reader.thread(stream_id, version)
        except _AWAY:
            pass
        # There is no view, or no Redis: the reader has the thread from the log, one fold for all who ask.
        answers: dict[UUID, OneComment] = {}
        rest = iter(ids)
        while some := list(islice(rest, _AT_ONCE)):
            results = await asyncio.gather(
                *(self._reader.comment(stream_id, one, version) for one in some), return_exceptions=True
            )
            for comment_id, result in zip(some, results, strict=True):
                if isinstance(result, OneComment):
                    answers[comment_id] = result
                elif not isinstance(result, CommentNotFound):
                    raise result
        return answers


@dataclass(frozen=True, slots=True)
class _Shown:
    """A comment as each class of readers sees it; None for those to whom it does not exist."""

    public: bytes | None
    moderators: bytes
    author_id: str | None
    author: bytes | None


def _shown(one: OneComment, comment_url: str) -> _Shown:
    def to(reader: Reader) -> bytes:
        made = comment_json(one.picked, one.path, one.head, comment_url=comment_url, reader=reader)
        return b'{"comment":%b,%b}' % (made, thread_data(one.head))

    moderators, public = to(_MODERATORS), to(PUBLIC)
    if moderators == public:
        return _Shown(public, moderators, None, None)
    comment = orjson.loads(moderators)["comment"]
    author_id = None if comment["author"] is None else str(comment["author"]["id"])
    own = None if author_id is None else to(Reader(author_id))
    held = comment["state"] == "held"
    return _Shown(
        None if held else public,
        moderators,
        author_id,
        None if own == public and not held else own,
    )


def _told(note: Note, shown: Mapping[UUID, _Shown], head: Head | None) -> Told | None:
    if note.comment_id is None:
        data = b"{%b}" % thread_data(head)
        return Told(note.version, note.type, data, data)
    one = shown.get(note.comment_id)
    if one is None:
        return None
    if note.type in MODERATORS_ONLY:
        return Told(note.version, note.type, None, one.moderators)
    return Told(note.version, note.type, one.public, one.moderators, one.author_id, one.author)
