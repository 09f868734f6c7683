"""`threadlog replay --dry-run`: what a replay would change. Nothing is written, in Postgres or in Redis."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from uuid import UUID

from services.eventlog.replays import Logged, Replays, Selected, spans_of
from services.eventlog.state import Difference
from services.ops.exits import Exit
from services.ops.output import Progress, print_json, say
from services.projection.replay import is_rebuilt
from services.projection.wholecheck import WholeCheck
from services.readmodel.views import Views
from services.wiring import Reading

_PAGE: Final = 64
_LINES: Final = 20
"""Differences of one thread that are printed; the JSON has all."""


async def show(reads: Reading, views: Views, selected: Selected, as_json: bool) -> Exit:
    """Print what a replay of these threads would change. FOUND where that is anything."""
    threads = events = 0
    kinds: Counter[str] = Counter()
    changes: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []

    def note(whose: dict[str, Any], differences: Sequence[Difference]) -> None:
        for one in differences:
            if is_rebuilt(one):
                kinds[one.kind] += 1
                changes.append(whose | _change(one))
            else:
                failed.append(whose | {"reason": f"{one.kind} {one.path}: {_plain(one.stored)}"})

    size, _ = await reads.replays.size(selected)
    with Progress("replay, dry", size, unit="threads") as progress:
        async for page in _pages(reads.replays, selected):
            async for one, version, differences in _differences(reads, page):
                note({"site": one.site, "thread": one.key}, differences)
                if one.key is not None:
                    threads += 1
                    events += version
                    progress.advance()
        if selected.everything:
            async for stray in WholeCheck(reads.verifier, views).differences():
                note({"site": None, "thread": None}, [stray])
    if as_json:
        told = {"dry_run": True, "threads": threads, "events": events}
        print_json(told | {"kinds": kinds, "changes": changes, "failed": failed})
    else:
        _print(changes, failed)
        say(f"{threads:,} threads, {events:,} events; nothing was changed")
        for kind, count in sorted(kinds.items()):
            say(f"  {kind}: {count:,} would change")
    if failed:
        return Exit.FAILED
    return Exit.FOUND if kinds else Exit.DONE


async def _pages(replays: Replays, selected: Selected) -> AsyncIterator[list[Logged]]:
    for behind, last in spans_of(selected, 1):
        through: UUID | None = behind
        while last is not None and through is not None:
            streams, through = await replays.streams(selected, through, last, _PAGE)
            yield streams


async def _differences(
    reads: Reading, page: list[Logged]
) -> AsyncIterator[tuple[Logged, int, list[Difference]]]:
    threads = {one.stream_id: one for one in page if not one.is_site}
    for checked in await reads.verifier.threads(list(threads)):
        yield threads[checked.stream_id], checked.version, checked.differences
    for one in page:
        if one.is_site:
            yield one, 0, await reads.verifier.site(one.stream_id)


def _change(one: Difference) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "path": one.path,
        "stored": _plain(one.stored),
        "replayed": _plain(one.replayed),
    }


def _plain(value: object) -> object:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _print(changes: list[dict[str, Any]], failed: list[dict[str, Any]]) -> None:
    shown: Counter[tuple[str | None, str | None]] = Counter()
    for one in changes:
        place = (one["site"], one["thread"])
        if not shown[place]:
            what = "settings" if one["thread"] is None else repr(one["thread"])
            say("rows that no event made would go:" if one["site"] is None else f"{one['site']} {what}:")
        shown[place] += 1
        if shown[place] <= _LINES:
            say(f"  {one['kind']} {one['path']}: {one['stored']!r} would be {one['replayed']!r}")
    for (site, thread), count in shown.items():
        if count > _LINES:
            say(f"  … {count - _LINES:,} more of {site} {thread!r}; --json has all")
    for one in failed:
        say(f"{one['site']} {one['thread']!r} cannot be replayed: {one['reason']}")
