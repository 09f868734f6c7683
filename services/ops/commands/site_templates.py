"""`threadlog site template`: a site's own words for its mails."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from services.core.addresses import check_site
from services.core.thread import timestamp
from services.errors import SiteNotFound
from services.eventlog.mailing import SiteTemplates
from services.language.rendering import OWN, SOURCE, check_own
from services.ops.exits import UsageRefused, run
from services.ops.output import print_json, say, table
from services.settings import Settings
from services.wiring import resources

app = typer.Typer(
    help="Templates of a site's mails, in the place of threadlog's: docs/notifications.md tells what they "
    "may show.",
    no_args_is_help=True,
)


@app.command(
    "set", epilog="Example: threadlog site template set blog notification.subject ./notification.subject"
)
def set_(
    site: Annotated[str, typer.Argument(help="The site.")],
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(OWN)}.")],
    file: Annotated[str, typer.Argument(help="A file with the template; '-' reads standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Store a template, and show what it makes of a sample. One that does not work is not stored."""
    source = _read(file)
    shown = check_own(name, source)
    run(_set(Settings.load(), check_site(site), name, source))
    if as_json:
        print_json({"site": site, "name": name, "sample": shown})
    else:
        say(shown)


def _read(file: str) -> str:
    try:
        raw = sys.stdin.buffer.read(4 * SOURCE + 1) if file == "-" else Path(file).read_bytes()
        return raw.decode()
    except OSError as error:
        raise UsageRefused(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageRefused(f"{file}: is not UTF-8") from error


async def _set(settings: Settings, site: str, name: str, source: str) -> None:
    async with resources(settings) as found:
        if not await SiteTemplates(found.pool).put(site, name, source):
            raise SiteNotFound(site)


@app.command(epilog="Example: threadlog site template show blog notification.subject")
def show(
    site: Annotated[str, typer.Argument(help="The site.")],
    name: Annotated[
        str | None, typer.Argument(help="One of them; a list of all where it is left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a site's own templates."""
    found = run(_all(Settings.load(), check_site(site)))
    if name is not None:
        found = [one for one in found if one[0] == name]
        if not found:
            raise UsageRefused(f"{site} has no template {name} of its own")
    if as_json:
        print_json(
            [{"name": of, "source": source, "changed_at": timestamp(when)} for of, source, when in found]
        )
    elif name is not None:
        say(found[0][1])
    else:
        table(
            ("name", "characters", "since"),
            [(of, len(source), f"{when:%Y-%m-%d %H:%M}Z") for of, source, when in found],
            empty=f"{site} has no templates of its own",
        )


async def _all(settings: Settings, site: str) -> list[tuple[str, str, datetime]]:
    async with resources(settings) as found:
        return await SiteTemplates(found.pool).all(site)


@app.command(epilog="Example: threadlog site template remove blog notification.subject")
def remove(
    site: Annotated[str, typer.Argument(help="The site.")],
    name: Annotated[str, typer.Argument(help="The template.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Go back to threadlog's own template."""
    run(_remove(Settings.load(), check_site(site), name))
    if as_json:
        print_json({"site": site, "name": name})
    else:
        say(f"removed {name}")


async def _remove(settings: Settings, site: str, name: str) -> None:
    async with resources(settings) as found:
        if not await SiteTemplates(found.pool).remove(site, name):
            raise UsageRefused(f"{site} has no template {name} of its own")
