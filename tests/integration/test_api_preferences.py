"""`T/subscription` and `S/me/preferences`: what people follow, and what they want to be told of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.api.shapes import PreferencesShape
from services.core.addresses import thread_stream_id
from tests.integration.api_client import SITE, Answer, Client, S, T, client_of
from tests.processes import until

MAIL = {
    "smtp_url": "smtp://127.0.0.1:9",
    "mail_from": "comments@blog.example",
    "public_url": "https://comments.example",
}
MINE = f"{S}/me/preferences"
DEFAULTS: dict[str, Any] = {
    "email": None,
    "email_state": None,
    "mail": "off",
    "reasons": {"reply": True, "mention": True, "follow": True, "ancestor": False, "moderation": True},
    "quiet": None,
    "blocked": [],
}
NIGHT = {"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"}


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True, **MAIL) as client:
        yield client


async def follow(client: Client, level: object, sub: str = "bob", at: str = T) -> Answer:
    return await client.send("PUT", f"{at}/subscription", {"level": level}, sub=sub)


async def change(client: Client, sub: str = "bob", **changes: object) -> Any:
    answer = await client.send("PATCH", MINE, changes, sub=sub)
    assert answer.status == 200, answer.raw
    PreferencesShape.model_validate(answer.json)
    return answer.json


async def asked(client: Client, sub: str = "bob") -> list[str]:
    """The mails that are to ask somebody for their address."""
    rows = await client.running.resources.pool.fetch(
        "select channel, kind, state from deliveries where recipient_id = $1", sub
    )
    return [" ".join(row) for row in rows]


def with_email(client: Client, sub: str, email: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {client.token(sub, email=email)}"}


# --- subscriptions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["all", "mentions", "muted"])
async def test_a_thread_is_followed_before_it_has_a_comment(client: Client, level: str) -> None:
    answer = await follow(client, level)
    assert (answer.status, answer.json) == (200, {"level": level})
    assert (await client.get(f"{T}/mine", sub="bob")).json["subscription"] == level
    assert (await client.get(f"{T}/mine", sub="cid")).json["subscription"] is None
    await client.post("the first one")
    assert (await client.get(f"{T}/mine", sub="bob")).json["subscription"] == level
    row = await client.running.resources.pool.fetchrow("select * from subscriptions")
    assert row is not None
    assert (row["stream_id"], row["site"], row["author_id"]) == (
        thread_stream_id(SITE, "story"),
        SITE,
        "bob",
    )


async def test_the_last_level_counts_and_ends_with_the_subscription(client: Client) -> None:
    await follow(client, "all")
    tag = {"If-None-Match": (await client.get(f"{T}/mine", sub="bob")).headers["Etag"]}
    await follow(client, "muted")
    again = await client.get(f"{T}/mine", sub="bob", headers=tag)
    assert (again.status, again.json["subscription"]) == (200, "muted")
    for _ in range(2):
        ended = await client.send("DELETE", f"{T}/subscription", sub="bob")
        assert (ended.status, ended.raw) == (204, b"")
    assert (await client.get(f"{T}/mine", sub="bob")).json["subscription"] is None


async def test_following_one_thread_leaves_others_alone(client: Client) -> None:
    other = f"{S}/threads/other"
    await follow(client, "all")
    await follow(client, "muted", at=other)
    await follow(client, "mentions", sub="cid")
    await client.send("DELETE", f"{other}/subscription", sub="bob")
    assert (await client.get(f"{T}/mine", sub="bob")).json["subscription"] == "all"
    assert (await client.get(f"{T}/mine", sub="cid")).json["subscription"] == "mentions"


@pytest.mark.parametrize("body", [{"level": "some"}, {"level": None}, {}, {"level": "all", "more": 1}])
async def test_what_is_no_level_is_refused(client: Client, body: object) -> None:
    answer = await client.send("PUT", f"{T}/subscription", body, sub="bob")
    assert (answer.status, answer.code) == (422, "invalid")


# --- preferences ---------------------------------------------------------------------------------------


async def test_who_has_said_nothing_has_the_defaults(client: Client) -> None:
    assert (await client.get(MINE, sub="bob")).json == DEFAULTS


async def test_what_is_named_changes_and_the_rest_stays(client: Client) -> None:
    wanted = await change(client, mail="daily", quiet=NIGHT, blocked=["u-1", "u-2", "u-1"])
    assert wanted == DEFAULTS | {"mail": "daily", "quiet": NIGHT, "blocked": ["u-1", "u-2"]}
    wanted = await change(client, reasons={"ancestor": True, "reply": False})
    wanted = await change(client, reasons={"follow": False, "reply": None})
    assert wanted["reasons"] == DEFAULTS["reasons"] | {"ancestor": True, "follow": False}
    assert (wanted["mail"], wanted["quiet"], wanted["blocked"]) == ("daily", NIGHT, ["u-1", "u-2"])
    assert await change(client) == wanted == (await client.get(MINE, sub="bob")).json
    assert (await client.get(MINE, sub="cid")).json == DEFAULTS


async def test_null_is_the_default(client: Client) -> None:
    await change(client, mail="now", quiet=NIGHT, blocked=["u-1"], reasons={"reply": False})
    assert await change(client, mail=None, quiet=None, blocked=None, reasons=None) == DEFAULTS


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mail": "yearly"}, "mail"),
        ({"reasons": {"birthday": True}}, "reasons.birthday"),
        ({"reasons": {"reply": "yes"}}, "reasons.reply"),
        ({"quiet": NIGHT | {"zone": "Europe/Nowhere"}}, "quiet.zone"),
        ({"quiet": NIGHT | {"zone": "localtime"}}, "quiet.zone"),
        ({"quiet": NIGHT | {"zone": "../Berlin"}}, "quiet.zone"),
        ({"quiet": NIGHT | {"zone": "CEST+3"}}, "quiet.zone"),
        ({"quiet": NIGHT | {"from": "24:00"}}, "quiet.from"),
        ({"quiet": NIGHT | {"to": "7:00"}}, "quiet.to"),
        ({"quiet": NIGHT | {"to": "22:00"}}, "quiet"),
        ({"quiet": {"from": "22:00", "to": "07:00"}}, "quiet.zone"),
        ({"blocked": [f"u-{n}" for n in range(1001)]}, "blocked"),
        ({"blocked": ["x" * 256]}, "blocked.0"),
        ({"blocked": ["u-1", "a\u0000b"]}, "blocked.1"),
        ({"blocked": ["\ud800"]}, "blocked.0"),
        ({"email": "nobody"}, "email"),
        ({"volume": 11}, "volume"),
    ],
)
async def test_what_is_no_preference_is_refused_and_changes_nothing(
    client: Client, changes: dict[str, object], field: str
) -> None:
    answer = await client.send("PATCH", MINE, {"mail": "now"} | changes, sub="bob")
    assert (answer.status, answer.code, answer.json["errors"][0]["field"]) == (422, "invalid", field)
    assert (await client.get(MINE, sub="bob")).json == DEFAULTS


async def test_a_thousand_people_may_be_blocked_and_every_zone_is_known_to_both(client: Client) -> None:
    from services.eventlog.preferences import zones

    assert len((await change(client, blocked=[f"u-{n}" for n in range(1000)]))["blocked"]) == 1000
    assert len(zones()) > 400
    await client.running.resources.pool.execute(
        "select now() at time zone name from unnest($1::text[]) as name", sorted(zones())
    )


# --- addresses -----------------------------------------------------------------------------------------


async def test_an_address_that_is_given_is_asked_for_by_mail(client: Client) -> None:
    wanted = await change(client, email="bob@mail.example")
    assert (wanted["email"], wanted["email_state"], wanted["mail"]) == (
        "bob@mail.example",
        "unconfirmed",
        "off",
    )
    assert await asked(client) == ["mail confirmation pending"]
    await change(client, email="bob@mail.example")
    assert len(await asked(client)) == 1
    contact = (await client.running.api.contacts.all(SITE, "bob"))[0]
    assert await client.running.api.contacts.confirm(SITE, "bob", contact.mac)
    assert (await client.get(MINE, sub="bob")).json["email_state"] == "confirmed"
    wanted = await change(client, email="bob@mail.example")
    assert (wanted["email_state"], len(await asked(client))) == ("confirmed", 1)
    assert await change(client, email=None) == DEFAULTS
    assert await client.running.resources.pool.fetchval("select count(*) from contacts") == 0


async def test_nobody_has_mails_sent_to_address_after_address(client: Client) -> None:
    for number in range(8):
        await change(client, email=f"victim-{number}@mail.example")
    assert len(await asked(client)) == 5


async def test_where_no_mail_is_sent_none_is_entered(
    database_url: str, redis_url: str, broker_url: str
) -> None:
    async with client_of(database_url, redis_url, broker_url) as client:
        assert (await change(client, email="bob@mail.example"))["email_state"] == "unconfirmed"
        assert await asked(client) == []


async def test_an_address_in_a_token_is_known_soon_after_any_request(client: Client) -> None:
    headers = with_email(client, "bob", "bob@blog.example")
    assert (await client.get(f"{T}/mine", headers=headers)).status == 200

    async def shown() -> Any:
        return (await client.get(MINE, sub="bob")).json

    wanted = await until(shown, "the address is known", lambda found: found["email"] is not None)
    assert (wanted["email"], wanted["email_state"], wanted["mail"]) == ("bob@blog.example", "token", "hourly")
    assert await asked(client) == []
    # Another one takes its place, and one that they give goes before it.
    await client.get(f"{T}/mine", headers=with_email(client, "bob", "robert@blog.example"))
    await until(shown, "the new one is known", lambda found: found["email"] == "robert@blog.example")
    wanted = await change(client, email="bob@mail.example")
    assert (wanted["email"], wanted["email_state"]) == ("bob@mail.example", "unconfirmed")
    usable = await client.running.api.contacts.usable(SITE, "bob")
    assert usable is not None
    assert usable.email == "robert@blog.example"
    wanted = await change(client, email="robert@blog.example")
    assert (wanted["email"], wanted["email_state"]) == ("robert@blog.example", "token")


async def test_an_address_is_no_plain_text_anywhere(client: Client) -> None:
    from tests.traces import in_postgres

    await change(client, email="kumquats@mail.example")
    assert await in_postgres(client.running.resources.pool, ["kumquats"]) == []


async def test_an_address_that_is_known_is_not_written_again(client: Client) -> None:
    pool = client.running.resources.pool
    headers = with_email(client, "bob", "bob@blog.example")
    await client.get(f"{T}/mine", headers=headers)

    async def kept(person: str) -> Any:
        return await pool.fetchval("select xmin::text from contacts where author_id = $1", person)

    first = await until(lambda: kept("bob"), "it is kept", bool)
    await client.get(f"{T}/mine", headers=headers)
    # What comes after it is kept after it.
    await client.get(f"{T}/mine", headers=with_email(client, "cid", "cid@blog.example"))
    await until(lambda: kept("cid"), "the next one is kept", bool)
    assert await kept("bob") == first


async def test_a_guests_address_counts_from_their_first_comment_once_confirmed(client: Client) -> None:
    settings = await client.send("PATCH", f"{S}/settings", {"guests": True}, sub="ada", roles=("admin",))
    assert settings.status == 200
    joined = (await client.send("POST", f"{S}/guests", {"name": "Gil", "email": "gil@mail.example"})).json
    guest, gil = {"Authorization": f"Bearer {joined['token']}"}, joined["author"]["id"]
    await client.get(f"{T}/comments", headers=guest)
    # What another brought later is kept, and theirs was not even noted.
    await client.get(f"{T}/mine", headers=with_email(client, "cid", "cid@blog.example"))

    async def people() -> list[str]:
        rows = await client.running.resources.pool.fetch("select author_id from contacts order by 1")
        return [row["author_id"] for row in rows]

    assert await until(people, "cid's is kept", bool) == ["cid"]
    assert (await client.send("POST", f"{T}/comments", {"body": "hi"}, headers=guest)).status == 201
    await until(people, "the guest's is kept", lambda found: found == ["cid", gil])
    await until(lambda: asked(client, gil), "they are asked", lambda found: len(found) == 1)
    wanted = (await client.get(MINE, headers=guest)).json
    assert (wanted["email"], wanted["email_state"]) == ("gil@mail.example", "unconfirmed")
    # Who wants no mail is not asked for it by the next comment.
    removed = await client.send("PATCH", MINE, {"email": None}, headers=guest)
    assert (removed.status, removed.json["email"]) == (200, None)
    client.running.api.token_addresses._known.clear()
    assert (await client.send("POST", f"{T}/comments", {"body": "again"}, headers=guest)).status == 201
    await client.get(f"{T}/mine", headers=with_email(client, "dan", "dan@blog.example"))
    assert await until(people, "dan's is kept", lambda found: "dan" in found) == ["cid", "dan"]


async def test_who_was_erased_is_not_known_again_by_a_token_alone(client: Client) -> None:
    headers = with_email(client, "bob", "bob@blog.example")
    await client.get(f"{T}/mine", headers=headers)

    async def contacts() -> list[str]:
        rows = await client.running.resources.pool.fetch("select author_id from contacts order by 1")
        return [row["author_id"] for row in rows]

    await until(contacts, "it is kept", bool)
    assert (await client.send("DELETE", f"{S}/me", headers=headers)).status == 202
    assert (await client.get(MINE, headers=headers)).json["email"] is None
    client.running.api.token_addresses._known.clear()
    await client.running.resources.pool.execute("delete from contacts")
    await client.get(f"{T}/mine", headers=headers)
    await client.get(f"{T}/mine", headers=with_email(client, "cid", "cid@blog.example"))
    assert await until(contacts, "cid's is kept", bool) == ["cid"]
    client.running.api.token_addresses._known.clear()
    await client.send("POST", f"{T}/comments", {"body": "a new life"}, headers=headers)
    await client.get(f"{T}/mine", headers=headers)
    await until(contacts, "it is kept with the new life", lambda found: found == ["bob", "cid"])
