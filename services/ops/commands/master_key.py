"""`threadlog site rotate-master-key`: wrap every key by a new master key, while all goes on."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from services.eventlog.rotation import Rotation
from services.ops.exits import Exit, leave, run
from services.ops.output import Progress, complain, print_json, say
from services.settings import Settings
from services.wiring import resources


def rotate_master_key(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Wrap all author keys and all secrets of sites and endpoints by THREADLOG_MASTER_KEY, which replaces
    THREADLOG_MASTER_KEY_PREVIOUS.

    For all sites, while all goes on; every process must have been started anew with both keys before, and it
    exits 1 where one was not. To be run again where it was cut off. docs/operations.md
    """
    leave(run(_rotate(Settings.load(), as_json)))


async def _rotate(settings: Settings, as_json: bool) -> Exit:
    async with resources(settings) as found:
        sites = [name for name, _, _ in await found.sites.all()]
        rotation = Rotation(found.pool, found.master, sites)
        if strangers := await rotation.strangers():
            complain(
                f"nothing is done: {strangers:,} sessions in Postgres belong to processes that do not know "
                "this THREADLOG_MASTER_KEY; start every `threadlog api` and `worker` anew with both keys"
            )
            return Exit.FOUND
        with Progress("wrapping", await rotation.total(), unit="keys") as progress:
            done = await rotation.run(progress.advance)
    if as_json:
        print_json(asdict(done))
    else:
        say(
            f"wrapped {done.author_keys:,} author keys, {done.site_secrets:,} site secrets, "
            f"{done.endpoint_secrets:,} secrets of endpoints and {done.derived_secrets:,} derived secrets; "
            f"{done.already:,} were already"
        )
    return Exit.DONE
