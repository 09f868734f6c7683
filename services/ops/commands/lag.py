"""`threadlog lag`: how far the followers of the log are behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.eventlog.checkpoints import DeadLetter, DeadLetters, LaneCheckpoints, Projection
from services.eventlog.deliveries import Deliveries, Standing
from services.eventlog.endpoints import Endpoint, Endpoints
from services.eventlog.fanouts import Fanouts
from services.ops.exits import Exit, leave, run
from services.ops.output import print_json, say, table
from services.pokes import QUEUES, queue_key
from services.readmodel.records import Head
from services.settings import Settings
from services.wiring import Resources, connect_redis, resources
from services.workers.sweeper import lacking

WINDOW: Final = 10_000
"""Positions of a lane that are looked at, from where the sweeper saw that all was caught up."""

_LETTERS: Final = 100
_HEADS: Final = 1_000
_ENDPOINTS: Final = 10


@dataclass(frozen=True, slots=True)
class LaneLag:
    """One lane: its head, and up to which position every view and every inbox is. `behind` counts threads,
    the seconds are the age of the oldest event that a view or an inbox lacks. What is said of views is None
    where Redis is away. `whole` is False where the lane has more to look at than WINDOW positions."""

    lane: int
    head: int
    swept: int
    projected: int | None
    notified: int
    behind: int
    unprojected_seconds: float | None
    unnotified_seconds: float
    whole: bool

    @property
    def seconds(self) -> float:
        """The age of the oldest event that either lacks."""
        return max(self.unprojected_seconds or 0.0, self.unnotified_seconds)


@dataclass(frozen=True, slots=True)
class Lagging:
    """All that `lag` tells."""

    lanes: list[LaneLag]
    queues: dict[str, int] | None
    """Messages that wait, by actor; None where the broker is away."""
    letters: list[DeadLetter]
    """The first of them."""
    parked: dict[Projection, int]
    """How many dead letters there are of each projection."""
    names: dict[UUID, tuple[str, str | None]]
    """Site and key of the streams with dead letters."""
    deliveries: list[Standing]
    """What is due and what is dead, by channel."""
    endpoints_off: list[Endpoint]
    """The webhook endpoints that were switched off last."""
    fan_outs: tuple[int, float]
    """Parts of fan-outs that wait, and for how many seconds the oldest has."""

    @property
    def seconds(self) -> float:
        """The age of the oldest event that a follower lacks."""
        return max((lane.seconds for lane in self.lanes), default=0.0)


def lag(
    max_seconds: Annotated[
        float | None,
        typer.Option(min=0, help="Exit 1 where an event that a view or an inbox lacks is older than this."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """How far views and notifications are behind the log. Exits 1 where there are dead letters."""
    leave(run(_lag(Settings.load(), max_seconds, as_json)))


async def _lag(settings: Settings, max_seconds: float | None, as_json: bool) -> Exit:
    async with resources(settings) as found:
        seen = await measure(found)
    if as_json:
        print_json(_json(seen))
    else:
        _print(seen)
    late = max_seconds is not None and seen.seconds > max_seconds
    return Exit.FOUND if late or seen.letters else Exit.DONE


async def measure(found: Resources) -> Lagging:
    """Look at every lane, the queues and the dead letters."""
    async with found.pool.acquire() as connection:
        checkpoints = LaneCheckpoints(connection)  # type: ignore[arg-type]
        lanes = [await _lane(found, checkpoints, lane) for lane in sorted(await found.log.lanes())]
    letters = DeadLetters(found.pool)
    some = await letters.page(limit=_LETTERS)
    names = await found.log.names([letter.stream_id for letter in some])
    queues = await queue_depths(found.settings.broker)
    deliveries = await Deliveries(found.pool).standing()
    off = await Endpoints(found.pool, found.master).off(_ENDPOINTS)
    fan_outs = await Fanouts(found.pool).waiting()
    return Lagging(lanes, queues, some, await letters.counts(), names, deliveries, off, fan_outs)


async def _lane(found: Resources, checkpoints: LaneCheckpoints, lane: int) -> LaneLag:
    swept = await checkpoints.position(lane)
    head_position = await checkpoints.head(lane)
    spans = await checkpoints.window(lane, swept, WINDOW, 0.0)
    threads = [span for span in spans if span.thread]
    heads = await _heads(found, [span.stream_id for span in threads])
    followed = await checkpoints.followed([span.stream_id for span in threads])
    behind: dict[Projection, dict[UUID, int]] = {projection: {} for projection in Projection}
    for span in threads:
        head = None if heads is None else heads.get(span.stream_id)
        notifier = followed.get(span.stream_id)
        reached = {
            Projection.VIEW: 0 if head is None else head.version,
            Projection.NOTIFICATIONS: 0 if notifier is None else notifier.notified,
        }
        for projection in lacking(span.version, notifier, head):
            behind[projection][span.stream_id] = reached[projection] + 1
    views = await checkpoints.first_of(behind[Projection.VIEW])
    inboxes = await checkpoints.first_of(behind[Projection.NOTIFICATIONS])
    seen = min(head_position, swept + WINDOW)
    return LaneLag(
        lane=lane,
        head=head_position,
        swept=swept,
        projected=None if heads is None else _reached(views, seen),
        notified=_reached(inboxes, seen),
        behind=len(behind[Projection.VIEW].keys() | behind[Projection.NOTIFICATIONS].keys()),
        unprojected_seconds=None if heads is None else _age(views),
        unnotified_seconds=_age(inboxes),
        whole=seen == head_position,
    )


async def _heads(found: Resources, stream_ids: list[UUID]) -> dict[UUID, Head] | None:
    """The heads of the views that are there; None where Redis is away."""
    heads: dict[UUID, Head] = {}
    try:
        for start in range(0, len(stream_ids), _HEADS):
            heads |= await found.views.heads(stream_ids[start : start + _HEADS])
    except RedisError:
        return None
    return heads


def _reached(first: tuple[int, datetime] | None, seen: int) -> int:
    return seen if first is None else first[0] - 1


def _age(first: tuple[int, datetime] | None) -> float:
    return 0.0 if first is None else max(0.0, (datetime.now(UTC) - first[1]).total_seconds())


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
        ("lane", "head", "projected", "oldest, s", "notified", "oldest, s", "threads behind"),
        [
            (
                *(lane.lane, lane.head, lane.projected, lane.unprojected_seconds),
                *(lane.notified, lane.unnotified_seconds, lane.behind),
            )
            for lane in seen.lanes
        ],
    )
    if any(lane.projected is None for lane in seen.lanes):
        say("views: Redis does not answer; pages come from the log")
    for lane in seen.lanes:
        if not lane.whole:
            say(f"lane {lane.lane}: {lane.head - lane.swept:,} events are unswept; {WINDOW:,} were looked at")
    say()
    if seen.queues is None:
        say("queues: the broker does not answer; the sweeper catches up once it does")
    else:
        say("queues: " + ", ".join(f"{actor} {depth:,}" for actor, depth in seen.queues.items()))
    parts, oldest = seen.fan_outs
    if parts:
        say(f"followers of large threads: {parts:,} parts are to be told, the oldest for {oldest:,.0f} s")
    for one in seen.deliveries:
        if one.due or one.dead:
            dead = f", {one.dead:,} dead (threadlog deliveries list --state dead)" if one.dead else ""
            say(f"deliveries by {one.channel}: {one.due:,} due, the oldest for {one.late:,.0f} s{dead}")
    for endpoint in seen.endpoints_off:
        say(f"endpoint off: {endpoint.site} {endpoint.url} (threadlog site webhook list {endpoint.site})")
    if not seen.letters:
        say("dead letters: none")
        return
    counts = ", ".join(f"{count:,} {projection}" for projection, count in seen.parked.items() if count)
    shown = f"; the first {len(seen.letters)}" if sum(seen.parked.values()) > len(seen.letters) else ""
    say(f"dead letters: {counts}{shown} (threadlog dead-letters list)")
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
        "lanes": [asdict(lane) | {"seconds": lane.seconds} for lane in seen.lanes],
        "queues": seen.queues,
        "dead_letter_counts": seen.parked,
        "dead_letters": list(_letters(seen)),
        "fan_outs": {"parts": seen.fan_outs[0], "seconds": seen.fan_outs[1]},
        "deliveries": [asdict(one) for one in seen.deliveries],
        "endpoints_off": [{"id": one.id, "site": one.site, "url": one.url} for one in seen.endpoints_off],
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
