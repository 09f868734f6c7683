"""`threadlog site secret`: what a site signs its tokens with, and how one key takes over from another."""

from __future__ import annotations

import secrets
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

import typer

from services.core.addresses import check_site
from services.core.thread import timestamp
from services.eventlog.credentials import StoredSecret
from services.ops.exits import UsageRefused, run
from services.ops.output import print_json, say, table
from services.settings import Settings
from services.wiring import resources

SECRET_BYTES: Final = 32
_LARGEST: Final = 64 * 1024

app = typer.Typer(
    help="The secrets and public keys of a site: two live at once, so that one can take over from the other.",
    no_args_is_help=True,
)


class Algorithm(StrEnum):
    """With which tokens may be signed."""

    HS256 = "HS256"
    EDDSA = "EdDSA"
    RS256 = "RS256"


@app.command(epilog="Example: threadlog site secret add blog --alg EdDSA --public-key blog.pem")
def add(
    site: Annotated[str, typer.Argument(help="The site.")],
    alg: Annotated[
        Algorithm, typer.Option(help="The only algorithm that tokens of this key may name.")
    ] = Algorithm.HS256,
    public_key: Annotated[
        str | None,
        typer.Option(
            help="For EdDSA (Ed25519) and RS256 (at least 2048 bits): a file with the public key in PEM; '-' "
            "reads it from standard input."
        ),
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            help="For HS256: the secret, at least 32 bytes; '-' reads it from standard input. A new one is "
            "made and printed where it is left out."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Let a site sign with one more key, beside the one that it has."""
    made: str | None = None
    if alg is Algorithm.HS256:
        if public_key is not None:
            raise UsageRefused("HS256 takes a --secret: a public key goes with --alg EdDSA or RS256")
        if secret is None:
            made = secrets.token_urlsafe(SECRET_BYTES)
        key = (made or given_secret(secret or "")).encode()
    else:
        if public_key is None or secret is not None:
            raise UsageRefused(f"{alg} takes a --public-key, and no --secret")
        key = _file(public_key)
    secret_id = run(_add(Settings.load(), check_site(site), alg, key))
    if as_json:
        print_json({"site": site, "id": str(secret_id), "algorithm": alg.value, "secret": made})
    else:
        say(f"added {secret_id} ({alg})" if made is None else made)


def given_secret(secret: str) -> str:
    """What `--secret` says: itself, or, for '-', the first line of standard input."""
    return sys.stdin.readline().rstrip("\r\n") if secret == "-" else secret  # noqa: S105 - no password


def _file(name: str) -> bytes:
    """A file's bytes, or standard input's for '-'. Raises UsageRefused."""
    try:
        if name == "-":
            read = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with Path(name).open("rb") as file:
                read = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageRefused(f"{name}: {error.strerror}") from error
    if len(read) > _LARGEST:
        raise UsageRefused(f"{name}: is too large for a public key")
    return read


async def _add(settings: Settings, site: str, alg: Algorithm, key: bytes) -> UUID:
    async with resources(settings) as found:
        return await found.credentials.add_secret(site, alg.value, key)


@app.command("list", epilog="Example: threadlog site secret list blog --json")
def list_(
    site: Annotated[str, typer.Argument(help="The site.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what a site signs with, the newest first: never a secret, of a public key its fingerprint."""
    found = run(_list(Settings.load(), check_site(site)))
    if as_json:
        print_json(
            [
                {
                    "id": str(one.id),
                    "algorithm": one.algorithm,
                    "created_at": timestamp(one.created_at),
                    "fingerprint": one.fingerprint,
                }
                for one in found
            ]
        )
        return
    table(
        ("id", "algorithm", "since", "fingerprint"),
        [(str(one.id), one.algorithm, f"{one.created_at:%Y-%m-%d %H:%M}Z", one.fingerprint) for one in found],
        empty=f"{site} has no secret; `threadlog site secret add {site}` adds one",
    )


async def _list(settings: Settings, site: str) -> list[StoredSecret]:
    async with resources(settings) as found:
        return await found.credentials.secrets(site)


@app.command(epilog="Example: threadlog site secret retire blog 0b9f3c1e-5a43-4c0c-9d0e-6b1f4f9f7a55")
def retire(
    site: Annotated[str, typer.Argument(help="The site.")],
    id: Annotated[UUID, typer.Argument(help="The secret's id, as `list` shows it.")],
    force: Annotated[
        bool, typer.Option("--force", help="Even the last one: then nobody can sign in by a token.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take tokens of one of a site's keys no more, within a second."""
    run(_retire(Settings.load(), check_site(site), id, force))
    if as_json:
        print_json({"site": site, "id": str(id), "retired": True})
    else:
        say(f"retired {id}")


async def _retire(settings: Settings, site: str, secret_id: UUID, force: bool) -> None:
    async with resources(settings) as found:
        await found.credentials.retire_secret(site, secret_id, last=force)
