"""`threadlog replay` and `threadlog verify`: rebuild what is derived from the log, or compare it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.core.addresses import check_site, site_stream_id
from services.errors import PoisonEvent, StreamBroken
from services.eventlog.log import ThreadName
from services.eventlog.state import Difference
from services.ops.exits import Exit, leave, run
from services.ops.output import Progress, complain, print_json, say
from services.ops.selection import check_selection, count, selected
from services.settings import Settings
from services.wiring import Resources, resources

Site = Annotated[str | None, typer.Option("--site", "-s", help="The threads of this site.")]
Thread = Annotated[str | None, typer.Option("--thread", "-t", help="This thread of the site alone.")]
All = Annotated[bool, typer.Option("--all", help="The threads of all sites.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_LINES = 20
"""Differences of one thread that are printed; the JSON has all."""


def replay(
    site: Site = None,
    thread: Thread = None,
    everything: All = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which threads it would be, and how many events.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild threads from their events: the decision state in place, the view beside the one that serves.

    Readers and writers go on meanwhile. Nobody is notified.
    """
    check_selection(site, thread, everything)
    leave(run(_replay(Settings.load(), site, thread, dry_run, as_json)))


async def _replay(
    settings: Settings, site: str | None, thread: str | None, dry_run: bool, as_json: bool
) -> Exit:
    threads = events = rows = 0
    failed: list[dict[str, Any]] = []
    async with resources(settings) as found:
        total = await count(found, site, thread)
        with Progress("replay", total, unit="threads") as progress:
            async for name in selected(found, site, thread):
                threads += 1
                if dry_run:
                    events += name.version
                    if not as_json:
                        say(f"would replay {name.site} {name.key!r}: {name.version:,} events")
                    continue
                try:
                    done = await found.replayer.replay(name.stream_id)
                except PoisonEvent as error:
                    complain(f"{name.site} {name.key!r}: {error}")
                    failed.append({"site": name.site, "thread": name.key, "reason": str(error)})
                else:
                    events += done.version
                    rows += done.rows
                    if thread is not None and not as_json:
                        say(
                            f"replayed {name.site} {name.key!r}: {done.version:,} events, "
                            f"{done.rows:,} rows changed, {done.seconds * 1000:,.0f} ms"
                        )
                progress.advance()
            rate = progress.rate
        if site is None and not dry_run:
            rows += await found.replayer.remove_strays()
    if as_json:
        print_json(
            {"dry_run": dry_run, "threads": threads, "events": events, "rows_changed": rows, "failed": failed}
        )
    elif dry_run:
        say(f"{threads:,} threads, {events:,} events; nothing was changed")
    elif thread is None:
        say(
            f"replayed {threads - len(failed):,} threads, {events:,} events, {rows:,} rows changed, "
            f"{rate:,.0f} threads/s"
        )
    return Exit.FAILED if failed else Exit.DONE


def verify(
    site: Site = None,
    thread: Thread = None,
    everything: All = False,
    chain: Annotated[bool, typer.Option("--chain", help="Check versions and hash chain as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fold the log, compare it with what is served, and write nothing. Exits 1 on a difference."""
    check_selection(site, thread, everything)
    leave(run(_verify(Settings.load(), site, thread, chain, as_json)))


async def _verify(
    settings: Settings, site: str | None, thread: str | None, chain: bool, as_json: bool
) -> Exit:
    findings: list[dict[str, Any]] = []
    threads = 0
    async with resources(settings) as found:
        total = await count(found, site, thread)
        with Progress("verify", total, unit="threads") as progress:
            async for name in selected(found, site, thread):
                threads += 1
                told = {"site": name.site, "thread": name.key}
                findings += [told | one for one in await _of_thread(found, name, chain)]
                progress.advance()
            if site is None:
                strays = await found.verifier.strays()
                findings += [{"site": None, "thread": None, **_difference(one)} for one in strays]
            if thread is None:
                findings += await _of_sites(found, site, chain)
    if as_json:
        print_json({"identical": not findings, "threads": threads, "differences": findings})
    elif findings:
        _print(findings)
    else:
        chained = "; every hash chain holds" if chain else ""
        say(f"identical: {threads:,} thread{'' if threads == 1 else 's'}{chained}")
    return Exit.FOUND if findings else Exit.DONE


async def _of_thread(found: Resources, name: ThreadName, chain: bool) -> list[dict[str, Any]]:
    try:
        if chain:
            await found.verifier.chain(name.stream_id)
        return [_difference(one) for one in await found.verifier.thread(name.stream_id)]
    except (PoisonEvent, StreamBroken) as error:
        return [_broken(error)]


async def _of_sites(found: Resources, site: str | None, chain: bool) -> list[dict[str, Any]]:
    """The streams of the sites themselves: their settings."""
    findings: list[dict[str, Any]] = []
    for name, version, _ in await found.sites.all():
        if version == 0 or (site is not None and name != site):
            continue
        stream_id = site_stream_id(check_site(name))
        try:
            if chain:
                await found.verifier.chain(stream_id)
            differences = [_difference(one) for one in await found.verifier.site(stream_id)]
        except (PoisonEvent, StreamBroken) as error:
            differences = [_broken(error)]
        findings += [{"site": name, "thread": None} | one for one in differences]
    return findings


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "path": one.path,
        "stored": _readable(one.stored),
        "replayed": _readable(one.replayed),
    }


def _broken(error: PoisonEvent | StreamBroken) -> dict[str, Any]:
    kind = "chain" if isinstance(error, StreamBroken) else "event"
    return {"kind": kind, "path": f"version {error.version}", "stored": error.reason, "replayed": None}


def _readable(value: object) -> object:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    return value


def _print(findings: list[dict[str, Any]]) -> None:
    seen: dict[tuple[str, str | None], int] = {}
    for one in findings:
        place = (one["site"], one["thread"])
        if place not in seen:
            what = "settings" if one["thread"] is None else repr(one["thread"])
            say("rows that no event made:" if one["site"] is None else f"{one['site']} {what} differs:")
        seen[place] = seen.get(place, 0) + 1
        if seen[place] <= _LINES:
            say(f"  {one['kind']} {one['path']}: stored {one['stored']!r}, replayed {one['replayed']!r}")
    for (site, thread), differences in seen.items():
        if differences > _LINES:
            say(f"  … {differences - _LINES:,} more of {site} {thread!r}; --json has all")
    first = next(iter(seen))
    if first[1] is not None:
        say(f"next: threadlog replay --site {first[0]} --thread {first[1]!r}")
