"""An import of a log: a file's events are checked, all of them, and then copied into this log.

Nothing is written before the file was read to its end, its chains held, and no stream was found to tell
another story than the log here. What is there already is passed over, so that an import which was cut short
is finished by running it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

import asyncpg

from schema.events.envelope import Recorded
from services.core.addresses import site_stream_id
from services.errors import StreamBroken
from services.eventlog.copying import Copied, Copier
from services.eventlog.keytransfer import Adopted, KeysIn, MovedKey, TransferKey
from services.ops.exits import UsageRefused
from services.ops.importers.logfile import Chains, LogFile
from services.ops.importers.records import ImportRefused
from services.wiring import Resources

BATCH: Final = 500
"""Events written in one transaction of each lane, at most."""

BATCH_BYTES: Final = 4 << 20
"""Bytes of their payloads, about."""

_KEYS: Final = 500

Phase = Literal["checking", "writing"]
Progress = Callable[[Phase, int], None]
"""Told how many bytes of the file are read, in which phase."""


@dataclass(slots=True)
class LogReport:
    """The account of one import. `shut` tells of keys that came and could not be opened: none was given."""

    site: str = ""
    thread: str | None = None
    streams: int = 0
    events: int = 0
    keys: int = 0
    shut: bool = False
    copied: Copied = field(default_factory=Copied)
    adopted: Adopted = field(default_factory=Adopted)


async def import_log(
    resources: Resources,
    file: LogFile,
    *,
    transfer: TransferKey | None,
    settings: bool,
    progress: Progress,
    report: LogReport,
) -> None:
    """Copy a file's events into this log; without `settings`, those of the site's own stream stay behind.

    `report` is filled as it goes on. Raises UsageRefused where there is no such site, or an author has
    another key here; ImportRefused before anything is written, unless others write to the same threads.
    """
    header = file.header()
    report.site, report.thread = header.site, header.thread
    if await resources.sites.get(header.site) is None:
        raise UsageRefused(f"no site {header.site!r}: `threadlog site add` it; secrets and keys do not move")
    report.shut = header.keys and transfer is None
    erased = resources.erasures.file
    keys = KeysIn(
        resources.pool, resources.master, transfer, frozenset(() if erased is None else erased.keys())
    )
    copier = Copier(resources.hosts, resources.lanes, header.site)
    left_out = None if settings else site_stream_id(header.site)
    try:
        await _check(file, copier, keys, left_out, progress, report)
        await _adopt(file, keys, report)
        await _copy(file, copier, left_out, progress, report)
    except StreamBroken as broken:
        names = await resources.log.names([broken.stream_id])
        _, key = names.get(broken.stream_id, (header.site, None))
        if broken.stream_id == site_stream_id(header.site):
            what = f"the settings of {header.site} were changed here too (--no-settings leaves them out)"
        else:
            what = f"the thread {key or broken.stream_id}"
        raise ImportRefused(f"{what}, at version {broken.version}: {broken.reason}", "the file") from broken
    except asyncpg.DataError as error:
        raise ImportRefused(f"Postgres does not take a value: {error}", "the file") from error
    except asyncpg.UniqueViolationError as error:
        raise ImportRefused("a comment of it is in another thread here", "the file") from error
    finally:
        await copier.close()


async def _check(
    file: LogFile,
    copier: Copier,
    keys: KeysIn,
    left_out: UUID | None,
    progress: Progress,
    report: LogReport,
) -> None:
    """Read the file to its end, and compare what it has in common with the log here."""
    chains = Chains(file.header())
    chunk: list[Recorded] = []

    async def compare() -> None:
        await copier.compare(chunk)
        chunk.clear()
        progress("checking", file.read)

    for line in file.lines():
        chains.take(line)
        if isinstance(line.what, MovedKey):
            keys.check(line.what)
        elif isinstance(line.what, Recorded) and line.what.stream_id != left_out:
            chunk.append(line.what)
            if len(chunk) >= BATCH:
                await compare()
    await compare()
    report.streams, report.events, report.keys = chains.streams, chains.events, chains.keys


async def _adopt(file: LogFile, keys: KeysIn, report: LogReport) -> None:
    """Take the keys, before anything that is sealed under them."""
    some: list[MovedKey] = []
    for line in file.lines():
        if not isinstance(line.what, MovedKey):
            break
        some.append(line.what)
        if len(some) == _KEYS:
            await keys.adopt(report.site, some, report.adopted)
            some.clear()
    await keys.adopt(report.site, some, report.adopted)
    if report.adopted.taken:
        names = ", ".join(report.adopted.taken[:10])
        raise UsageRefused(
            f"{len(report.adopted.taken)} authors have another key at {report.site} here: {names}. What they "
            "wrote there would stay shut: import into a site where nobody has written, or without --key-file"
        )


async def _copy(
    file: LogFile, copier: Copier, left_out: UUID | None, progress: Progress, report: LogReport
) -> None:
    for chunk in _chunks(file, left_out):
        await copier.write(chunk, report.copied)
        progress("writing", file.read)


def _chunks(file: LogFile, left_out: UUID | None) -> Iterator[list[Recorded]]:
    chunk: list[Recorded] = []
    size = 0
    for line in file.lines():
        if isinstance(line.what, Recorded) and line.what.stream_id != left_out:
            chunk.append(line.what)
            size += len(line.what.data) + len(line.what.sealed or b"")
            if len(chunk) >= BATCH or size >= BATCH_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk
