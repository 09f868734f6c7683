"""A replay as the command line tells of it."""

from __future__ import annotations

from typing import Any

from services.eventlog.replays import Replay, State
from services.ops.output import print_json, table


def line(this: Replay) -> str:
    """How far it is."""
    rebuilt = f"{this.rebuilt:,} rebuilt, " if this.differing else ""
    told = (
        f"replay {this.id} is {this.state}: {this.threads:,} of {this.of_threads:,} threads, {rebuilt}"
        f"{this.events:,} events, {this.repaired:,} rows changed, {this.failed:,} failed"
    )
    if this.rate and (left := _left(this)) is not None:
        told += f"; {this.rate:,.0f} events/s, {left:,.0f} s left"
    return told


def unattended(this: Replay) -> str | None:
    """What to say of a replay that runs and has nobody who works on it."""
    if this.state is not State.RUNNING or this.leased:
        return None
    if this.workers:
        return "no worker is at it: they are busy, or none runs (threadlog worker)"
    return f"next: threadlog replay resume {this.id}"


def told(this: Replay) -> dict[str, Any]:
    """All of it, for machines."""
    return {
        "replay": this.id,
        "state": this.state,
        "site": this.selected.site,
        "stream": this.selected.stream_id,
        "since": this.selected.since,
        "differing": this.differing,
        "max_rate": this.max_rate,
        "workers": this.workers,
        "threads": this.threads,
        "of_threads": this.of_threads,
        "events": this.events,
        "of_events": this.of_events,
        "rebuilt": this.rebuilt,
        "rows_changed": this.repaired,
        "failed": this.failed,
        "ranges": this.ranges,
        "ranges_done": this.done,
        "ranges_leased": this.leased,
        "began_at": this.began_at,
        "ended_at": this.ended_at,
        "events_per_second": this.rate,
        "seconds_left": _left(this),
    }


def print_all(found: list[Replay], *, as_json: bool) -> None:
    """Several, one a line."""
    if as_json:
        print_json({"replays": [told(this) for this in found]})
        return
    table(
        ("replay", "state", "of", "threads", "done", "failed", "events/s", "left", "began"),
        (
            (
                this.id,
                str(this.state),
                _name(this),
                this.of_threads,
                this.threads,
                this.failed,
                None if this.rate is None else round(this.rate),
                None if (left := _left(this)) is None else f"{left:,.0f} s",
                f"{this.began_at:%Y-%m-%d %H:%M}",
            )
            for this in found
        ),
        empty="no replay so far",
    )


def _left(this: Replay) -> float | None:
    """Seconds, at the present rate."""
    return max(this.of_events - this.events, 0) / this.rate if this.rate else None


def _name(this: Replay) -> str:
    name = "one thread" if this.selected.stream_id else this.selected.site or "all"
    if this.selected.since is not None:
        name += f" since {this.selected.since:%Y-%m-%d %H:%M}"
    return name + (", differing" if this.differing else "")
