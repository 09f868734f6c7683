"""`threadlog import`: comments of another system, with their authors and times; another threadlog's log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, BinaryIO, Final, TypeAlias

import typer

from services.core.addresses import check_site, check_thread_key
from services.ops.commands.import_log import import_file
from services.ops.exits import UsageRefused, run
from services.ops.importers.jsonl import read_jsonl
from services.ops.importers.records import AuthorId, ImportRefused, Record, Report, Tally
from services.ops.importers.run import Step, author_hmac, run_import
from services.ops.importers.wxr import ThreadKey, read_wxr
from services.ops.output import Progress, complain, fields, print_json, say, table
from services.settings import Settings
from services.wiring import resources

EXAMPLES: Final = 3
"""Places shown for each reason in the table; the JSON has all that were kept."""

app = typer.Typer(
    name="import",
    help="Import comments from a file. Nobody is notified, and running it again adds nothing.",
    no_args_is_help=True,
)

Open: TypeAlias = Callable[[AuthorId], Iterable[Record]]

File = Annotated[
    Path, typer.Argument(help="The file.", exists=True, dir_okay=False, readable=True, show_default=False)
]
Site = Annotated[
    str, typer.Option("--site", "-s", help="The site that the comments go to.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.command(epilog="Example: threadlog import wxr export.xml --site blog")
def wxr(
    file: File,
    site: Site,
    key: Annotated[
        ThreadKey,
        typer.Option(
            help="What names a thread: the path of the page's link, the whole link, or the post's number."
        ),
    ] = "path",
    as_json: AsJson = False,
) -> None:
    """Import the approved comments of a WordPress export (WXR)."""
    with file.open("rb") as stream:
        _run(stream, site, lambda author_id: read_wxr(stream, key=key, author_id=author_id), as_json)


@app.command(epilog="Example: threadlog import jsonl thread.jsonl --site blog --thread 2015/09/talk-therapy")
def jsonl(
    file: File,
    site: Site,
    thread: Annotated[str, typer.Option("--thread", "-t", help="The key of the thread.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Import one thread from JSON lines: {"id", "parent_id", "author", "created_at", "body"} on each."""
    check_thread_key(thread)
    with file.open("rb") as stream:
        _run(
            stream,
            site,
            lambda author_id: read_jsonl(stream, thread_key=thread, author_id=author_id),
            as_json,
        )


@app.command(epilog="Example: threadlog import log blog.jsonl.zst --key-file transfer.key")
def log(
    file: File,
    site: Annotated[
        str | None, typer.Option("--site", "-s", help="Refuse a file of another site than this.")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(help="The file that `export --with-keys` made.", exists=True, dir_okay=False),
    ] = None,
    settings: Annotated[
        bool, typer.Option("--settings/--no-settings", help="With the site's own events: its settings.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Import the log that `threadlog export` wrote: the same events, with the same hashes."""
    run(import_file(Settings.load(), file, site, key_file, settings_too=settings, as_json=as_json))


def _run(stream: BinaryIO, site: str, records: Open, as_json: bool) -> None:
    check_site(site)
    settings = Settings.load()
    report = Report()
    started = time.monotonic()
    try:
        run(_import(settings, stream, site, records, report))
    except ImportRefused as refused:
        raise UsageRefused(f"the file is refused, and nothing of it was written: {refused}") from refused
    except BaseException:
        if report.added + report.existing + report.placeholders:
            complain(f"cut short after {report.added:,} new comments; running it again goes on from there")
        raise
    seconds = time.monotonic() - started
    if as_json:
        print_json(_as_json(report, site, seconds))
    else:
        _print(report, seconds)


async def _import(settings: Settings, stream: BinaryIO, site: str, records: Open, report: Report) -> None:
    async with resources(settings) as found:
        size = _size(stream)
        with Progress("reading", size, unit="comments" if size is None else "bytes") as progress:

            def show(step: Step) -> None:
                if step.phase == "reading" and size is not None:
                    progress.phase(step.phase, size, stream.tell(), unit="bytes")
                else:
                    progress.phase(step.phase, step.total, step.done, unit="comments")

            await run_import(found, records(author_hmac(found.master, site)), site, show, report)


def _size(stream: BinaryIO) -> int | None:
    """Bytes of a file; None for a pipe."""
    if not stream.seekable():
        return None
    size = stream.seek(0, 2)
    stream.seek(0)
    return size


def _as_json(report: Report, site: str, seconds: float) -> dict[str, object]:
    return {
        "site": site,
        "threads": report.threads,
        "comments": report.comments,
        "added": report.added,
        "existing": report.existing,
        "placeholders": report.placeholders,
        "skipped": _tally(report.skipped),
        "noted": _tally(report.noted),
        "seconds": round(seconds, 3),
    }


def _tally(tally: Tally) -> dict[str, dict[str, object]]:
    return {
        reason: {"count": count, "examples": tally.examples[reason]}
        for reason, count in tally.counts.most_common()
    }


def _print(report: Report, seconds: float) -> None:
    fields(
        [
            ("threads", report.threads),
            ("comments read", report.comments),
            ("added", report.added),
            ("already there", report.existing),
            ("placeholders added", report.placeholders),
            ("skipped", report.skipped.total),
            ("seconds", seconds),
        ]
    )
    for heading, tally in (("skipped", report.skipped), ("left out", report.noted)):
        if tally.total:
            say()
            table(
                ("count", heading, "for example"),
                (
                    (count, reason, ", ".join(tally.examples[reason][:EXAMPLES]))
                    for reason, count in tally.counts.most_common()
                ),
            )
