"""Guests: who may become one, what they may do, and what they may do when they are no longer allowed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from uuid import UUID

import jwt
import pytest

from services.api.guests import LIFETIME
from tests.integration.api_client import Answer, Client, S, T, client_of


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as running:
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def post_with(client: Client, headers: dict[str, str]) -> Answer:
    return await client.send("POST", f"{T}/comments", {"body": "x"}, headers=headers)


async def settle(client: Client, **changes: object) -> None:
    answer = await client.send("PATCH", f"{S}/settings", changes, sub="root", roles=("admin",))
    assert answer.status == 200, answer.raw


@pytest.fixture
async def open_house(client: Client) -> Client:
    """An API with a site that allows guests."""
    await settle(client, guests=True)
    return client


async def test_guests_are_not_allowed_unless_the_site_says_so(client: Client) -> None:
    answer = await client.send("POST", f"{S}/guests", {"name": "Gil"})
    assert (answer.status, answer.code) == (403, "guests-not-allowed")


async def test_a_guest_posts_under_the_name_they_gave(open_house: Client) -> None:
    joined = await open_house.send("POST", f"{S}/guests", {"name": "Gil", "email": "gil@a.example"})
    assert joined.status == 201
    assert joined.headers["Cache-Control"] == "private, no-store"
    author = joined.json["author"]
    assert author["id"].startswith("guest:")
    assert UUID(author["id"].removeprefix("guest:")).version == 4
    assert (author["name"], author["avatar"], author["badge"]) == ("Gil", None, None)
    said = jwt.decode(joined.json["token"], options={"verify_signature": False})
    assert (said["sub"], said["name"], said["email"]) == (author["id"], "Gil", "gil@a.example")
    assert 0 < LIFETIME - (said["exp"] - time.time()) < 60
    answer = await post_with(open_house, bearer(joined.json["token"]))
    assert answer.json["author"] == author
    page = await open_house.get(f"{T}/comments")
    assert page.json["comments"][0]["author"] == author
    assert b"gil@a.example" not in page.raw


async def test_two_guests_of_one_name_are_two(open_house: Client) -> None:
    ids = {(await open_house.send("POST", f"{S}/guests", {"name": "Gil"})).json["author"]["id"] for _ in "ab"}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "\u200b"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": 7}, "name"),
        ({"name": "Gil", "email": "nobody"}, "email"),
        ({"name": "Gil", "email": "a@b@c"}, "email"),
        ({"name": "Gil", "email": f"{'x' * 250}@b.example"}, "email"),
        ({"name": "Gil", "role": "admin"}, "role"),
    ],
    ids=repr,
)
async def test_a_guest_out_of_shape_is_refused(open_house: Client, body: object, field: str) -> None:
    answer = await open_house.send("POST", f"{S}/guests", body)
    assert (answer.status, answer.code) == (422, "invalid")
    assert [one["field"] for one in answer.json["errors"]] == [field]


async def test_a_name_is_stored_as_names_are(open_house: Client) -> None:
    joined = await open_house.send("POST", f"{S}/guests", {"name": "Zoe\u0308"})
    assert joined.json["author"]["name"] == "Zo\u00eb"
    # The longest name and address there may be still fit into a token that is taken.
    longest = {"name": "\U0001f600" * 100, "email": "\U0001f600" * 240 + "@b.example"}
    joined = await open_house.send("POST", f"{S}/guests", longest)
    assert (await post_with(open_house, bearer(joined.json["token"]))).status == 201


async def test_a_guests_report_counts_nothing(open_house: Client) -> None:
    await settle(open_house, report_threshold=1)
    comment = await open_house.post("x", sub="ann")
    joined = await open_house.send("POST", f"{S}/guests", {"name": "Gil"})
    report, path = {"reason": "spam"}, f"{T}/comments/{comment['id']}"
    first = await open_house.send("POST", f"{path}/reports", report, headers=bearer(joined.json["token"]))
    assert first.status == 202
    assert (await open_house.get(path)).json["state"] == "visible"
    assert (await open_house.send("POST", f"{path}/reports", report, sub="bob")).status == 202
    assert (await open_house.get(f"{path}?min_version=3")).json["state"] == "hidden"


async def test_where_guests_are_no_longer_allowed_they_read_on(open_house: Client) -> None:
    joined = await open_house.send("POST", f"{S}/guests", {"name": "Gil"})
    guest = bearer(joined.json["token"])
    comment = (await post_with(open_house, guest)).json
    path = f"{T}/comments/{comment['id']}"
    await settle(open_house, guests=False)
    for method, where, body in (
        ("POST", f"{T}/comments", {"body": "x"}),
        ("DELETE", path, None),
        ("POST", f"{S}/me/notifications/read", {"ids": []}),
        ("POST", f"{S}/guests", {"name": "Gil"}),
    ):
        answer = await open_house.send(method, where, body, headers=guest)
        assert (answer.status, answer.code) == (403, "guests-not-allowed"), where
    for where in (T, path, f"{path}/revisions", f"{S}/me/notifications"):
        assert (await open_house.get(where, headers=guest)).status == 200, where
    await settle(open_house, guests=True)
    assert (await open_house.send("DELETE", path, headers=guest)).status == 204
