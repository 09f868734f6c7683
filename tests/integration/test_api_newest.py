"""The newest comments of a site and of a person: in order, whole while others write, and never what is not
visible."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from services.api.shapes import CommentsShape
from services.core.addresses import thread_stream_id
from services.errors import Unavailable
from tests.integration.api_client import SITE, Client, S, T, client_of
from tests.integration.erasing import eraser

MOD: dict[str, Any] = {"sub": "mia", "roles": ("moderator",)}


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True) as client:
        yield client


def at(number: int) -> str:
    return f"{S}/threads/t-{number}"


async def talk(client: Client, count: int, threads: int = 3) -> list[Any]:
    """Comments in several threads, the oldest first."""
    return [
        await client.post(f"text {number}", sub=("ann", "bob")[number % 2], at=at(number % threads))
        for number in range(count)
    ]


async def pages(client: Client, path: str, limit: int, **more: Any) -> list[Any]:
    """All items of a list, page by page."""
    items: list[Any] = []
    after = ""
    while True:
        answer = await client.get(f"{path}?limit={limit}{after}", **more)
        assert answer.status == 200, answer.raw
        CommentsShape.model_validate(answer.json)
        items += answer.json["items"]
        if answer.json["after"] is None:
            return items
        assert len(items) < 10_000
        after = f"&after={answer.json['after']}"


def ids(comments: list[Any]) -> list[str]:
    return [comment["id"] for comment in comments]


# --- of a site -------------------------------------------------------------------------------------------


async def test_the_newest_come_first_each_as_its_own_thread_shows_it(client: Client) -> None:
    made = await talk(client, 5)
    reply = await client.post("a reply", to=made[0]["id"], at=at(0))
    found = (await client.get(f"{S}/comments")).json
    assert found["after"] is None
    assert ids(found["items"]) == [reply["id"], *reversed(ids(made))]
    for item in found["items"]:
        alone = await client.get(f"{S}/threads/{item['thread']}/comments/{item['id']}")
        assert item == alone.json
    assert found["items"][0]["path"] == [made[0]["id"]]
    assert found["items"][-1]["children"] == 1


async def test_a_site_without_comments_has_none(client: Client) -> None:
    assert (await client.get(f"{S}/comments")).json == {"items": [], "after": None}


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_paging_gives_every_comment_once_though_all_of_a_moment_are_alike(
    client: Client, limit: int
) -> None:
    made = await talk(client, 7)
    await client.running.resources.pool.execute("update comments set created_at = '2026-01-01'")
    found = await pages(client, f"{S}/comments", limit)
    assert sorted(ids(found)) == sorted(ids(made))
    assert ids(found) == sorted(ids(found), reverse=True)


async def test_what_is_written_meanwhile_changes_no_page_behind_the_first(client: Client) -> None:
    made = await talk(client, 6)
    first = (await client.get(f"{S}/comments?limit=3")).json
    await client.post("later", at=at(0))
    second = (await client.get(f"{S}/comments?limit=3&after={first['after']}")).json
    assert ids(first["items"] + second["items"]) == list(reversed(ids(made)))
    assert second["after"] is None


async def test_what_is_deleted_removed_or_erased_is_not_listed(client: Client) -> None:
    made = await talk(client, 6, threads=1)
    for number, who in ((4, {"sub": "ann"}), (5, MOD)):
        path = f"{at(0)}/comments/{made[number]['id']}"
        assert (await client.send("DELETE", path, **who)).status == 204
    # A page is filled with what is visible: a wave of what was removed makes no page empty.
    assert ids((await client.get(f"{S}/comments?limit=4")).json["items"]) == list(reversed(ids(made[:4])))
    assert (await client.send("DELETE", f"{S}/me", sub="bob")).status == 202
    await eraser(client).round()
    assert ids((await client.get(f"{S}/comments?limit=2")).json["items"]) == [made[2]["id"], made[0]["id"]]


async def test_where_a_view_knows_better_than_the_list_nothing_hidden_is_shown(client: Client) -> None:
    made = await talk(client, 4, threads=1)
    await client.send("DELETE", f"{at(0)}/comments/{made[2]['id']}", **MOD)
    assert (await client.get(f"{at(0)}/comments?min_version=5")).status == 200
    # As a list read a moment before the removal has it.
    await client.running.resources.pool.execute(
        "update comments set state = 'visible' where comment_id = $1", UUID(made[2]["id"])
    )
    first = (await client.get(f"{S}/comments?limit=2")).json
    assert ids(first["items"]) == [made[3]["id"]]
    second = (await client.get(f"{S}/comments?limit=2&after={first['after']}")).json
    assert ids(second["items"]) == [made[1]["id"], made[0]["id"]]
    assert second["after"] is None


async def test_views_that_are_behind_or_gone_are_brought_up(client: Client) -> None:
    made = await talk(client, 3)
    for number in range(3):
        assert (await client.get(f"{at(number)}/comments")).status == 200
    newer = await client.post("newer", at=at(1))
    assert ids((await client.get(f"{S}/comments")).json["items"]) == [newer["id"], *reversed(ids(made))]
    await client.running.resources.redis.flushall()
    assert ids((await client.get(f"{S}/comments")).json["items"]) == [newer["id"], *reversed(ids(made))]


async def test_a_thread_that_cannot_be_read_just_now_loses_no_comment_of_a_list(client: Client) -> None:
    await talk(client, 4, threads=2)
    reader = client.running.api.reader
    read = reader.comments

    async def busy(stream_id: UUID, ids: Any) -> Any:
        if stream_id == thread_stream_id(SITE, "t-1"):
            raise Unavailable("the view does not stay")
        return await read(stream_id, ids)

    reader.comments = busy  # type: ignore[method-assign]
    answer = await client.get(f"{S}/comments")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert "Retry-After" in answer.headers


async def test_a_list_that_takes_too_long_ends_early_and_goes_on(client: Client) -> None:
    made = await talk(client, 120, threads=2)
    object.__setattr__(client.running.api, "inbox_seconds", 0.0)
    first = (await client.get(f"{S}/comments?limit=120")).json
    assert 0 < len(first["items"]) < 120
    rest = (await client.get(f"{S}/comments?limit=120&after={first['after']}")).json
    assert rest["items"]
    found = await pages(client, f"{S}/comments", 120)
    assert ids(found) == list(reversed(ids(made)))


async def test_it_is_the_same_for_everyone_and_tagged(client: Client) -> None:
    await talk(client, 3)
    answer = await client.get(f"{S}/comments")
    assert answer.headers["Cache-Control"] == "public, max-age=10"
    again = await client.get(f"{S}/comments", headers={"If-None-Match": answer.headers["Etag"]})
    assert (again.status, again.raw) == (304, b"")
    signed_in = await client.get(f"{S}/comments", sub="ann")
    assert signed_in.raw == answer.raw
    assert signed_in.headers["Cache-Control"].startswith("private")
    await client.post("more")
    newer = await client.get(f"{S}/comments", headers={"If-None-Match": answer.headers["Etag"]})
    assert newer.status == 200


async def test_a_cursor_is_of_its_site_and_list(client: Client) -> None:
    await talk(client, 3)
    await client.running.api.sites.add("blog", b"another-secret-of-at-least-32-bytes")
    newest = (await client.get(f"{S}/comments?limit=1")).json["after"]
    own = (await client.get(f"{S}/me/comments?limit=1", sub="ann")).json["after"]
    for path, cursor, sub in (
        ("/v1/sites/blog/comments", newest, None),
        (f"{S}/comments", own, None),
        (f"{S}/me/comments", newest, "ann"),
        (f"{S}/me/comments", own, "bob"),
        (f"{S}/comments", newest[:-2] + ("AA" if newest[-2:] != "AA" else "BB"), None),
    ):
        answer = await client.get(f"{path}?after={cursor}", sub=sub)
        assert (answer.status, answer.code) == (400, "cursor-invalid"), path


async def test_a_site_lists_nothing_of_another(client: Client) -> None:
    await client.running.api.sites.add("blog", b"another-secret-of-at-least-32-bytes")
    await talk(client, 2)
    assert (await client.get("/v1/sites/blog/comments")).json["items"] == []


# --- of a person -----------------------------------------------------------------------------------------


async def test_what_i_wrote_is_listed_in_every_state(client: Client) -> None:
    made = await talk(client, 8)
    own = made[::2]
    await client.send("DELETE", f"{at(2)}/comments/{own[1]['id']}", sub="ann")
    await client.send("DELETE", f"{at(1)}/comments/{own[2]['id']}", **MOD)
    found = (await client.get(f"{S}/me/comments", sub="ann")).json
    CommentsShape.model_validate(found)
    assert ids(found["items"]) == list(reversed(ids(own)))
    states = {item["id"]: (item["state"], item["body"]) for item in found["items"]}
    assert states[own[0]["id"]] == ("visible", "text 0")
    assert states[own[1]["id"]] == ("deleted", None)
    assert states[own[2]["id"]] == ("removed", None)


@pytest.mark.parametrize("limit", [1, 2, 4])
async def test_paging_through_what_i_wrote_gives_all_of_it_once(client: Client, limit: int) -> None:
    made = await talk(client, 8)
    found = await pages(client, f"{S}/me/comments", limit, sub="bob")
    assert ids(found) == list(reversed(ids(made[1::2])))


async def test_what_was_erased_is_nobodys(client: Client) -> None:
    await talk(client, 4)
    assert (await client.send("DELETE", f"{S}/me", sub="ann")).status == 202
    assert (await client.get(f"{S}/me/comments", sub="ann")).json == {"items": [], "after": None}
    again = await client.post("back", sub="ann")
    assert ids((await client.get(f"{S}/me/comments", sub="ann")).json["items"]) == [again["id"]]


async def test_a_guest_has_a_list_and_nobody_none(client: Client) -> None:
    changed = await client.send("PATCH", f"{S}/settings", {"guests": True}, sub="ada", roles=("admin",))
    assert changed.status == 200
    joined = await client.send("POST", f"{S}/guests", {"name": "Gil"})
    guest = {"Authorization": f"Bearer {joined.json['token']}"}
    posted = await client.send("POST", f"{T}/comments", {"body": "hello"}, headers=guest)
    listed = await client.get(f"{S}/me/comments", headers=guest)
    assert ids(listed.json["items"]) == [posted.json["id"]]
    assert listed.headers["Cache-Control"].startswith("private")
    assert (await client.get(f"{S}/me/comments")).status == 401


# --- what the append writes ------------------------------------------------------------------------------


async def test_comments_of_two_sites_in_one_batch_are_each_their_own_sites(client: Client) -> None:
    api = client.running.api
    await api.sites.add("blog", b"a-secret-of-at-least-thirty-two-bytes")

    async def post(site: str, number: int) -> None:
        headers = {"Authorization": f"Bearer {client.token('ann', iss=site)}"}
        path = f"/v1/sites/{site}/threads/t-{number}/comments"
        answer = await client.send("POST", path, {"body": "x"}, headers=headers)
        assert answer.status == 201, answer.raw

    await asyncio.gather(*(post(site, number) for number in range(20) for site in (SITE, "blog")))
    for site in (SITE, "blog"):
        found = (await client.get(f"/v1/sites/{site}/comments")).json["items"]
        assert len(found) == 20
    rows = await client.running.resources.pool.fetch(
        "select s.site, c.site as named from comments c join streams s using (stream_id)"
    )
    assert len(rows) == 40
    assert all(row["site"] == row["named"] for row in rows)
