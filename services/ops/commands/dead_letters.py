"""`threadlog dead-letters`: the events that a projection could not apply, and what to do about them."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import typer

from schema.events.envelope import Recorded
from services.core.addresses import check_site
from services.core.text import REASON_CODE_POINTS, normalise_line
from services.errors import SiteNotFound
from services.eventlog.checkpoints import FIRST, DeadLetters, ListedLetter, Projection
from services.eventlog.lines import recorded
from services.ops.commands.log import line
from services.ops.exits import Exit, UsageRefused, leave, run
from services.ops.output import Progress, complain, fields, print_json, say, table
from services.ops.selection import thread_named
from services.projection.opening import opened
from services.readmodel.announcements import Announcer
from services.settings import Settings
from services.wiring import Resources, resources
from services.workers.notifier import Notifier
from services.workers.release import release
from services.workers.retrying import Became, Retried, Retrying

_PAGE: Final = 500
_BEHIND: Final = 3
"""Events behind the one that cannot be applied that `show` prints."""
_DISCARDED: Final = 1000

app = typer.Typer(
    help="Events that a projection could not apply: its thread is parked before one, all others go on.",
    no_args_is_help=True,
)
Site = Annotated[str, typer.Argument(help="The site.")]
Thread = Annotated[str, typer.Argument(help="The thread's key.")]
Of = Annotated[
    Projection | None, typer.Option("--projection", help="Of this projection alone: view or notifications.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


@app.command("list", epilog="Example: threadlog dead-letters list --site blog")
def list_letters(
    site: Annotated[str | None, typer.Option(help="Of this site alone.")] = None,
    projection: Of = None,
    discarded: Annotated[
        bool, typer.Option("--discarded", help="List what was passed over, and why, instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the dead letters. Exits 1 where there are any."""
    leave(run(_list(Settings.load(), site, projection, discarded, as_json)))


async def _list(
    settings: Settings, site: str | None, projection: Projection | None, discarded: bool, as_json: bool
) -> Exit:
    async with resources(settings) as found:
        if site is not None and await found.sites.get(check_site(site)) is None:
            raise SiteNotFound(site)
        if discarded:
            await _list_discarded(found, site, projection, as_json)
            return Exit.DONE
        letters = [letter async for letter in _letters(found, site, projection)]
    if as_json:
        for letter in letters:
            print_json(_told(letter))
    else:
        table(
            ("projection", "site", "thread", "version", "event", "behind", "since", "build", "error"),
            [_row(letter) for letter in letters],
            empty="no dead letters",
        )
    return Exit.FOUND if letters else Exit.DONE


async def _list_discarded(
    found: Resources, site: str | None, projection: Projection | None, as_json: bool
) -> None:
    passed = await DeadLetters(found.pool).discarded(_chosen(projection), site, _DISCARDED)
    if as_json:
        for one in passed:
            print_json(
                {
                    "projection": one.projection,
                    "site": one.site,
                    "thread": one.key,
                    "stream": one.stream_id,
                    "version": one.version,
                    "event_id": one.event_id,
                    "error": one.error,
                    "build": one.build,
                    "reason": one.reason,
                    "discarded_at": one.discarded_at,
                }
            )
        return
    table(
        ("projection", "site", "thread", "version", "discarded", "reason", "error"),
        [
            (one.projection, one.site, one.key, one.version, one.discarded_at, one.reason, one.error)
            for one in passed
        ],
        empty="nothing was discarded",
    )


@app.command(epilog="Example: threadlog dead-letters show blog article-17 --open")
def show(
    site: Site,
    thread: Thread,
    projection: Of = None,
    open_: Annotated[bool, typer.Option("--open", help="Open what is sealed: texts, names.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a thread's dead letter: the event, the error, the release, what waits behind it, what to do."""
    run(_show(Settings.load(), site, thread, projection, open_, as_json))


async def _show(
    settings: Settings, site: str, thread: str, projection: Projection | None, open_: bool, as_json: bool
) -> None:
    async with resources(settings) as found:
        for number, letter in enumerate(await _of_thread(found, site, thread, projection)):
            events = await found.log.events_after(letter.stream_id, letter.version - 1, 1 + _BEHIND)
            if as_json:
                told = _told(letter) | {"event": recorded(events[0]) if events else None}
                print_json(told | {"next": list(_next(letter))})
                continue
            if number:
                say()
            fields(
                [
                    ("projection", letter.projection),
                    ("thread", f"{letter.site} {letter.key}"),
                    ("stands before", f"version {letter.version:,}, event {letter.event_id}"),
                    ("error", letter.reason),
                    ("release", letter.build),
                    ("since", letter.created_at),
                ]
            )
            lines = await _lines(found, events, open_)
            say("the event:")
            for line in lines[:1]:
                say(line)
            say(f"behind it wait {letter.behind:,} events" + (":" if letter.behind else ""))
            for line in lines[1:]:
                say(line)
            if letter.behind > _BEHIND:
                say(f"… and {letter.behind - _BEHIND:,} more")
            for line in _next(letter):
                say(line)


@app.command(epilog="Example: threadlog dead-letters retry blog article-17")
def retry(
    site: Annotated[str | None, typer.Argument(help="The site.")] = None,
    thread: Annotated[
        str | None, typer.Argument(help="The thread's key; all of the site without it.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Those of all sites.")] = False,
    projection: Of = None,
    as_json: AsJson = False,
) -> None:
    """Try dead letters again, with the release that this command is of. Exits 1 where one is parked again."""
    if everything == (site is not None):
        raise UsageRefused("which dead letters? SITE THREAD, SITE, or --all")
    leave(run(_retry(Settings.load(), site, thread, projection, as_json)))


async def _retry(
    settings: Settings, site: str | None, thread: str | None, projection: Projection | None, as_json: bool
) -> Exit:
    code = Exit.DONE
    async with resources(settings) as found, _retrying(found) as retrying:
        if site is not None and thread is not None:
            letters: list[ListedLetter] = await _of_thread(found, site, thread, projection)
        elif site is not None and await found.sites.get(check_site(site)) is None:
            raise SiteNotFound(site)
        else:
            letters = [letter async for letter in _letters(found, site, projection)]
        with Progress("retrying", len(letters), unit="letters") as progress:
            for letter in letters:
                retried = await retrying.retry(letter)
                progress.advance()
                _tell(letter, retried, as_json)
                if retried.became is not Became.CAUGHT_UP:
                    code = Exit.FOUND
    if not letters and not as_json:
        say("no dead letters")
    return code


@app.command(
    epilog='Example: threadlog dead-letters discard blog article-17 --reason "nobody needs to be told of it"'
)
def discard(
    site: Site,
    thread: Thread,
    reason: Annotated[str, typer.Option(help="Why: it is recorded.")],
    projection: Of = None,
    as_json: AsJson = False,
) -> None:
    """Have notifications pass over the event: nobody is ever told of it, and all that follows goes on.

    The event stays in the log, and what was passed over is recorded (dead-letters list --discarded). A view
    passes over nothing: it is a fold of its thread, and without an event it would be wrong for good.
    """
    leave(run(_discard(Settings.load(), site, thread, projection, reason, as_json)))


async def _discard(
    settings: Settings, site: str, thread: str, projection: Projection | None, reason: str, as_json: bool
) -> Exit:
    reason = normalise_line(reason, what="--reason", limit=REASON_CODE_POINTS)
    async with resources(settings) as found, _retrying(found) as retrying:
        letter = (await _of_thread(found, site, thread, projection))[-1]
        if letter.projection is Projection.VIEW:
            raise UsageRefused(
                "a view passes over nothing: its last good state is served, marked stale, until a release is "
                "deployed that applies the event. That one tries again by itself, or at once with\n"
                f"  {_command('retry', site, thread)}"
            )
        retried = await retrying.discard(letter, reason)
    complain(f"discarded: {letter.projection} of {site} {thread}, version {letter.version:,}: {reason}")
    _tell(letter, retried, as_json)
    return Exit.DONE if retried.became is Became.CAUGHT_UP else Exit.FOUND


# --- letters ------------------------------------------------------------------------------------------


async def _letters(
    found: Resources, site: str | None, projection: Projection | None
) -> AsyncIterator[ListedLetter]:
    letters, after = DeadLetters(found.pool), FIRST
    while page := await letters.listed(_chosen(projection), site, after=after, limit=_PAGE):
        for letter in page:
            yield letter
        after = (page[-1].projection, page[-1].stream_id)


async def _of_thread(
    found: Resources, site: str, thread: str, projection: Projection | None
) -> list[ListedLetter]:
    """The thread's dead letters. Raises SiteNotFound, BadAddress, UsageRefused where it has none."""
    name = await thread_named(found, site, thread)
    letters = DeadLetters(found.pool)
    listed = [await letters.of_thread(one, name.stream_id) for one in _chosen(projection)]
    if not (there := [letter for letter in listed if letter is not None]):
        kind = "dead letter" if projection is None else f"dead letter of {projection}"
        raise UsageRefused(f"the thread {thread!r} of {site} has no {kind}")
    return there


def _chosen(projection: Projection | None) -> tuple[Projection, ...]:
    return tuple(Projection) if projection is None else (projection,)


@asynccontextmanager
async def _retrying(found: Resources) -> AsyncIterator[Retrying]:
    announcer = Announcer(found.redis)
    letters = DeadLetters(found.pool, release())
    try:
        yield Retrying(found.projector, Notifier(found.pool, found.keyring), letters, announcer.moved)
    finally:
        await announcer.stop()


async def _lines(found: Resources, events: list[Recorded], open_: bool) -> list[str]:
    if not open_:
        return [line(event, None) for event in events]
    keys = await found.keyring.by_id(event.key_id for event in events if event.key_id is not None)
    return [line(event, opened(event, keys)) for event in events]


# --- telling ------------------------------------------------------------------------------------------


def _row(letter: ListedLetter) -> tuple[object, ...]:
    return (
        letter.projection,
        letter.site,
        letter.key,
        letter.version,
        letter.type,
        letter.behind,
        f"{letter.created_at:%Y-%m-%d %H:%M}Z",
        letter.build,
        letter.reason,
    )


def _told(letter: ListedLetter) -> dict[str, Any]:
    return {
        "projection": letter.projection,
        "site": letter.site,
        "thread": letter.key,
        "stream": letter.stream_id,
        "version": letter.version,
        "event_id": letter.event_id,
        "type": letter.type,
        "behind": letter.behind,
        "error": letter.reason,
        "build": letter.build,
        "since": letter.created_at,
    }


def _tell(letter: ListedLetter, retried: Retried, as_json: bool) -> None:
    if as_json:
        print_json(_told(letter) | {"became": retried.became, "at": retried.version, "now": retried.error})
        return
    name = f"{letter.projection} of {letter.site} {letter.key}"
    match retried.became:
        case Became.CAUGHT_UP:
            say(f"{name}: caught up, at version {retried.version:,}")
        case became:
            why = "" if retried.error is None else f": {retried.error}"
            say(f"{name}: {became} before version {retried.version:,}{why}")


def _next(letter: ListedLetter) -> Iterator[str]:
    """What an operator may do about it, one line each."""
    site, key = letter.site or "?", letter.key or "?"
    yield f"next: deploy a release that applies it, or try again: {_command('retry', site, key)}"
    if letter.projection is Projection.NOTIFICATIONS:
        yield f"      or tell nobody of it and go on: {_command('discard', site, key)} --reason WHY"


def _command(verb: str, *arguments: str) -> str:
    return f"threadlog dead-letters {verb} {shlex.join(arguments)}"
