"""`threadlog site webhook`: where a site's own servers hear of notifications."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer

from services.core.addresses import check_site
from services.errors import SiteNotFound
from services.eventlog.endpoints import BOTH_S, Endpoint, Endpoints, NewEndpoint
from services.ops.exits import UsageRefused, run
from services.ops.output import complain, print_json, say, table
from services.settings import Settings
from services.wiring import resources

app = typer.Typer(
    help="Webhook endpoints: addresses of a site's own servers that hear of its notifications. "
    "docs/notifications.md",
    no_args_is_help=True,
)
Site = Annotated[str, typer.Argument(help="The site.")]
Id = Annotated[UUID, typer.Argument(help="The endpoint's id, as `list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(
    epilog="Example: threadlog site webhook add blog https://blog.example/hooks --owner ops@blog.example"
)
def add(
    site: Site,
    url: Annotated[str, typer.Argument(help="Where deliveries are posted to: an https:// address.")],
    owner: Annotated[
        str | None, typer.Option(help="The mail address of who is told when the endpoint is switched off.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add an endpoint and print the secret that its deliveries are signed with, once."""
    if owner is not None and ("@" not in owner or not owner.isprintable() or " " in owner):
        raise UsageRefused("--owner takes a mail address")
    made = run(_add(Settings.load(), check_site(site), url, owner))
    if as_json:
        print_json({"site": site, "id": made.id, "url": url, "secret": made.secret})
    else:
        say(made.secret)


async def _add(settings: Settings, site: str, url: str, owner: str | None) -> NewEndpoint:
    if url.startswith("http://") and not settings.webhook_allow_private:
        raise UsageRefused("http:// is for the networks of THREADLOG_WEBHOOK_ALLOW_PRIVATE alone")
    async with resources(settings) as found:
        return await Endpoints(found.pool, found.master).add(site, url, owner)


@app.command("list", epilog="Example: threadlog site webhook list blog --json")
def list_(site: Site, as_json: AsJson = False) -> None:
    """List a site's endpoints, and how they do."""
    found = run(_list(Settings.load(), check_site(site)))
    if as_json:
        print_json([_shown(one) for one in found])
        return
    table(
        ("id", "url", "owner", "state", "failures", "why"),
        [(str(one.id), one.url, one.owner, _state(one), one.failures, one.disabled_reason) for one in found],
        empty=f"{site} has no endpoint; `threadlog site webhook add {site} URL` adds one",
    )


async def _list(settings: Settings, site: str) -> list[Endpoint]:
    async with resources(settings) as found:
        if await found.sites.get(site) is None:
            raise SiteNotFound(site)
        return await Endpoints(found.pool, found.master).of(site)


@app.command(epilog="Example: threadlog site webhook remove blog 0b9f3c1e-5a43-4c0c-9d0e-6b1f4f9f7a55")
def remove(site: Site, id: Id, as_json: AsJson = False) -> None:
    """Remove an endpoint; what waits for it is dropped."""
    removed = run(_remove(Settings.load(), check_site(site), id))
    if as_json:
        print_json(_shown(removed))
    else:
        say(f"removed {removed.url}")


async def _remove(settings: Settings, site: str, id: UUID) -> Endpoint:
    async with resources(settings) as found:
        return await Endpoints(found.pool, found.master).remove(site, id)


@app.command(epilog="Example: threadlog site webhook enable blog 0b9f3c1e-5a43-4c0c-9d0e-6b1f4f9f7a55")
def enable(site: Site, id: Id, as_json: AsJson = False) -> None:
    """Switch an endpoint on again, and take it to be well."""
    enabled = run(_enable(Settings.load(), check_site(site), id))
    if as_json:
        print_json(_shown(enabled))
        return
    say(f"{enabled.url} is on")
    complain(f"what it missed goes with: threadlog deliveries retry --dead --site {site} --channel webhook")


async def _enable(settings: Settings, site: str, id: UUID) -> Endpoint:
    async with resources(settings) as found:
        return await Endpoints(found.pool, found.master).enable(site, id)


@app.command(
    "rotate-secret",
    epilog="Example: threadlog site webhook rotate-secret blog 0b9f3c1e-5a43-4c0c-9d0e-6b1f4f9f7a55",
)
def rotate_secret(site: Site, id: Id, as_json: AsJson = False) -> None:
    """Give an endpoint a new secret and print it, once. For 24 hours both sign."""
    secret = run(_rotate(Settings.load(), check_site(site), id))
    if as_json:
        print_json({"site": site, "id": id, "secret": secret, "both_sign_seconds": int(BOTH_S)})
    else:
        say(secret)


async def _rotate(settings: Settings, site: str, id: UUID) -> str:
    async with resources(settings) as found:
        return await Endpoints(found.pool, found.master).rotate_secret(site, id)


def _state(one: Endpoint) -> str:
    if one.disabled_at is not None:
        return f"off since {one.disabled_at:%Y-%m-%d %H:%M}Z"
    if one.failing_since is not None:
        return f"failing since {one.failing_since:%Y-%m-%d %H:%M}Z"
    return "on"


def _shown(one: Endpoint) -> dict[str, Any]:
    return {
        "id": one.id,
        "url": one.url,
        "owner": one.owner,
        "created_at": one.created_at,
        "failing_since": one.failing_since,
        "failures": one.failures,
        "open_until": one.open_until,
        "disabled_at": one.disabled_at,
        "disabled_reason": one.disabled_reason,
    }
