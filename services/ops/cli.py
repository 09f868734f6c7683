"""The command line: `threadlog VERB`. Exit codes are in `services/ops/exits.py`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from services.garbage import settle
from services.ops.commands import (
    bench,
    dead_letters,
    deliveries,
    demo,
    doctor,
    erase,
    export,
    imports,
    lag,
    log,
    migrate,
    replay,
    serve,
    sites,
    thread,
    tokens,
    verify,
)
from services.ops.exits import Guarded

app = typer.Typer(
    name="threadlog",
    cls=Guarded,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An event-sourced comment backend. Configured by environment: docs/configuration.md.",
    epilog="Exit codes: 0 done, 1 it found what it looked for, 2 wrong usage, 3 a dependency is unreachable, "
    "4 it failed. Example: threadlog demo",
)


def _version(asked: bool) -> None:
    if asked:
        try:
            typer.echo(f"threadlog {version('threadlog')}")
        except PackageNotFoundError:
            typer.echo("threadlog, not installed")
        raise typer.Exit(0)


@app.callback()
def root(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """An event-sourced comment backend."""


app.command(epilog="Example: threadlog demo --data-dir ./demo")(demo.demo)
app.command(epilog="Example: THREADLOG_PORT=8080 threadlog api --processes 2")(serve.api)
app.command(epilog="Example: THREADLOG_METRICS_PORT=9100 threadlog worker")(serve.worker)
app.command(epilog="Example: threadlog migrate --check")(migrate.migrate)
app.add_typer(sites.app, name="site")
app.command(epilog="Example: threadlog token blog ann --name Ann --role moderator")(tokens.token)
app.command(epilog="Example: threadlog erase blog u-17 --wait")(erase.erase)
app.add_typer(imports.app, name="import")
app.command(epilog="Example: threadlog export --site blog -o blog.jsonl.zst")(export.export)
app.add_typer(log.app, name="log")
app.add_typer(thread.app, name="thread")
app.add_typer(replay.app, name="replay")
app.command(epilog="Example: threadlog verify --all --chain")(verify.verify)
app.command(epilog="Example: threadlog lag --json")(lag.lag)
app.command(epilog="Example: threadlog doctor")(doctor.doctor)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(deliveries.app, name="deliveries")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """The entry point of the command `threadlog`."""
    settle()
    app(prog_name="threadlog")


if __name__ == "__main__":
    main()
