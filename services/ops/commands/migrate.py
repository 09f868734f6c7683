"""`threadlog migrate`: bring the database to the schema of this release."""

from __future__ import annotations

from typing import Annotated

import asyncpg
import typer

from services.eventlog.migrate import applied, known
from services.eventlog.migrate import migrate as apply_missing
from services.ops.exits import Exit, leave, run
from services.ops.output import print_json, say
from services.settings import Settings


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 when behind.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Apply the migrations that the database lacks. Forward only; safe to run at any time."""
    settings = Settings.load()
    if check:
        missing = run(_missing(settings.database_url))
        if as_json:
            print_json({"missing": missing})
        elif missing:
            say(f"behind: the database lacks {', '.join(missing)}; run `threadlog migrate`")
        else:
            say("up to date")
        leave(Exit.FOUND if missing else Exit.DONE)
        return
    done = run(apply_missing(settings.database_url, settings.lanes))
    if as_json:
        print_json({"applied": done})
    else:
        say(f"applied {', '.join(done)}" if done else "up to date")


async def _missing(database_url: str) -> list[str]:
    connection = await asyncpg.connect(database_url, timeout=5)
    try:
        present = await applied(connection)
    finally:
        await connection.close()
    return [name for name in known() if name not in present]
