"""`threadlog import log`: what it shows and tells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from services.eventlog.keytransfer import TransferKey
from services.ops.exits import UsageRefused
from services.ops.importers.logcopy import LogReport, Phase, import_log
from services.ops.importers.logfile import LogFile
from services.ops.importers.records import ImportRefused
from services.ops.output import Progress, complain, fields, print_json
from services.settings import Settings
from services.wiring import resources


async def import_file(
    settings: Settings,
    path: Path,
    site: str | None,
    key_file: Path | None,
    *,
    settings_too: bool,
    as_json: bool,
) -> None:
    """Import a file, and tell of it. `site`, where given, is the one that it must be of.

    Raises UsageRefused for a damaged file, and what `import_log` raises.
    """
    transfer = None if key_file is None else TransferKey.read(key_file)
    report = LogReport()
    started = time.monotonic()
    try:
        with closing(LogFile(path)) as file:
            if site is not None and file.header().site != site:
                raise UsageRefused(f"{path} is of the site {file.header().site}, not of {site}")
            async with resources(settings) as found:
                with Progress("checking", file.size, unit="bytes") as progress:

                    def show(phase: Phase, read: int) -> None:
                        progress.phase(phase, file.size, read, unit="bytes")

                    await import_log(
                        found, file, transfer=transfer, settings=settings_too, progress=show, report=report
                    )
    except ImportRefused as refused:
        raise UsageRefused(f"{path} is refused{_so_far(report)}: {refused}") from refused
    except BaseException:
        if report.copied.added:
            complain(f"cut short{_so_far(report)}; running it again goes on from there")
        raise
    seconds = time.monotonic() - started
    if as_json:
        print_json(_as_json(report, seconds))
    else:
        _print(report, seconds)
    for line in _notes(report):
        complain(line)


def _so_far(report: LogReport) -> str:
    added = report.copied.added
    return f" after {added:,} new events" if added else ", and no event of it was written"


def _notes(report: LogReport) -> Iterator[str]:
    site = report.site
    if report.shut:
        yield "no --key-file was given: the texts stay shut until the file is imported again with it"
    if report.adopted.added and report.copied.existing:
        yield f"texts that were shut open now: threadlog replay --site {site}"
    if report.copied.poison:
        yield "some events cannot be folded, as where they come from: threadlog verify tells of their threads"
    for author in report.adopted.alive:
        yield f"{author} was erased where the file comes from, and not here: threadlog erase {site} {author}"


def _as_json(report: LogReport, seconds: float) -> dict[str, object]:
    return {
        "site": report.site,
        "thread": report.thread,
        "streams": report.streams,
        "events": report.events,
        "added": report.copied.added,
        "existing": report.copied.existing,
        "unfoldable": report.copied.poison,
        "keys": report.keys,
        "keys_added": report.adopted.added,
        "keys_erased_here": report.adopted.erased,
        "erased_elsewhere": report.adopted.alive,
        "seconds": round(seconds, 3),
    }


def _print(report: LogReport, seconds: float) -> None:
    fields(
        [
            ("site", report.site),
            ("streams", report.streams),
            ("events", report.events),
            ("added", report.copied.added),
            ("already there", report.copied.existing),
            ("keys added", report.adopted.added),
            ("seconds", seconds),
        ]
    )
