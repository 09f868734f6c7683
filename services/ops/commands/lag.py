"""`threadlog lag`: how far the followers of the log are behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.eventlog.checkpoints import DeadLetter, DeadLetters, Followed, LaneCheckpoints, Span
from services.eventlog.queries import QUERIES
from services.ops.exits import Exit, leave, run
from services.ops.output import print_json, say, table
from services.pokes import QUEUES, queue_key
from services.readmodel.records import Head
from services.settings import Settings
from services.wiring import Resources, connect_redis, resources

WINDOW: Final = 10_000
"""Positions of a lane that are looked at, from where the sweeper saw that all was caught up."""

_LETTERS: Final = 100


@dataclass(frozen=True, slots=True)
class LaneLag:
    """One lane: its head, and up to which position every view and every inbox is. `behind` counts threads,
    `seconds` is the age of the oldest event that one of them lacks. `whole` is False where the lane has more
    to look at than WINDOW positions."""

    lane: int
    head: int
    swept: int
    projected: int
    notified: int
    behind: int
    seconds: float
    whole: bool


@dataclass(frozen=True, slots=True)
class Lagging:
    """All that `lag` tells."""

    lanes: list[LaneLag]
    queues: dict[str, int] | None
    """Messages that wait, by actor; None where the broker is away."""
    letters: list[DeadLetter]
    names: dict[UUID, tuple[str, str | None]]
    """Site and key of the streams with dead letters."""

    @property
    def seconds(self) -> float:
        """The age of the oldest event that a follower lacks."""
        return max((lane.seconds for lane in self.lanes), default=0.0)


def lag(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """How far views and notifications are behind the log. Exits 1 where there are dead letters."""
    leave(run(_lag(Settings.load(), as_json)))


async def _lag(settings: Settings, as_json: bool) -> Exit:
    async with resources(settings) as found:
        seen = await measure(found)
    if as_json:
        print_json(_json(seen))
    else:
        _print(seen)
    return Exit.FOUND if seen.letters else Exit.DONE


async def measure(found: Resources) -> Lagging:
    """Look at every lane, the queues and the dead letters."""
    async with found.pool.acquire() as connection:
        checkpoints = LaneCheckpoints(connection)  # type: ignore[arg-type]
        lanes = [await _lane(found, checkpoints, lane) for lane in sorted(await found.log.lanes())]
    letters = await DeadLetters(found.pool, "").page(limit=_LETTERS)
    rows = await found.pool.fetch(QUERIES["names_of"], [letter.stream_id for letter in letters])
    names = {row["stream_id"]: (row["site"], row["key"]) for row in rows}
    return Lagging(lanes, await queue_depths(found.settings.broker), letters, names)


async def _lane(found: Resources, checkpoints: LaneCheckpoints, lane: int) -> LaneLag:
    swept = await checkpoints.position(lane)
    head = await checkpoints.head(lane)
    spans = await checkpoints.window(lane, swept, WINDOW, 0.0)
    threads = [span for span in spans if span.thread]
    ids = [span.stream_id for span in threads]
    try:
        heads = await found.views.heads(ids)
    except RedisError:
        heads = {}
    followed = await checkpoints.followed(ids)
    unprojected = [span for span in threads if _unprojected(span, heads.get(span.stream_id))]
    unnotified = [span for span in threads if _unnotified(span, followed.get(span.stream_id))]
    behind = {span.stream_id: span for span in (*unprojected, *unnotified)}
    now = datetime.now(UTC)
    oldest = min((span.recorded_at for span in behind.values()), default=now)
    seen = min(head, swept + WINDOW)
    return LaneLag(
        lane=lane,
        head=head,
        swept=swept,
        projected=min((span.first - 1 for span in unprojected), default=seen),
        notified=min((span.first - 1 for span in unnotified), default=seen),
        behind=len(behind),
        seconds=max(0.0, (now - oldest).total_seconds()),
        whole=seen == head,
    )


def _unprojected(span: Span, head: Head | None) -> bool:
    # A thread without a view is not behind: the next read builds it.
    return head is not None and not head.stale and head.version < span.version


def _unnotified(span: Span, followed: Followed | None) -> bool:
    notified = 0 if followed is None else followed.notified
    return notified < span.version and not (followed and "notifications" in followed.parked)


async def queue_depths(broker: str) -> dict[str, int] | None:
    """Messages that wait, by actor; None where the broker does not answer."""
    client: Redis = connect_redis(broker)
    try:
        return {actor: int(await client.llen(queue_key(queue))) for actor, queue in QUEUES.items()}
    except (RedisError, OSError):
        return None
    finally:
        await client.aclose()


def _print(seen: Lagging) -> None:
    table(
        ("lane", "head", "projected", "notified", "threads behind", "oldest, s"),
        [
            (lane.lane, lane.head, lane.projected, lane.notified, lane.behind, lane.seconds)
            for lane in seen.lanes
        ],
    )
    for lane in seen.lanes:
        if not lane.whole:
            say(f"lane {lane.lane}: {lane.head - lane.swept:,} events are unswept; {WINDOW:,} were looked at")
    say()
    if seen.queues is None:
        say("queues: the broker does not answer; the sweeper catches up once it does")
    else:
        say("queues: " + ", ".join(f"{actor} {depth:,}" for actor, depth in seen.queues.items()))
    if not seen.letters:
        say("dead letters: none")
        return
    say("dead letters:")
    table(
        ("projection", "site", "thread", "version", "event", "reason"),
        [
            (letter.projection, *_name(seen, letter), letter.version, letter.event_id, letter.reason)
            for letter in seen.letters
        ],
    )


def _name(seen: Lagging, letter: DeadLetter) -> tuple[str, str | None]:
    return seen.names.get(letter.stream_id, (str(letter.stream_id), None))


def _json(seen: Lagging) -> dict[str, Any]:
    return {
        "lanes": seen.lanes,
        "queues": seen.queues,
        "dead_letters": list(_letters(seen)),
    }


def _letters(seen: Lagging) -> Iterator[dict[str, Any]]:
    for letter in seen.letters:
        site, key = _name(seen, letter)
        yield {
            "projection": letter.projection,
            "site": site,
            "thread": key,
            "stream": letter.stream_id,
            "version": letter.version,
            "event_id": letter.event_id,
            "reason": letter.reason,
            "build": letter.build,
            "created_at": letter.created_at,
        }
