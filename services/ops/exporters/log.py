"""A site's log, or a thread's, as JSON lines: a header, author keys, the events stream by stream, and an end.

The file is a moment of the log: what had a position when the export began, whatever is written meanwhile. The
streams are in the order of their ids and each in the order of its versions, so that a second export gives
the same lines, positions aside. Whoever reads it checks the chain of one stream after the other, and the end
tells whether anything is missing.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict

from schema.events.envelope import GENESIS, Recorded
from services.core.addresses import site_stream_id
from services.core.thread import timestamp
from services.errors import ThreadlogError
from services.eventlog.keytransfer import KeysOut, MovedKey, TransferKey
from services.eventlog.lines import line_of
from services.eventlog.log import EventLog
from services.ops.selection import thread_named, walk
from services.projection.fold import verify_chain
from services.wiring import Resources

FORMAT: Final = "threadlog-log"

_PAGE: Final = 500
_LEAST: Final = timedelta(microseconds=1)


class Header(BaseModel):
    """The first line. `keys` tells whether author keys come along, wrapped by a transfer key; `since` is a
    time (RFC 3339), before which nothing comes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["threadlog-log"] = FORMAT
    format_version: Literal[1] = 1
    site: str
    thread: str | None = None
    since: str | None = None
    keys: bool = False


class End(BaseModel):
    """What the last line says of those before it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    streams: int
    events: int
    keys: int


class ErasedMeanwhile(ThreadlogError):
    """Somebody was erased while their key was on its way out."""


@dataclass(slots=True)
class Exported:
    """What was written; `erased` of the `keys` are destroyed ones."""

    streams: int = 0
    events: int = 0
    keys: int = 0
    erased: int = 0


@dataclass(frozen=True, slots=True)
class LogExport:
    """What is to be exported: a site, or one of its threads, from a time on; with keys, if there is a key for
    them."""

    site: str
    thread: str | None = None
    since: datetime | None = None
    transfer: TransferKey | None = None

    async def write(
        self,
        resources: Resources,
        log: EventLog,
        put: Callable[[bytes], object],
        progress: Callable[[int], None],
    ) -> Exported:
        """Write lines with `put`, and tell of the events written. `log`: whence they are read.

        Raises BadAddress, UsageRefused for a thread without events, StreamBroken where a chain does not hold,
        ErasedMeanwhile, after which nobody may keep what was written.
        """
        done = Exported()
        only = None
        if self.thread is not None:
            only = (await thread_named(resources, self.site, self.thread)).stream_id
        cut = await log.lanes()
        header = Header(
            site=self.site,
            thread=self.thread,
            since=None if self.since is None else timestamp(self.since),
            keys=self.transfer is not None,
        )
        put(header.model_dump_json().encode() + b"\n")
        keys = KeysOut(resources.pool, resources.master, self.transfer)
        erasures = await keys.erasures()
        async for page in keys.pages(self.site, only):
            put(b"".join(map(key_line, page)))
            done.keys += len(page)
            done.erased += sum(key.destroyed_at is not None for key in page)
        async for stream_id in self._streams(log, only):
            before = done.events
            async for events in self._events(log, stream_id, cut):
                put(b"".join(map(line_of, events)))
                done.events += len(events)
                progress(len(events))
            done.streams += done.events > before
        if self.transfer is not None and (gone := await keys.erased_since(self.site, erasures)):
            raise ErasedMeanwhile(
                f"{gone} of {self.site} were erased meanwhile, and their keys may be in it: delete what was "
                "written, and export again"
            )
        end = End(streams=done.streams, events=done.events, keys=done.keys)
        put(orjson.dumps({"end": end.model_dump()}, option=orjson.OPT_APPEND_NEWLINE))
        return done

    async def _streams(self, log: EventLog, only: UUID | None) -> AsyncIterator[UUID]:
        if only is not None:
            yield only
            return
        yield site_stream_id(self.site)
        async for name in walk(log, self.site):
            yield name.stream_id

    async def _events(
        self, log: EventLog, stream_id: UUID, cut: dict[int, int]
    ) -> AsyncIterator[list[Recorded]]:
        """The stream's events that had a position when the export began, checked."""
        version, last_hash = 0, GENESIS
        if self.since is not None:
            version = await log.version_at(stream_id, self.since - _LEAST)
            if version:
                last_hash = (await log.events_at(stream_id, [version]))[0].hash
        async for events in log.pages(stream_id, version, size=_PAGE):
            found = [event for event in events if event.position <= cut[event.lane]]
            verify_chain(last_hash, version, found)
            if found:
                yield found
                version, last_hash = found[-1].version, found[-1].hash
            if len(found) < len(events):
                return


def key_line(key: MovedKey) -> bytes:
    """A line that tells of an author's key."""
    told = {
        "key_id": str(key.key_id),
        "author": key.author_id,
        "wrapped": None if key.wrapped is None else b64encode(key.wrapped).decode(),
        "destroyed_at": None if key.destroyed_at is None else timestamp(key.destroyed_at),
    }
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)
