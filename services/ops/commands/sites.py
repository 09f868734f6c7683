"""`threadlog site`: tenants."""

from __future__ import annotations

import secrets
from typing import Annotated, Final

import typer

from services.core.addresses import check_site
from services.core.thread import timestamp
from services.ops.commands import master_key, site_keys, site_secrets, site_templates, site_webhooks
from services.ops.commands.site_secrets import SECRET_BYTES, given_secret
from services.ops.exits import UsageRefused, run
from services.ops.output import print_json, say, table
from services.settings import Settings
from services.wiring import resources

HS256: Final = "HS256"

app = typer.Typer(
    help="Sites: the tenants, each with its own secrets, server keys, threads and settings.",
    no_args_is_help=True,
)
app.add_typer(site_secrets.app, name="secret")
app.add_typer(site_keys.app, name="key")
app.add_typer(site_webhooks.app, name="webhook")
app.add_typer(site_templates.app, name="template")
app.command(
    "rotate-master-key",
    epilog="Example: THREADLOG_MASTER_KEY_PREVIOUS=… threadlog site rotate-master-key --json",
)(master_key.rotate_master_key)


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
    used = secrets.token_urlsafe(SECRET_BYTES) if secret is None else given_secret(secret)
    run(_add(Settings.load(), check_site(site), used))
    if as_json:
        print_json({"site": site, "algorithm": HS256, "secret": used if secret is None else None})
    elif secret is None:
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
