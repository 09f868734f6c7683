"""Bringing folds up to what one connection sees: within its snapshot, or under the lock that it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from schema.events.envelope import EPOCH, Recorded
from services.core.site import SiteState, evolve_site
from services.core.thread import ThreadState
from services.eventlog import state
from services.eventlog.queries import QUERIES
from services.eventlog.state import Connection
from services.projection.fold import CHUNK, evolve_all
from services.projection.longthread import LongThread


async def bring(connection: Connection, thread: ThreadState) -> None:
    """Fold what the connection sees behind the fold. Raises PoisonEvent, UnknownEventType."""
    async for events in _behind(connection, thread.stream_id, thread.version):
        evolve_all(thread, events)


async def bring_long(connection: Connection, stream_id: UUID, thread: LongThread) -> None:
    """As `bring`, of a long thread, up to an event that cannot be folded."""
    async for events in _behind(connection, stream_id, thread.head.version):
        await thread.take(events)
        if thread.poison is not None:
            return


class SiteFold:
    """A site's own stream folded."""

    def __init__(self, stream_id: UUID) -> None:
        self.state = SiteState(stream_id)
        self._recorded_at = EPOCH

    async def bring(self, connection: Connection) -> None:
        """Fold what the connection sees behind the fold. Raises PoisonEvent, UnknownEventType."""
        async for events in _behind(connection, self.state.stream_id, self.state.version):
            for event in events:
                evolve_site(self.state, event)
                self._recorded_at = event.recorded_at

    @property
    def row(self) -> state.Row:
        """What must be kept of it."""
        return state.site_row(self.state, self._recorded_at)


async def _behind(connection: Connection, stream_id: UUID, version: int) -> AsyncIterator[list[Recorded]]:
    while rows := await connection.fetch(QUERIES["events_after"], stream_id, version, CHUNK):
        yield [Recorded(*row) for row in rows]
        version += len(rows)
        if len(rows) < CHUNK:
            return
