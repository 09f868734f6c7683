"""`threadlog deliveries`: the mails and webhooks on their way, and those that could not be delivered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from services.core.addresses import check_site
from services.errors import SiteNotFound
from services.eventlog.deliveries import Deliveries, Listed, Wanted
from services.ops.exits import Exit, UsageRefused, leave, run
from services.ops.output import Progress, fields, print_json, say, table
from services.settings import Settings
from services.wiring import Resources, resources

_PAGE: Final = 500
_SLICE: Final = 1_000

app = typer.Typer(
    help="Mails and webhooks: on their way, sent, dropped, and dead, which are given up.",
    no_args_is_help=True,
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


class State(StrEnum):
    """How a delivery stands."""

    PENDING = "pending"
    SENT = "sent"
    DROPPED = "dropped"
    DEAD = "dead"


class ChannelName(StrEnum):
    """A way out."""

    MAIL = "mail"
    WEBHOOK = "webhook"


Channel = Annotated[ChannelName | None, typer.Option(help="Of this channel alone: mail or webhook.")]


@app.command("list", epilog="Example: threadlog deliveries list --site blog --state dead")
def list_(
    site: Annotated[str | None, typer.Option(help="Of this site alone.")] = None,
    state: Annotated[State | None, typer.Option(help="In this state alone.")] = None,
    channel: Channel = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="So many at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List deliveries, newest first. Exits 1 where one of them is dead."""
    wanted = Wanted(site, None if state is None else state.value, channel)
    leave(run(_list(Settings.load(), wanted, limit, as_json)))


async def _list(settings: Settings, wanted: Wanted, limit: int, as_json: bool) -> Exit:
    dead = False
    rows: list[tuple[object, ...]] = []
    async with resources(settings) as found:
        await _check(found, wanted.site)
        async for one in _pages(Deliveries(found.pool), wanted, limit):
            dead = dead or one.state == "dead"
            if as_json:
                print_json(_told(one))
            else:
                rows.append(_row(one))
    if not as_json:
        headings = ("id", "site", "channel", "kind", "to", "state", "attempts", "next", "reason")
        table(headings, rows, empty="no deliveries")
    return Exit.FOUND if dead else Exit.DONE


async def _pages(deliveries: Deliveries, wanted: Wanted, limit: int) -> AsyncIterator[Listed]:
    after: tuple[datetime, UUID] | None = None
    while limit > 0 and (page := await deliveries.listed(wanted, after, min(limit, _PAGE))):
        for one in page:
            yield one
        limit -= len(page)
        after = (page[-1].delivery.created_at, page[-1].delivery.id)


@app.command(epilog="Example: threadlog deliveries show 0b9f3c1e-5a43-4c0c-9d0e-6b1f4f9f7a55")
def show(
    id: Annotated[UUID, typer.Argument(help="The delivery's id, as `list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a delivery: what it tells of, how it stands and why, and what to do. Exits 1 where it is dead."""
    one = run(_show(Settings.load(), id))
    if as_json:
        print_json(_told(one))
    else:
        fields([(name.replace("_", " "), value) for name, value in _told(one).items()])
        if one.state == "dead":
            say(f"next: threadlog deliveries retry {id}")
    leave(Exit.FOUND if one.state == "dead" else Exit.DONE)


async def _show(settings: Settings, id: UUID) -> Listed:
    async with resources(settings) as found:
        return await _one(Deliveries(found.pool), id)


@app.command(epilog="Example: threadlog deliveries retry --dead --site blog --channel webhook")
def retry(
    id: Annotated[UUID | None, typer.Argument(help="The delivery's id.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All dead ones of --site.")] = False,
    site: Annotated[str | None, typer.Option(help="With --dead: the site.")] = None,
    channel: Channel = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Have deliveries sent again, now, by the workers, with all their attempts before them.

    They keep their ids, and so the Message-ID or webhook-id by which a receiver knows what it has seen.
    """
    if dead == (id is not None) or dead != (site is not None) or (channel is not None and not dead):
        raise UsageRefused("which deliveries? ID, or --dead --site SITE")
    count = run(_retry(Settings.load(), id, site, channel))
    if as_json:
        print_json({"retried": count})
    else:
        say(f"{count:,} go again" if count else "no dead deliveries")


async def _retry(settings: Settings, id: UUID | None, site: str | None, channel: str | None) -> int:
    async with resources(settings) as found:
        deliveries = Deliveries(found.pool)
        if id is not None:
            await _one(deliveries, id)
            if not await deliveries.retry(id):
                raise UsageRefused(f"{id} was sent, and nothing is sent twice")
            return 1
        assert site is not None, "checked above"
        await _check(found, site)
        count = 0
        with Progress("retrying", unit="deliveries") as progress:
            while some := await deliveries.retry_dead(site, channel, _SLICE):
                progress.advance(some)
                count += some
        return count


async def _check(found: Resources, site: str | None) -> None:
    if site is not None and await found.sites.get(check_site(site)) is None:
        raise SiteNotFound(site)


async def _one(deliveries: Deliveries, id: UUID) -> Listed:
    one = await deliveries.one(id)
    if one is None:
        raise UsageRefused(f"there is no delivery {id}; what ended is kept for 30 days")
    return one


def _row(one: Listed) -> tuple[object, ...]:
    to = one.delivery.recipient_id or one.delivery.endpoint_id
    due = f"{one.next_at:%Y-%m-%d %H:%M:%S}Z" if one.state == "pending" else None
    delivery = one.delivery
    return (
        *(str(delivery.id), delivery.site, delivery.channel, delivery.kind, to),
        *(one.state, delivery.attempts, due, one.reason),
    )


def _told(one: Listed) -> dict[str, Any]:
    delivery = one.delivery
    return {
        "id": delivery.id,
        "site": delivery.site,
        "channel": delivery.channel,
        "kind": delivery.kind,
        "state": one.state,
        "reason": one.reason,
        "attempts": delivery.attempts,
        "next_at": one.next_at if one.state == "pending" else None,
        "recipient_id": delivery.recipient_id,
        "endpoint_id": delivery.endpoint_id,
        "event_id": delivery.event_id,
        "about": delivery.about,
        "created_at": delivery.created_at,
        "ended_at": one.ended_at,
    }
