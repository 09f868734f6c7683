"""`threadlog demo`: all of threadlog on this machine, on servers of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Keep the data here; a folder that goes with the demo where it is left out.", file_okay=False
        ),
    ] = None,
    leave: Annotated[
        bool, typer.Option("--exit", help="Stop after the job; exit code 0 only if every step held.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The API's port; 0: any free one.")] = 0,
) -> None:
    """Start PostgreSQL, Valkey, the API and the workers, and run the main job through every part.

    A thread is posted, answered, corrected, reported and read over HTTP, its view is replayed and compared,
    and a reply is found in its addressee's inbox. Then it keeps serving until Ctrl-C. It needs no
    configuration, only the extra `embedded`.
    """
    from services.dev.demo import Demo

    code = Demo(data_dir=data_dir, port=port, stay=not leave).run()
    if code:
        raise typer.Exit(code)
