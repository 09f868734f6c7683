"""The pages that links in mails lead to."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from services.core.addresses import thread_stream_id
from services.eventlog.contacts import Contacts
from services.eventlog.maillinks import MailLinks
from services.eventlog.preferences import AllPreferences
from tests.integration.api_client import SITE, Answer, Client, S, client_of

STORY = thread_stream_id(SITE, "story")
BOUND = "multipart/form-data; boundary=b"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as made:
        yield made


def links(client: Client) -> MailLinks:
    return MailLinks(client.running.resources.master)


def unsubscribe(client: Client, who: str = "ann", thread: UUID | None = STORY) -> str:
    return f"{S}/unsubscribe?token={links(client).unsubscribe(SITE, who, thread)}"


async def wants(client: Client, who: str = "ann") -> str | None:
    return (await AllPreferences(client.running.resources.pool).of(SITE, who)).mail


async def press(client: Client, path: str, choice: str) -> Answer:
    return await client.send("POST", path, data=f"choice={choice}".encode(), headers=FORM)


def is_a_page(answer: Answer) -> bool:
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script" not in policy
    return b"<script" not in answer.raw


async def test_opening_a_link_changes_nothing(client: Client) -> None:
    for method in ("GET", "HEAD"):
        answer = await client.send(method, unsubscribe(client))
        assert answer.status == 200
        assert is_a_page(answer)
    assert await wants(client) is None
    assert await client.running.resources.pool.fetchval("select count(*) from subscriptions") == 0


@pytest.mark.parametrize(
    ("data", "media"),
    [
        (b"List-Unsubscribe=One-Click", "application/x-www-form-urlencoded"),
        (
            b'--b\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--b--\r\n',
            BOUND,
        ),
    ],
)
async def test_a_mail_program_s_own_button_ends_the_mails(client: Client, data: bytes, media: str) -> None:
    for _ in range(2):
        answer = await client.send("POST", unsubscribe(client), data=data, headers={"Content-Type": media})
        assert answer.status == 200
        assert is_a_page(answer)
        assert b"No more mails will come" in answer.raw
        assert await wants(client) == "off"


async def test_a_button_chooses_how_often(client: Client) -> None:
    for choice in ("off", "hourly", "daily", "weekly"):
        shown = (await client.get(unsubscribe(client))).raw
        assert f'value="{choice}"'.encode() in shown
        assert (await press(client, unsubscribe(client), choice)).status == 200
        assert await wants(client) == choice
    # A form that says nothing, or nothing that can be read, is taken for what it most likely wants.
    for data in (b"", b"\xff\xfe", b"&".join([b"a=b"] * 20)):
        await press(client, unsubscribe(client), "daily")
        answer = await client.send("POST", unsubscribe(client), data=data, headers=FORM)
        assert (answer.status, await wants(client)) == (200, "off")


async def test_a_thread_is_muted_where_the_mail_was_about_one(client: Client) -> None:
    assert b'value="mute"' in (await client.get(unsubscribe(client))).raw
    assert (await press(client, unsubscribe(client), "mute")).status == 200
    level = await client.running.resources.pool.fetchval(
        "select level from subscriptions where stream_id = $1 and author_id = 'ann'", STORY
    )
    assert level == "muted"
    assert await wants(client) is None
    of_many = unsubscribe(client, thread=None)
    assert b'value="mute"' not in (await client.get(of_many)).raw
    refused = await press(client, of_many, "mute")
    assert (refused.status, refused.code) == (422, "invalid")


async def test_what_is_no_choice_is_refused(client: Client) -> None:
    answer = await press(client, unsubscribe(client), "carrier-pigeon")
    assert (answer.status, answer.code) == (422, "invalid")
    assert await wants(client) is None


async def test_a_link_that_is_none_of_ours_leads_to_a_page_that_says_so(client: Client) -> None:
    await client.running.api.sites.add("blog", b"s" * 32)
    made = links(client)
    tokens = {
        "confirm": [made.unsubscribe(SITE, "ann"), made.confirm("blog", "ann", "mac")],
        "unsubscribe": [made.confirm(SITE, "ann", "mac"), made.unsubscribe("blog", "ann")],
    }
    for method, page in itertools.product(("GET", "POST"), tokens):
        for query in ("", "?token=", "?token=x", *(f"?token={token}" for token in tokens[page])):
            answer = await client.send(method, f"{S}/{page}{query}")
            assert answer.status == 410, (method, page, query)
            assert is_a_page(answer)
        assert (await client.send(method, f"{S}/{page}?tokens=x")).code == "bad-query"


async def test_a_link_confirms_only_an_address_that_is_still_given(client: Client) -> None:
    contacts = Contacts(client.running.resources.pool, client.running.resources.keyring)
    path = f"{S}/confirm?token={links(client).confirm(SITE, 'ann', 'another')}"
    assert (await client.send("POST", path)).status == 410
    await contacts.keep(SITE, "ann", "given", "ann@example.org")
    [given] = await contacts.all(SITE, "ann")
    path = f"{S}/confirm?token={links(client).confirm(SITE, 'ann', given.mac)}"
    assert b"<form" in (await client.get(path)).raw
    assert await contacts.usable(SITE, "ann") is None
    assert (await client.send("POST", path)).status == 200
    assert await contacts.usable(SITE, "ann") is not None


async def test_a_page_is_in_the_site_s_language(client: Client) -> None:
    await client.send("PATCH", f"{S}/settings", {"language": "de"}, sub="root", roles=("admin",))
    answer = await client.get(unsubscribe(client))
    assert b'<html lang="de">' in answer.raw
    assert "Welche Mails möchtest du".encode() in answer.raw


async def test_presses_are_limited_as_other_writes_of_those_not_signed_in_are(client: Client) -> None:
    changes = {"address_writes_per_minute": 2}
    await client.send("PATCH", f"{S}/settings", changes, sub="root", roles=("admin",))
    found = [(await client.send("POST", unsubscribe(client), headers=FORM)).status for _ in range(4)]
    assert found[-1] == 429
    assert (await client.get(unsubscribe(client))).status == 200
