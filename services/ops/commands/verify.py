"""`threadlog verify`: fold the log, compare it with what is served, and say what differs."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Final

import typer

from services.core.addresses import check_site, site_stream_id
from services.eventlog.log import ThreadName
from services.ops.choosing import Choice, sample_of, time_of
from services.ops.differences import Json, Text, Told
from services.ops.exits import Exit, UsageRefused, leave, run
from services.ops.output import Progress
from services.projection.advance import SHORT
from services.projection.verify import Checked, Verifier
from services.projection.wholecheck import WholeCheck
from services.settings import Settings
from services.wiring import Reading, Resources, reading, resources

_TOGETHER: Final = 100
"""Threads compared in one round, at most; of 2,000 events together, or a single longer one."""

_AT_ONCE: Final = 3
"""Rounds under way: while one is folded, the others are read."""


def verify(
    site: Annotated[str | None, typer.Option("--site", "-s", help="The threads of this site.")] = None,
    thread: Annotated[
        str | None, typer.Option("--thread", "-t", help="This thread of the site alone.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="The threads of all sites; so it is where nothing is said.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(help="Threads with events since: 2026-11-23T05:00:00Z, or 2h, 3d ago.")
    ] = None,
    sample: Annotated[str | None, typer.Option(help="So many threads at random: 1000, or 2%.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Draw the sample that was drawn with this seed before.")
    ] = None,
    chain: Annotated[
        bool, typer.Option("--chain", help="Check versions, hash chains and positions as well.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fold the log, compare it with what is served, and write nothing. Exits 1 on a difference.

    Compared are the views in Redis and whatever the database derives from the log. Readers and writers go on
    meanwhile. What no thread has, such as a row that no event made, is looked for only where nothing is left
    out.
    """
    if thread is not None and site is None:
        raise UsageRefused("--thread needs --site")
    if everything and (site, since, sample) != (None, None, None):
        raise UsageRefused("--all stands alone")
    if thread is not None and (since, sample) != (None, None):
        raise UsageRefused("--thread is one thread: without --since and --sample")
    if since is not None and sample is not None:
        raise UsageRefused("--since or --sample, not both")
    choice = Choice(
        site,
        thread,
        None if since is None else time_of(since),
        None if sample is None else sample_of(sample),
        secrets.randbelow(1 << 32) if seed is None else seed,
    )
    leave(run(_verify(Settings.load(), choice, chain=chain, as_json=as_json)))


async def _verify(settings: Settings, choice: Choice, *, chain: bool, as_json: bool) -> Exit:
    told = Json(choice) if as_json else Text(choice)
    async with resources(settings) as found, reading(found) as reads:
        with Progress("verify", await choice.count(found), unit="threads") as progress:
            await compare(found, reads, choice, told, chain=chain, advance=progress.advance)
    return told.end(chain=chain)


async def compare(
    found: Resources,
    reads: Reading,
    choice: Choice,
    told: Told,
    *,
    chain: bool = False,
    advance: Callable[[int], object] = int,
) -> None:
    """Compare the threads of a choice, and what belongs to none where it is everything."""
    async for names, checked in _rounds(reads.verifier, choice.threads(found), chain=chain):
        for name, one in zip(names, checked, strict=True):
            told.differ(name.site, name.key, one.differences)
        told.threads += len(names)
        advance(len(names))
    if choice.is_everything:
        await _rest(found, reads, told, chain=chain)
    if choice.thread is None and choice.sample is None:
        await _sites(found, reads, told, choice.site, chain=chain)


async def _rounds(
    verifier: Verifier, threads: AsyncIterator[ThreadName], *, chain: bool
) -> AsyncIterator[tuple[list[ThreadName], list[Checked]]]:
    """The threads, compared some at a time, in their order; a few rounds are under way at once."""
    under_way: deque[tuple[list[ThreadName], asyncio.Task[list[Checked]]]] = deque()
    try:
        async for names in _batches(threads):
            task = asyncio.create_task(verifier.threads([one.stream_id for one in names], chain=chain))
            under_way.append((names, task))
            if len(under_way) == _AT_ONCE:
                done, first = under_way.popleft()
                yield done, await first
        while under_way:
            done, first = under_way.popleft()
            yield done, await first
    finally:
        for _, task in under_way:
            task.cancel()
        await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)


async def _batches(threads: AsyncIterator[ThreadName]) -> AsyncIterator[list[ThreadName]]:
    batch: list[ThreadName] = []
    events = 0
    async for name in threads:
        if batch and (len(batch) == _TOGETHER or events + name.version > SHORT):
            yield batch
            batch, events = [], 0
        batch.append(name)
        events += name.version
    if batch:
        yield batch


async def _rest(found: Resources, reads: Reading, told: Told, *, chain: bool) -> None:
    """What belongs to no thread that the log has, and streams that only the log has."""
    whole = WholeCheck(reads.verifier, found.views)
    own = {site_stream_id(check_site(name)) for name, _, _ in await found.sites.all()}
    async for stream_id in whole.unlisted():
        if stream_id not in own:
            site, key = await whole.name(stream_id)
            [one] = await reads.verifier.threads([stream_id], chain=chain)
            told.differ(site, key, one.differences)
            told.threads += 1
    async for difference in whole.differences():
        told.differ(None, None, [difference])
    if chain:
        async for difference in whole.positions():
            told.differ(None, None, [difference])


async def _sites(found: Resources, reads: Reading, told: Told, site: str | None, *, chain: bool) -> None:
    """The streams of the sites themselves: their settings."""
    for name, _, _ in await found.sites.all():
        if site in (None, name):
            stream_id = site_stream_id(check_site(name))
            told.differ(name, None, await reads.verifier.site(stream_id, chain=chain))
