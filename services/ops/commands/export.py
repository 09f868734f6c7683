"""`threadlog export`: a site's log, or a thread's, as a file that `threadlog import log` takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer
import zstandard

from services.core.addresses import check_site, check_thread_key
from services.errors import SiteNotFound
from services.eventlog.keytransfer import TransferKey
from services.ops.choosing import time_of
from services.ops.exits import UsageRefused, run
from services.ops.exporters.log import Exported, LogExport
from services.ops.output import Progress, complain, print_json
from services.settings import Settings
from services.wiring import reading, resources

_LEVEL: Final = 6
STDOUT: Final = Path("-")


def export(
    site: Annotated[str, typer.Option("--site", "-s", help="The site.", show_default=False)],
    thread: Annotated[str | None, typer.Option("--thread", "-t", help="Of this thread alone.")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only what was recorded since: 2026-11-23T05:00:00Z, or 2h, 3d ago."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The file; - for standard output.", dir_okay=False),
    ] = STDOUT,
    with_keys: Annotated[
        bool,
        typer.Option("--with-keys", help="With the living authors' keys, wrapped by the key in --key-file."),
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(help="Made where it is not there: keep it apart from the export.", dir_okay=False),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="JSON lines that are not compressed.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as JSON; with -o only.")
    ] = False,
) -> None:
    """Write a site's log to a file (JSON lines, zstd): to back it up, to move it, to bring a bug home.

    Without keys nobody can open the texts in it, whatever else they have. A person who was erased takes their
    texts out of every export: their key is gone.
    """
    check_site(site)
    if thread is not None:
        check_thread_key(thread)
    if with_keys != (key_file is not None):
        raise UsageRefused("--with-keys and --key-file FILE go together")
    if as_json and output == STDOUT:
        raise UsageRefused("--json needs -o: standard output is the export")
    settings = Settings.load()
    transfer = None
    if key_file is not None:
        transfer = TransferKey.read(key_file) if key_file.exists() else TransferKey.make(key_file)
        complain(f"the authors' keys go along, wrapped by {key_file}: who has both reads every text")
    asked = LogExport(site, thread, None if since is None else time_of(since), transfer)
    with _opened(output, plain=plain) as file:
        done = run(_export(settings, asked, file))
    if as_json:
        print_json(done)
    else:
        complain(f"exported: {done.events:,} events of {done.streams:,} streams, {_keys(done)}")


async def _export(settings: Settings, asked: LogExport, file: BinaryIO) -> Exported:
    async with resources(settings) as found, reading(found) as reads:
        if await found.sites.get(asked.site) is None:
            raise SiteNotFound(asked.site)
        total = None
        if asked.thread is None and asked.since is None:
            total = await reads.log.size(asked.site)
        with Progress("exporting", total, unit="events") as progress:
            return await asked.write(found, reads.log, file.write, progress.advance)


@contextmanager
def _opened(output: Path, *, plain: bool) -> Iterator[BinaryIO]:
    """Where the lines go. A file takes its name once it is whole and on the disk."""
    if output == STDOUT:
        if sys.stdout.isatty() and not plain:
            raise UsageRefused("a terminal shows no compressed data: -o FILE, or --plain")
        with _packed(sys.stdout.buffer, plain=plain) as packed:
            yield packed
        sys.stdout.buffer.flush()
        return
    part = output.with_name(output.name + ".part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            with _packed(file, plain=plain) as packed:
                yield packed
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _packed(file: BinaryIO, *, plain: bool) -> Iterator[BinaryIO]:
    if plain:
        yield file
        return
    packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    with packer.stream_writer(file, closefd=False) as writer:
        yield writer


def _keys(done: Exported) -> str:
    living = done.keys - done.erased
    return f"{living:,} keys" if living else "no keys: the texts stay sealed"
