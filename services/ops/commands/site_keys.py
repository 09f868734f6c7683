"""`threadlog site key`: what a site's own servers sign in with."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer

from services.core.addresses import check_site
from services.core.text import NAME_CODE_POINTS, normalise_line
from services.core.thread import timestamp
from services.eventlog.credentials import NewKey, StoredKey
from services.ops.exits import run
from services.ops.output import print_json, say, table
from services.settings import Settings
from services.wiring import resources

app = typer.Typer(
    help="Server keys: bearer tokens for a site's own servers, with roles of their own.", no_args_is_help=True
)


class Role(StrEnum):
    """What a server key may be given."""

    MODERATOR = "moderator"
    ADMIN = "admin"
    OPERATOR = "operator"


@app.command(epilog="Example: threadlog site key add blog --role operator --name backups")
def add(
    site: Annotated[str, typer.Argument(help="The site.")],
    role: Annotated[
        list[Role] | None,
        typer.Option(
            help="moderator, admin (includes moderator) or operator (reads the log); may be repeated. A key "
            "without one writes as itself and as whom it acts for, and no more."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What its comments are signed with; its id where it is left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a server key and print it, once: only a hash of it is stored."""
    roles = sorted({one.value for one in role or ()})
    called = None if name is None else normalise_line(name, what="the name", limit=NAME_CODE_POINTS)
    made = run(_add(Settings.load(), check_site(site), roles, called))
    if as_json:
        print_json({"site": site, "id": str(made.id), "name": called, "roles": roles, "key": made.key})
    else:
        say(made.key)


async def _add(settings: Settings, site: str, roles: list[str], name: str | None) -> NewKey:
    async with resources(settings) as found:
        return await found.credentials.add_key(site, roles, name)


@app.command("list", epilog="Example: threadlog site key list blog --json")
def list_(
    site: Annotated[str, typer.Argument(help="The site.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List a site's server keys by their ids, the revoked ones too."""
    found = run(_list(Settings.load(), check_site(site)))
    if as_json:
        print_json([_shown(one) for one in found])
        return
    table(
        ("id", "name", "roles", "since", "revoked"),
        [
            (
                str(one.id),
                one.name,
                ", ".join(one.roles) or None,
                f"{one.created_at:%Y-%m-%d %H:%M}Z",
                None if one.revoked_at is None else f"{one.revoked_at:%Y-%m-%d %H:%M}Z",
            )
            for one in found
        ],
        empty=f"{site} has no server keys; `threadlog site key add {site}` makes one",
    )


async def _list(settings: Settings, site: str) -> list[StoredKey]:
    async with resources(settings) as found:
        return await found.credentials.keys(site)


@app.command(epilog="Example: threadlog site key revoke blog 0b9f3c1e-5a43-4c0c-9d0e-6b1f4f9f7a55")
def revoke(
    site: Annotated[str, typer.Argument(help="The site.")],
    id: Annotated[UUID, typer.Argument(help="The key's id, as `list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take a server key no more, within a second. What it wrote stays."""
    revoked = run(_revoke(Settings.load(), check_site(site), id))
    if as_json:
        print_json(_shown(revoked))
    else:
        say(f"revoked {id}")


async def _revoke(settings: Settings, site: str, key_id: UUID) -> StoredKey:
    async with resources(settings) as found:
        return await found.credentials.revoke_key(site, key_id)


def _shown(key: StoredKey) -> dict[str, Any]:
    return {
        "id": str(key.id),
        "name": key.name,
        "roles": list(key.roles),
        "created_at": timestamp(key.created_at),
        "revoked_at": None if key.revoked_at is None else timestamp(key.revoked_at),
    }
