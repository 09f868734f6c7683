"""`threadlog log`: the log as it is recorded, readable by a person."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Final
from uuid import UUID

import orjson
import typer

from schema.events.envelope import Recorded
from services.core.addresses import check_site
from services.errors import StreamBroken
from services.eventlog.keys import AuthorKey, Keyring
from services.eventlog.log import EventLog
from services.eventlog.queries import QUERIES
from services.ops.exits import run
from services.ops.output import fields, print_json, say, table
from services.ops.selection import thread_named
from services.projection.fold import open_text
from services.settings import Settings
from services.wiring import resources

_PAGE: Final = 500
_POLL_S: Final = 0.25
"""Seconds between two looks for new events; one of them is one short query a lane."""

app = typer.Typer(help="Read the log.", no_args_is_help=True)
Open = Annotated[bool, typer.Option("--open", help="Open what is sealed: texts, names, details.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


@app.command(epilog="Example: threadlog log show blog article-17 --open")
def show(
    site: Annotated[str, typer.Argument(help="The site.")],
    thread: Annotated[str, typer.Argument(help="The thread's key.")],
    opened: Open = False,
    as_json: AsJson = False,
    after: Annotated[int, typer.Option(min=0, help="Begin behind this version.")] = 0,
) -> None:
    """Print a thread's events, oldest first."""
    run(_show(Settings.load(), site, thread, opened, as_json, after))


async def _show(settings: Settings, site: str, thread: str, opened: bool, as_json: bool, after: int) -> None:
    async with resources(settings) as found:
        name = await thread_named(found, site, thread)
        printer = _Printer(found.keyring, opened, as_json, with_stream=False)
        async for events in found.log.pages(name.stream_id, after, size=_PAGE):
            await printer.print(events)


@app.command(epilog="Example: threadlog log tail --follow --json")
def tail(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Begin this many events back.")] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as events come, until Ctrl-C.")
    ] = False,
    opened: Open = False,
    as_json: AsJson = False,
) -> None:
    """Print the newest events of every thread and site; with --follow none is ever skipped."""
    run(_tail(Settings.load(), lines, follow, opened, as_json))


async def _tail(settings: Settings, lines: int, follow: bool, opened: bool, as_json: bool) -> None:
    async with resources(settings) as found:
        printer = _Printer(found.keyring, opened, as_json, with_stream=True)
        heads = await found.log.lanes()
        cursors = {lane: max(0, head - lines) for lane, head in heads.items()}
        newest = [event async for events in walk(found.log, cursors, heads) for event in events]
        newest.sort(key=lambda event: event.recorded_at)
        await printer.print(newest[len(newest) - min(lines, len(newest)) :])
        while follow:
            async for events in walk(found.log, cursors):
                await printer.print(events)
            await asyncio.sleep(_POLL_S)


async def walk(
    log: EventLog, cursors: dict[int, int], to: Mapping[int, int] | None = None
) -> AsyncIterator[list[Recorded]]:
    """The events behind `cursors` (lane to position), lane by lane, up to the end or `to`; moves the cursors.

    Positions become visible in order within a lane, so a gap is no event that is still to come: it is a
    broken log. Raises StreamBroken.
    """
    for lane in list(cursors):
        while True:
            position = cursors[lane]
            limit = _PAGE if to is None else min(_PAGE, to[lane] - position)
            events = await log.by_position(lane, position, limit) if limit else []
            for event in events:
                if event.position != position + 1:
                    reason = f"lane {lane} goes from position {position} to {event.position}"
                    raise StreamBroken(event.stream_id, event.version, reason)
                position = event.position
            cursors[lane] = position
            if events:
                yield events
            if len(events) < _PAGE:
                break


@app.command(epilog="Example: threadlog log stats --site blog")
def stats(
    site: Annotated[str | None, typer.Option(help="Of this site alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count the log's events by type. Reads all of it."""
    run(_stats(Settings.load(), site, as_json))


async def _stats(settings: Settings, site: str | None, as_json: bool) -> None:
    if site is not None:
        check_site(site)
    async with resources(settings) as found, found.pool.acquire() as connection:
        counts = await connection.fetch(QUERIES["event_counts"], site, timeout=3600)
        streams = await connection.fetchrow(QUERIES["stream_counts"], site)
        size = await connection.fetchval(QUERIES["log_bytes"])
        lanes = await found.log.lanes()
    assert streams is not None
    total = sum(row["events"] for row in counts)
    if as_json:
        print_json(
            {
                "events": total,
                "threads": streams["threads"],
                "visible_comments": streams["visible"],
                "last": streams["last"],
                "bytes_on_disk": size,
                "lanes": lanes,
                "types": {row["type"]: {"events": row["events"], "bytes": row["bytes"]} for row in counts},
            }
        )
        return
    fields(
        [
            ("events", total),
            ("threads", streams["threads"]),
            ("visible comments", streams["visible"]),
            ("last event", streams["last"]),
            ("on disk, all sites", f"{size / 1e6:,.1f} MB"),
            ("heads of the lanes", ", ".join(f"{lane}: {head:,}" for lane, head in lanes.items())),
        ]
    )
    say()
    table(("type", "events", "bytes"), [tuple(row) for row in counts], empty="no events")


class _Printer:
    def __init__(self, keyring: Keyring, opened: bool, as_json: bool, *, with_stream: bool) -> None:
        self._keyring = keyring
        self._opened = opened
        self._as_json = as_json
        self._with_stream = with_stream

    async def print(self, events: list[Recorded]) -> None:
        keys: dict[UUID, AuthorKey] = {}
        if self._opened:
            keys = await self._keyring.by_id(event.key_id for event in events if event.key_id is not None)
        for event in events:
            text = open_text(event, keys) if self._opened else None
            if self._as_json:
                from services.api.threads import recorded

                print_json(recorded(event) | ({"opened": text} if self._opened else {}))
            else:
                say(line(event, text, with_stream=self._with_stream))


def line(event: Recorded, text: Mapping[str, str] | None, *, with_stream: bool) -> str:
    """One event for a person to read."""
    parts = [f"{event.version:>6}", f"{event.recorded_at:%Y-%m-%d %H:%M:%S}Z", f"{event.type:<19}"]
    if with_stream:
        parts.insert(0, f"{event.lane}:{event.position:<8} {event.stream_id}")
    parts.append(f"{event.actor_id or 'the system':<12}")
    data = orjson.loads(event.data)
    named = {"event": str(event.event_id)} if event.type in ("CommentPosted", "ReplyPosted") else {}
    said = named | {name: value for name, value in data.items() if name not in ("text_mac", "posted")}
    parts.append(" ".join(f"{name}={_short(value)}" for name, value in said.items()))
    if text is not None:
        parts.append(" ".join(f"{name}={_short(value)}" for name, value in text.items()))
    elif event.sealed is not None:
        parts.append(f"sealed={len(event.sealed)} bytes")
    return "  ".join(part for part in parts if part).rstrip()


def _short(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    if isinstance(value, str) and (" " in text or "\n" in text or not text):
        text = orjson.dumps(value).decode()
    return text
