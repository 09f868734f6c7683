"""`threadlog token`: a token in a site's name, for trying things out."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from services.api.auth import Verifier
from services.api.problems import Problem
from services.api.tokens import sign
from services.core.addresses import check_site
from services.errors import SiteNotFound
from services.eventlog.sites import Site
from services.ops.exits import UsageRefused, run
from services.ops.output import print_json, say
from services.settings import Settings
from services.wiring import resources

_ROLES = ("moderator", "admin")


def token(
    site: Annotated[str, typer.Argument(help="The site in whose name it is signed.")],
    sub: Annotated[str, typer.Argument(help="Whom it names: the site's own id of a person.")],
    name: Annotated[str | None, typer.Option(help="The name shown; the id where it is left out.")] = None,
    avatar: Annotated[str | None, typer.Option(help="The address of a picture.")] = None,
    email: Annotated[str | None, typer.Option(help="Where mail goes.")] = None,
    role: Annotated[list[str] | None, typer.Option(help="moderator or admin; may be repeated.")] = None,
    expires: Annotated[int, typer.Option(min=1, help="Seconds until it expires.")] = 3600,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a JWT, signed with the site's stored secret. For trying things out: a site signs its own."""
    if unknown := set(role or ()) - set(_ROLES):
        raise UsageRefused(f"no such role: {', '.join(sorted(unknown))}; there are {' and '.join(_ROLES)}")
    made = token_for(
        run(_site(Settings.load(), site)),
        sub,
        name=name,
        avatar=avatar,
        email=email,
        roles=role or [],
        expires=expires,
    )
    if as_json:
        print_json({"site": site, "sub": sub, "token": made})
    else:
        say(made)


async def _site(settings: Settings, name: str) -> Site:
    async with resources(settings) as found:
        site = await found.sites.get(check_site(name))
    if site is None:
        raise SiteNotFound(name)
    return site


def token_for(
    site: Site,
    sub: str,
    *,
    name: str | None = None,
    avatar: str | None = None,
    email: str | None = None,
    roles: list[str] | None = None,
    expires: int = 3600,
) -> str:
    """A JWT as the contract has it (section 6), good for `expires` seconds at `site`.

    Raises UsageRefused for what the API would not take: it is asked.
    """
    secret = next((one for one in site.secrets if one.algorithm == "HS256"), None)
    if secret is None:
        raise UsageRefused(f"{site.name} signs with a private key of its own, which is not stored here")
    claims: dict[str, Any] = {
        "iss": site.name,
        "sub": sub,
        "exp": int(time.time()) + expires,
        "aud": site.settings.token_audience,
        "name": name,
        "avatar": avatar,
        "email": email,
        "roles": roles or None,
    }
    try:
        made = sign(secret, {claim: value for claim, value in claims.items() if value is not None})
        Verifier().caller(site, f"Bearer {made}")
    except Problem as refused:
        raise UsageRefused(str(refused)) from None
    except TypeError as error:
        raise UsageRefused("that is no UTF-8") from error
    return made
