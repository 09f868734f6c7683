"""What somebody follows, wants and was sent: told to them, and gone with them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from services.eventlog.preferences import forget
from services.workers.notifier import Notifier
from tests.integration.api_client import SITE, Client, S, T
from tests.integration.erasing import (
    AVATAR,
    NAME,
    OTHER,
    eraser,
    erasing_client,
    lived,
    post_as_ann,
    send_as_ann,
    stream_of,
)
from tests.processes import until
from tests.traces import in_postgres

ADDRESSES = ("ann.quagga@blog.example", "ann.numbat@mail.example")
NEW = ("subscriptions", "preferences", "contacts", "deliveries", "notifications", "untold")
"""Where rows of one's own are, beside the log and what follows it."""

KEEP_IDS = {
    "events": "who did what: history",
    "votes": "so that nobody's count changes, and nobody votes twice",
    "reports": "as above",
    "author_keys": "whose key it was that is destroyed",
    "erasures": "that they were erased",
    "preferences": "whom others block",
    "notifications": "in others' inboxes, whom they were told of",
}
"""Who may still name somebody by their id, who was erased; partitions go by their table's name."""


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with erasing_client(database_url, redis_url, broker_url) as client:
        yield client


async def wished(client: Client) -> dict[str, Any]:
    """Ann has lived, and has a row in every table of NEW."""
    pool = client.running.resources.pool
    life = await lived(client)
    token = client.token("u-ann", name=NAME, avatar=AVATAR, email=ADDRESSES[0])
    await client.get(f"{T}/mine", headers={"Authorization": f"Bearer {token}"})
    await until(lambda: pool.fetchval("select count(*) from contacts"), "an address is kept", bool)
    for at in (T, f"{S}/threads/nobody-wrote-here"):
        await send_as_ann(client, "PUT", f"{at}/subscription", {"level": "all"})
    wanted = {"email": ADDRESSES[1], "mail": "daily", "blocked": ["u-troll"]}
    assert (await send_as_ann(client, "PATCH", f"{S}/me/preferences", wanted)).status == 200
    assert await client.running.api.contacts.ask(SITE, "u-ann", ADDRESSES[1])
    await pool.execute(
        "insert into untold (stream_id, comment_id, version, event_id) values ($1, $2, 1, $2)",
        *(stream_of(T), UUID(life["first"]["id"])),
    )
    blocked = {"blocked": ["u-ann"]}
    assert (await client.send("PATCH", f"{S}/me/preferences", blocked, sub="bob")).status == 200
    assert (await client.send("PUT", f"{T}/subscription", {"level": "muted"}, sub="bob")).status == 200
    return life


async def counts(client: Client) -> dict[str, int]:
    pool = client.running.resources.pool
    return {table: await pool.fetchval(f"select count(*) from {table}") for table in NEW}


async def test_what_somebody_follows_and_wants_and_was_sent_is_told_to_them(client: Client) -> None:
    await wished(client)
    answer = await send_as_ann(client, "GET", f"{S}/me")
    lines = [json.loads(line) for line in answer.raw.splitlines()]
    kinds = {kind: [one for one in lines if one["kind"] == kind] for kind in {one["kind"] for one in lines}}
    followed = {one["stream"]: one for one in kinds["subscription"]}
    assert len(followed) == 2
    assert followed[str(stream_of(T))]["thread"]["key"] == "story"
    assert {one["level"] for one in followed.values()} == {"all"}
    (wanted,) = kinds["preferences"]
    assert (wanted["mail"], wanted["blocked"], wanted["quiet"]) == ("daily", ["u-troll"], None)
    assert {(one["source"], one["email"], one["confirmed"]) for one in kinds["contact"]} == {
        ("token", ADDRESSES[0], False),
        ("given", ADDRESSES[1], False),
    }
    (sent,) = kinds["delivery"]
    assert (sent["channel"], sent["about"], sent["state"]) == ("mail", "confirmation", "pending")


async def test_nothing_of_it_is_left_and_others_keep_theirs(client: Client) -> None:
    await wished(client)
    before = await counts(client)
    assert all(before.values()), before
    pool = client.running.resources.pool
    assert (await send_as_ann(client, "DELETE", f"{S}/me")).status == 202
    assert await client.running.api.contacts.all(SITE, "u-ann") == [], "no address opens any more"
    await eraser(client).round()
    parts = client.running.resources
    for at in (T, OTHER):
        await Notifier(parts.pool, parts.keyring).notify(stream_of(at))
    after = await counts(client)
    assert (after["contacts"], after["deliveries"], after["untold"]) == (0, 0, 0)
    assert (after["subscriptions"], after["preferences"]) == (1, 1)
    assert await in_postgres(pool, ADDRESSES) == []
    named = {found.partition(":")[0] for found in await in_postgres(pool, ["u-ann"])}
    own = {row["name"] for row in await pool.fetch("select distinct recipient_id as name from notifications")}
    assert "u-ann" not in own
    left = {name.rstrip("0123456789").removesuffix("_p") for name in named}
    assert left <= set(KEEP_IDS), left


async def test_who_has_written_nothing_is_forgotten_at_once(client: Client) -> None:
    pool = client.running.resources.pool
    await send_as_ann(client, "PUT", f"{T}/subscription", {"level": "all"})
    await send_as_ann(client, "PATCH", f"{S}/me/preferences", {"mail": "now"})
    answer = await send_as_ann(client, "DELETE", f"{S}/me")
    assert (answer.status, answer.json["state"]) == (202, "nothing")
    assert await in_postgres(pool, ["u-ann"]) == []


async def test_somebody_of_the_same_id_on_another_site_is_left_alone(client: Client) -> None:
    await wished(client)
    pool = client.running.resources.pool
    await pool.execute("update subscriptions set site = 'elsewhere' where author_id = 'u-ann'")
    await pool.execute("update preferences set site = 'elsewhere' where author_id = 'u-ann'")
    await pool.execute("update deliveries set site = 'elsewhere'")
    before = await counts(client)
    await forget(pool, SITE, "u-ann")
    after = await counts(client)
    assert {name: (before[name], after[name]) for name in NEW if before[name] != after[name]} == {
        "contacts": (2, 0),
        "notifications": (before["notifications"], after["notifications"]),
    }


async def test_an_address_that_comes_while_somebody_is_erased_is_not_kept(client: Client) -> None:
    """The key that it is sealed under lives until it is stored, or it is not stored."""
    await post_as_ann(client, "a text")
    contacts = client.running.api.contacts
    key = await client.running.resources.keyring.for_author(SITE, "u-ann")
    await client.running.resources.pool.execute(
        "update author_keys set wrapped = null, destroyed_at = now() where key_id = $1", key.key_id
    )
    assert await contacts.keep(SITE, "u-ann", "given", ADDRESSES[0])
    row = await client.running.resources.pool.fetchrow("select key_id from contacts")
    assert row is not None
    assert row["key_id"] != key.key_id
    assert [one.email for one in await contacts.all(SITE, "u-ann")] == [ADDRESSES[0]]
