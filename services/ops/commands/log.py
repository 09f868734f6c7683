"""`threadlog log`: the log as it is recorded, readable by a person."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Final
from uuid import UUID

import orjson
import typer

from schema.events.envelope import Recorded
from services.core.addresses import check_site
from services.eventlog.following import walk
from services.eventlog.keys import AuthorKey
from services.eventlog.lines import recorded
from services.eventlog.queries import QUERIES
from services.eventlog.session import is_lost
from services.ops.exits import run
from services.ops.output import complain, fields, print_json, say, table
from services.ops.selection import thread_named
from services.projection.opening import Opened, opened
from services.settings import Settings
from services.wiring import Resources, resources

_PAGE: Final = 500
_POLL_S: Final = 0.25
"""Seconds between two looks for new events; one of them is one short query."""
_AWAY_S: Final = 1.0
"""Seconds between two looks for a database that does not answer."""
_NAMES: Final = 10_000

app = typer.Typer(help="Read the log.", no_args_is_help=True)
Open = Annotated[bool, typer.Option("--open", help="Open what is sealed: texts, names, details.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


@app.command(epilog="Example: threadlog log show blog article-17 --open")
def show(
    site: Annotated[str, typer.Argument(help="The site.")],
    thread: Annotated[str, typer.Argument(help="The thread's key.")],
    open_: Open = False,
    as_json: AsJson = False,
    after: Annotated[int, typer.Option(min=0, help="Begin behind this version.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many events.")] = None,
) -> None:
    """Print a thread's events, oldest first. What is sealed is opened on demand, unless its key is erased."""
    run(_show(Settings.load(), site, thread, open_, as_json, after, limit))


async def _show(
    settings: Settings, site: str, thread: str, open_: bool, as_json: bool, after: int, limit: int | None
) -> None:
    async with resources(settings) as found:
        name = await thread_named(found, site, thread)
        printer = _Printer(found, open_, as_json, with_stream=False)
        left = limit
        async for events in found.log.pages(name.stream_id, after, size=_PAGE):
            await printer.print(events if left is None else events[:left])
            left = None if left is None else left - len(events)
            if left is not None and left <= 0:
                break
        printer.tell()


@app.command(epilog="Example: threadlog log tail --follow --json")
def tail(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Begin this many events back.")] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as events come, until Ctrl-C.")
    ] = False,
    open_: Open = False,
    as_json: AsJson = False,
) -> None:
    """Print the newest events of every thread and site; with --follow none is ever skipped."""
    run(_tail(Settings.load(), lines, follow, open_, as_json))


async def _tail(settings: Settings, lines: int, follow: bool, open_: bool, as_json: bool) -> None:
    async with resources(settings) as found:
        printer = _Printer(found, open_, as_json, with_stream=True)
        heads = await found.log.lanes()
        cursors = {lane: max(0, head - lines) for lane, head in heads.items()}
        newest = [event async for events in walk(found.log, cursors, heads) for event in events]
        newest.sort(key=lambda event: event.recorded_at)
        await printer.print(newest[len(newest) - min(lines, len(newest)) :])
        del newest
        if follow:
            await _follow(found, cursors, printer)
        printer.tell()


async def _follow(found: Resources, cursors: dict[int, int], printer: _Printer) -> None:
    """Print what comes, until the process is ended. Where the database goes away, go on once it is back: the
    cursors stand behind what was printed."""
    away = False
    while True:
        try:
            async for events in walk(found.log, cursors):
                await printer.print(events)
            if away:
                complain("the database answers again: going on")
            away = False
            await asyncio.sleep(_POLL_S)
        except Exception as error:
            if not is_lost(error):
                raise
            if not away:
                complain(f"the database does not answer ({type(error).__name__}): going on once it does")
            away = True
            await asyncio.sleep(_AWAY_S)


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
    """Prints events, and counts what it opens."""

    def __init__(self, found: Resources, open_: bool, as_json: bool, *, with_stream: bool) -> None:
        self._log = found.log
        self._keyring = found.keyring
        self._open = open_
        self._as_json = as_json
        self._with_stream = with_stream
        self._names: dict[UUID, tuple[str, str | None]] = {}
        self._seals: Counter[str] = Counter()

    async def print(self, events: list[Recorded]) -> None:
        """Print these; where this raises something else than the output's errors, none was printed."""
        keys: dict[UUID, AuthorKey] = {}
        if self._open:
            keys = await self._keyring.by_id(event.key_id for event in events if event.key_id is not None)
        if self._with_stream:
            await self._learn({event.stream_id for event in events})
        for event in events:
            text = opened(event, keys) if self._open else None
            if text is not None and event.sealed is not None:
                self._seals[text.shut or "opened"] += 1
            if self._as_json:
                where = self._where(event) if self._with_stream else {}
                print_json(recorded(event) | where | ({} if text is None else text.told()))
            else:
                site, key = self._names.get(event.stream_id, (None, None))
                say(line(event, text, stream=site if key is None else f"{site}/{key}"))

    def _where(self, event: Recorded) -> dict[str, object]:
        """A stream's id says nothing to a person."""
        site, key = self._names[event.stream_id]
        return {"site": site, "thread": key}

    def tell(self) -> None:
        """Say what was opened, and what was not, on standard error: reading others' texts leaves a trace."""
        if self._seals:
            complain("sealed parts: " + ", ".join(f"{count:,} {how}" for how, count in self._seals.items()))

    async def _learn(self, stream_ids: set[UUID]) -> None:
        """What the streams are called. The names of few are kept: a log has any number."""
        if len(self._names) > _NAMES:
            self._names.clear()
        unknown = stream_ids - self._names.keys()
        named = await self._log.names(unknown) if unknown else {}
        for stream_id in unknown:
            self._names[stream_id] = named.get(stream_id, (str(stream_id), None))


def line(event: Recorded, text: Opened | None, *, stream: str | None = None) -> str:
    """One event for a person to read; `text` is what is sealed in it, where that was asked for."""
    parts = [f"{event.version:>6}", f"{event.recorded_at:%Y-%m-%d %H:%M:%S}Z", f"{event.type:<19}"]
    if stream is not None:
        parts.insert(0, f"{event.lane}:{event.position:<8} {_plain(stream)}")
    parts.append(f"{_plain(event.actor_id or 'the system'):<12}")
    try:
        data = orjson.loads(event.data)
        named = {"event": str(event.event_id)} if event.type in ("CommentPosted", "ReplyPosted") else {}
        said = named | {name: value for name, value in data.items() if name not in ("text_mac", "posted")}
        parts.append(" ".join(f"{name}={_short(value)}" for name, value in said.items()))
    except (orjson.JSONDecodeError, AttributeError):
        parts.append(f"data={_short(event.data.decode(errors='replace'))} (no JSON object)")
    if text is not None and text.text is not None:
        parts.append(" ".join(f"{name}={_short(value)}" for name, value in text.text.items()))
    elif event.sealed is not None:
        shut = "" if text is None else f" ({text.shut})"
        parts.append(f"sealed={len(event.sealed)} bytes{shut}")
    return "  ".join(part for part in parts if part).rstrip()


def _plain(name: str) -> str:
    """A name on one line."""
    return name if name.isprintable() else orjson.dumps(name).decode()


def _short(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    if isinstance(value, str) and (" " in text or not text.isprintable() or not text):
        text = orjson.dumps(value).decode()
    return text
