"""`threadlog site` and `threadlog token`: tenants, and tokens in their name."""

from __future__ import annotations

import secrets
import sys
import time
from typing import Annotated, Any, Final

import jwt
import typer

from services.core.addresses import check_site
from services.core.thread import timestamp
from services.errors import SiteNotFound
from services.eventlog.sites import Secret
from services.ops.exits import UsageRefused, run
from services.ops.output import print_json, say, table
from services.settings import Settings
from services.wiring import resources

HS256: Final = "HS256"
_SECRET_BYTES: Final = 32
_RESERVED: Final = ("guest:", "key:", "import:")

app = typer.Typer(
    help="Sites: the tenants, each with its own secret, threads and settings.", no_args_is_help=True
)


@app.command(epilog="Example: threadlog site add blog")
def add(
    site: Annotated[str, typer.Argument(help="Its name: 1 to 63 of a-z, 0-9, '.', '_' and '-'.")],
    secret: Annotated[
        str | None,
        typer.Option(
            help="The HS256 secret with which the site signs tokens, at least 32 bytes; '-' reads it from "
            "standard input. A new one is made and printed where it is left out."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Add a site, and print the secret with which it signs its readers' tokens."""
    given = sys.stdin.readline().rstrip("\r\n") if secret == "-" else secret  # noqa: S105 - no password
    used = secrets.token_urlsafe(_SECRET_BYTES) if given is None else given
    run(_add(Settings.load(), check_site(site), used))
    if as_json:
        print_json({"site": site, "algorithm": HS256, "secret": used if given is None else None})
    elif given is None:
        say(used)
    else:
        say(f"added {site}")


async def _add(settings: Settings, site: str, secret: str) -> None:
    async with resources(settings) as found:
        if not await found.sites.add(site, secret.encode()):
            raise UsageRefused(f"the site {site} exists already")


@app.command("list", epilog="Example: threadlog site list --json")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the sites."""
    run(_list(Settings.load(), as_json))


async def _list(settings: Settings, as_json: bool) -> None:
    async with resources(settings) as found:
        sites = await found.sites.all()
    if as_json:
        print_json(
            [
                {"site": name, "version": version, "created_at": timestamp(created)}
                for name, version, created in sites
            ]
        )
        return
    table(
        ("site", "version", "since"),
        [(name, version, f"{created:%Y-%m-%d %H:%M}Z") for name, version, created in sites],
        empty="no sites; `threadlog site add SITE` adds one",
    )


def token(
    site: Annotated[str, typer.Argument(help="The site in whose name it is signed.")],
    sub: Annotated[str, typer.Argument(help="Whom it names: the site's own id of a person.")],
    name: Annotated[str | None, typer.Option(help="The name shown; the id where it is left out.")] = None,
    avatar: Annotated[str | None, typer.Option(help="The address of a picture.")] = None,
    email: Annotated[str | None, typer.Option(help="Where mail goes.")] = None,
    role: Annotated[list[str] | None, typer.Option(help="moderator or admin; may be repeated.")] = None,
    expires: Annotated[int, typer.Option(min=1, help="Seconds until it expires.")] = 3600,
) -> None:
    """Print a JWT, signed with the site's stored secret. For trying things out: a site signs its own."""
    if sub.startswith(_RESERVED):
        raise UsageRefused(f"a token's subject does not begin with {', '.join(_RESERVED)}")
    unknown = set(role or ()) - {"moderator", "admin"}
    if unknown:
        raise UsageRefused(f"no such role: {', '.join(sorted(unknown))}; there are moderator and admin")
    secret = run(_secret(Settings.load(), site))
    say(sign(secret, site, sub, name=name, avatar=avatar, email=email, roles=role or [], expires=expires))


async def _secret(settings: Settings, site: str) -> Secret:
    async with resources(settings) as found:
        known = await found.sites.get(check_site(site))
    if known is None:
        raise SiteNotFound(site)
    for secret in known.secrets:
        if secret.algorithm == HS256:
            return secret
    raise UsageRefused(f"{site} signs with a key of its own, which is not stored here")


def sign(
    secret: Secret,
    site: str,
    sub: str,
    *,
    name: str | None = None,
    avatar: str | None = None,
    email: str | None = None,
    roles: list[str] | None = None,
    expires: int = 3600,
) -> str:
    """A JWT as the contract has it (section 6), good for `expires` seconds."""
    claims: dict[str, Any] = {"iss": site, "sub": sub, "exp": int(time.time()) + expires}
    optional = {"name": name, "avatar": avatar, "email": email, "roles": roles or None}
    claims |= {claim: value for claim, value in optional.items() if value is not None}
    return jwt.encode(claims, secret.key, algorithm=secret.algorithm)
