"""`threadlog erase`: erase a person, look at how far it is, and erase again what a backup brought back."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Final

import typer

from services.core.addresses import check_site
from services.core.text import SUB_CODE_POINTS, TextRefused, normalise_line
from services.core.thread import timestamp
from services.errors import SiteNotFound
from services.eventlog.erasures import Erasure
from services.ops.exits import UsageRefused, run
from services.ops.output import EVERY, Progress, complain, print_json, say, table
from services.settings import Settings
from services.wiring import Resources, resources

_POLL_S: Final = 0.25
_SLICE: Final = 1000


def erase(
    site: Annotated[str | None, typer.Argument(help="The site; or `reapply`, which is --reapply.")] = None,
    sub: Annotated[
        str | None, typer.Argument(help="Whom: the site's own id of a person, or a guest's.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the workers have carried it out everywhere.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="List the erasures, of SITE or of all.")] = False,
    reapply: Annotated[
        bool,
        typer.Option("--reapply", help="Erase again what THREADLOG_ERASED_KEYS_FILE names: after a restore."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="With --list: at most so many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Erase a person: destroy their key at once, and have the workers mark what they wrote. There is no way
    back."""
    if site == "reapply" and sub is None:  # no person is erased without their name
        site, reapply = None, True
    if show + reapply + (sub is not None) != 1 or (reapply and site is not None):
        raise UsageRefused("whom? SITE SUB, or --list [SITE], or --reapply")
    settings = Settings.load()
    if show:
        run(_list(settings, site, limit, as_json))
    elif reapply:
        run(_reapply(settings, as_json, wait=wait))
    else:
        assert site is not None
        assert sub is not None
        try:
            person = normalise_line(sub, what="SUB", limit=SUB_CODE_POINTS)  # as a token's is
        except TextRefused as refused:
            raise UsageRefused(refused.reason) from None
        run(_erase(settings, check_site(site), person, as_json, wait=wait))


async def _erase(settings: Settings, site: str, sub: str, as_json: bool, *, wait: bool) -> None:
    async with resources(settings) as found:
        if await found.sites.get(site) is None:
            raise SiteNotFound(site)
        erasure = await found.erasures.request(site, sub, requested_by=None)
        erasures = await found.erasures.of(site, sub)
        if wait:
            erasures = [await _done(found, one) for one in erasures]
        if as_json:
            print_json([_shown(one) for one in erasures])
        elif erasure is None and not erasures:
            say(f"nothing of {sub} is stored at {site} under a key")
        else:
            _table(erasures)


async def _list(settings: Settings, site: str | None, limit: int, as_json: bool) -> None:
    async with resources(settings) as found:
        erasures = await found.erasures.newest(None if site is None else check_site(site), limit)
    if as_json:
        print_json([_shown(one) for one in erasures])
    else:
        _table(erasures)


async def _reapply(settings: Settings, as_json: bool, *, wait: bool) -> None:
    async with resources(settings) as found:
        file = found.erasures.file
        if file is None:
            raise UsageRefused("THREADLOG_ERASED_KEYS_FILE is not set")
        keys = list(dict.fromkeys(file.keys()))
        again: list[Erasure] = []
        with Progress("erasing again", len(keys), unit="keys") as progress:
            for at in range(0, len(keys), _SLICE):
                part = keys[at : at + _SLICE]
                for key_id in await found.erasures.alive(part):
                    erasure = await found.erasures.reapply(key_id)
                    if erasure is not None:
                        again.append(erasure)
                progress.advance(len(part))
        if wait:
            again = [await _done(found, one) for one in again]
    if as_json:
        print_json({"keys": len(keys), "erased_again": [_shown(one) for one in again]})
    else:
        say(f"{len(keys):,} keys in the file; {len(again):,} were alive, and are destroyed again")


async def _done(found: Resources, erasure: Erasure) -> Erasure:
    """The erasure once it is carried out; tells every few seconds that it is still waited for."""
    told = time.monotonic()
    while erasure.done_at is None:
        await asyncio.sleep(_POLL_S)
        if time.monotonic() - told >= EVERY:
            told = time.monotonic()
            complain(f"erasing {erasure.author_id}: waiting for the workers")
        erasure = await found.erasures.one(erasure.id) or erasure
    return erasure


def _shown(one: Erasure) -> dict[str, object]:
    return {
        "id": str(one.id),
        "site": one.site,
        "author_id": one.author_id,
        "key_id": str(one.key_id),
        "requested_by": one.requested_by,
        "requested_at": timestamp(one.requested_at),
        "filed_at": None if one.filed_at is None else timestamp(one.filed_at),
        "done_at": None if one.done_at is None else timestamp(one.done_at),
        "comments": one.comments,
    }


def _table(erasures: list[Erasure]) -> None:
    table(
        ("site", "author", "requested", "by", "done", "comments"),
        [
            (
                one.site,
                one.author_id,
                f"{one.requested_at:%Y-%m-%d %H:%M:%S}Z",
                one.requested_by or "an operator",
                None if one.done_at is None else f"{one.done_at:%Y-%m-%d %H:%M:%S}Z",
                one.comments,
            )
            for one in erasures
        ],
        empty="no erasures",
    )
