"""`threadlog replay`: rebuild what is derived from the log, while it is read and written. docs/replay.md"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Final

import typer

from services.core.addresses import check_site, check_thread_key, thread_stream_id
from services.errors import SiteNotFound
from services.eventlog.checkpoints import DeadLetters
from services.eventlog.replays import Replay, Replays, Selected, State
from services.ops.choosing import time_of
from services.ops.commands.dry_run import show
from services.ops.exits import Exit, UsageRefused, leave, run
from services.ops.output import Progress, complain, print_json, say
from services.ops.replays import line, print_all, told, unattended
from services.ops.selection import check_selection
from services.orphans import end_with_parent
from services.projection.replaying import ReplayWork
from services.settings import Settings
from services.wiring import Reading, Resources, reading, resources
from services.workers.release import release
from services.workers.replayer import MESSAGES, hand_out

_AT_ONCE: Final = 3
"""Ranges that one process works on at once: while one waits for Postgres or Redis, another computes."""

_LOOK_S: Final = 0.3
_UNATTENDED_S: Final = 5.0
"""Seconds without anybody at a replay after which whoever watches it is told, again and again."""

_GRACE_S: Final = 60.0
"""Seconds that other processes are given for the threads they are at; what they leave is replayed again."""

_FAILURES: Final = 100
"""Failed threads that are named."""

app = typer.Typer(
    invoke_without_command=True,
    epilog="Example: threadlog replay --site blog --thread article-17",
)
Number = Annotated[int, typer.Argument(help="The replay's number.", min=1)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Watch = Annotated[bool, typer.Option("--watch", help="Stay, with a progress bar, until it ends.")]
Processes = Annotated[int, typer.Option(help="Processes that do it, on this machine.", min=1, max=64)]


@app.callback()
def replay(
    ctx: typer.Context,
    site: Annotated[str | None, typer.Option("--site", "-s", help="The threads of this site.")] = None,
    thread: Annotated[
        str | None, typer.Option("--thread", "-t", help="This thread of the site alone.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Of these, those with events since: 2026-11-23T05:00:00Z, or 2h, 3d ago."),
    ] = None,
    differing: Annotated[
        bool, typer.Option("--differing", help="Of these, those that differ from the log.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="The threads of all sites.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")
    ] = False,
    workers: Annotated[bool, typer.Option("--workers", help="Have the worker processes do it.")] = False,
    max_rate: Annotated[
        int | None, typer.Option(help="Events a second, of all its processes together.", min=1)
    ] = None,
    processes: Processes = 1,
    as_json: AsJson = False,
) -> None:
    """Rebuild threads from their events: the decision state in place, the view beside the one that serves.

    Readers and writers go on meanwhile. Nobody is notified. What is killed goes on with `replay resume`.
    """
    if ctx.invoked_subcommand is not None:
        return
    # What differs, or has moved since, is a choice of its own.
    check_selection(site, thread, everything or (site is None and (differing or since is not None)))
    if dry_run and (workers or processes > 1 or max_rate is not None):
        raise UsageRefused("--dry-run reads in this process: without --workers, --processes and --max-rate")
    if workers and processes > 1:
        raise UsageRefused("--workers or --processes, not both")
    after = None if since is None else time_of(since)
    settings = Settings.load()
    if dry_run:
        leave(run(_dry_run(settings, (site, thread, after), as_json)))
    else:
        asked = _Asked(differing, max_rate, workers)
        leave(run(_replay(settings, (site, thread, after), asked, processes, as_json)))


@app.command(epilog="Example: threadlog replay status 7 --watch")
def status(
    number: Annotated[int | None, typer.Argument(help="The replay's number; without, the last 20.")] = None,
    watch: Watch = False,
    as_json: AsJson = False,
) -> None:
    """How far replays are, their rate, and the time that is left."""
    if watch and number is None:
        raise UsageRefused("which one? threadlog replay status NUMBER --watch")
    leave(run(_status(Settings.load(), number, watch, as_json)))


@app.command(epilog="Example: threadlog replay pause 7")
def pause(number: Number) -> None:
    """Halt a replay, wherever it runs, within some seconds; `resume` goes on from there."""
    leave(run(_move(Settings.load(), number, State.PAUSED, (State.RUNNING,))))


@app.command(epilog="Example: threadlog replay cancel 7")
def cancel(number: Number) -> None:
    """End a replay for good. What it has rebuilt stays."""
    leave(run(_move(Settings.load(), number, State.CANCELLED, (State.RUNNING, State.PAUSED))))


@app.command(epilog="Example: threadlog replay resume 7")
def resume(
    number: Number,
    processes: Processes = 1,
    as_json: AsJson = False,
    helper: Annotated[bool, typer.Option("--helper", hidden=True)] = False,
) -> None:
    """Go on with a replay that was paused or killed, from where it was; nothing done is done again."""
    leave(run(_resume(Settings.load(), number, processes, as_json, helper)))


# --- doing it --------------------------------------------------------------------------------------------


class _Asked:
    """How a replay is to be done."""

    __slots__ = ("differing", "max_rate", "workers")

    def __init__(self, differing: bool, max_rate: int | None, workers: bool) -> None:
        self.differing = differing
        self.max_rate = max_rate
        self.workers = workers


_Names = tuple[str | None, str | None, datetime | None]


async def _selected(found: Resources, names: _Names) -> Selected:
    """Raises SiteNotFound, BadAddress, and UsageRefused where the thread has no events."""
    site, thread, since = names
    if site is not None and await found.sites.get(check_site(site)) is None:
        raise SiteNotFound(site)
    if site is None or thread is None:
        return Selected(site, since=since)
    stream_id = thread_stream_id(site, check_thread_key(thread))
    if not await found.log.events_after(stream_id, 0, 1):
        raise UsageRefused(f"the thread {thread!r} of {site} has no events")
    return Selected(site, stream_id)


async def _dry_run(settings: Settings, names: _Names, as_json: bool) -> Exit:
    async with resources(settings) as found, reading(found) as reads:
        return await show(reads, found.views, await _selected(found, names), as_json)


async def _replay(settings: Settings, names: _Names, asked: _Asked, processes: int, as_json: bool) -> Exit:
    async with resources(settings) as found, reading(found) as reads:
        selected = await _selected(found, names)
        number = await reads.replays.begin(
            selected, differing=asked.differing, max_rate=asked.max_rate, workers=asked.workers
        )
        return await _do(found, reads, await _known(reads.replays, number), processes, as_json)


async def _resume(settings: Settings, number: int, processes: int, as_json: bool, helper: bool) -> Exit:
    async with resources(settings) as found, reading(found) as reads:
        this = await _known(reads.replays, number)
        if helper:
            end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
            await _work(found, reads, this)
            return Exit.DONE
        if this.state in (State.CANCELLED, State.DONE):
            raise UsageRefused(f"replay {number} is {this.state}")
        await reads.replays.move(number, State.RUNNING, (State.PAUSED, State.RUNNING))
        if not this.workers:
            await reads.replays.take_over(number)
        return await _do(found, reads, await _known(reads.replays, number), processes, as_json)


async def _do(found: Resources, reads: Reading, this: Replay, processes: int, as_json: bool) -> Exit:
    """Have it done, and say how it went."""
    if this.workers:
        await hand_out(found.settings.broker, this.id, MESSAGES)
        if as_json:
            print_json(told(this))
        else:
            say(f"replay {this.id}: {this.of_threads:,} threads for the workers")
            say(f"next: threadlog replay status {this.id} --watch")
        return Exit.DONE
    complain(f"replay {this.id}: {this.of_threads:,} threads, {this.of_events:,} events")
    with more_processes(this.id, processes - 1):
        watching = asyncio.create_task(_watch(reads.replays, this.id))
        try:
            await _work(found, reads, this)
        except Exception:
            complain(f"replay {this.id} is not done: threadlog replay resume {this.id}")
            raise
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    ended = await _known(reads.replays, this.id)
    code = await _tell(reads.replays, ended, as_json)
    return code if ended.state is State.DONE else Exit.FAILED


async def _work(found: Resources, reads: Reading, this: Replay) -> None:
    letters = DeadLetters(found.pool, release())
    work = ReplayWork(reads.replays, reads.replayer, reads.verifier, letters)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, work.stop)
    try:
        await work.all(this, _AT_ONCE)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextmanager
def more_processes(
    number: int, count: int, grace: float = _GRACE_S
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that work on this replay's ranges. They are asked to end, and killed where they have
    not within `grace` seconds."""
    command = [sys.executable, "-m", "services.ops.cli", "replay", "resume", str(number), "--helper"]
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield started
    finally:
        deadline = time.monotonic() + grace
        for one in started:
            one.terminate()
        for one in started:
            try:
                one.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()


async def _known(replays: Replays, number: int) -> Replay:
    found = await replays.one(number)
    if found is None:
        raise UsageRefused(f"there is no replay {number}")
    return found


# --- how it is -------------------------------------------------------------------------------------------


async def _move(settings: Settings, number: int, to: State, of: tuple[State, ...]) -> Exit:
    async with resources(settings) as found:
        replays = Replays(found.pool)
        this = await _known(replays, number)
        if not await replays.move(number, to, of):
            raise UsageRefused(f"replay {number} is {this.state}")
        say(f"replay {number} is {to}")
    return Exit.DONE


async def _status(settings: Settings, number: int | None, watch: bool, as_json: bool) -> Exit:
    async with resources(settings) as found:
        replays = Replays(found.pool)
        if number is None:
            print_all(await replays.newest(), as_json=as_json)
            return Exit.DONE
        this = await _known(replays, number)
        if watch:
            await _watch(replays, number)
            this = await _known(replays, number)
        return await _tell(replays, this, as_json)


async def _watch(replays: Replays, number: int) -> None:
    """Show how far a replay is until it runs no more; say so, once in a while, where nobody works on it."""
    this = await _known(replays, number)
    attended = time.monotonic()
    with Progress(f"replay {number}", max(this.of_events - this.events, 0), unit="events") as progress:
        while True:
            now = await _known(replays, number)
            progress.advance(max(now.events - this.events, 0))
            this = now
            if now.state is not State.RUNNING:
                return
            if (lacks := unattended(now)) is None:
                attended = time.monotonic()
            elif time.monotonic() - attended >= _UNATTENDED_S:
                attended = time.monotonic()
                complain(f"replay {number}: {lacks}")
            await asyncio.sleep(_LOOK_S)


async def _tell(replays: Replays, this: Replay, as_json: bool) -> Exit:
    failures = await replays.failures(this.id, _FAILURES)
    if as_json:
        failed = [
            {"stream": stream_id, "site": site, "thread": key, "reason": reason}
            for stream_id, site, key, reason in failures
        ]
        print_json(told(this) | {"failures": failed})
    else:
        say(line(this))
        for stream_id, site, key, reason in failures:
            say(f"  {site or stream_id} {key or ''!r}: {reason}")
        if this.state is State.PAUSED:
            say(f"next: threadlog replay resume {this.id}")
        elif (lacks := unattended(this)) is not None:
            say(lacks)
        if failures:
            say("next: threadlog dead-letters list")
    return Exit.FAILED if this.failed else Exit.DONE
