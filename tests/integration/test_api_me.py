"""`S/me`: what a person is told of themselves, and what it answers to be erased."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.integration.api_client import SITE, Client, S, T
from tests.integration.erasing import (
    AVATAR,
    BODY,
    DETAIL,
    EDITED,
    NAME,
    as_ann,
    erased,
    eraser,
    erasing_client,
    lived,
    post_as_ann,
    send_as_ann,
)
from tests.sites import set_site


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with erasing_client(database_url, redis_url, broker_url) as client:
        yield client


# --- what the API answers --------------------------------------------------------------------------------


async def test_erasing_twice_is_202_and_writes_nothing(client: Client) -> None:
    first = await send_as_ann(client, "DELETE", f"{S}/me")
    assert (first.status, first.json["state"]) == (202, "nothing")
    await post_as_ann(client, BODY)
    second = await send_as_ann(client, "DELETE", f"{S}/me")
    assert (second.status, second.json["state"], second.version) == (202, "running", first.version + 1)
    third = await send_as_ann(client, "DELETE", f"{S}/me")
    assert (third.status, third.json["state"]) == (202, "nothing")
    assert await client.running.resources.pool.fetchval("select count(*) from erasures") == 1


async def test_what_is_posted_afterwards_is_a_new_life(client: Client) -> None:
    await erased(client)
    again = await post_as_ann(client, "back again")
    await eraser(client).round()
    shown = (await client.get(f"{T}/comments/{again['id']}")).json
    assert (shown["state"], shown["body"], shown["author"]["name"]) == ("visible", "back again", NAME)


async def test_a_repeat_with_its_key_does_not_erase_what_came_since(client: Client) -> None:
    await post_as_ann(client, BODY)
    once = {"Idempotency-Key": "erase-me"}
    first = await send_as_ann(client, "DELETE", f"{S}/me", **once)
    again = await post_as_ann(client, "back again")
    repeat = await send_as_ann(client, "DELETE", f"{S}/me", **once)
    assert (repeat.status, repeat.json["requested_at"]) == (202, first.json["requested_at"])
    assert repeat.version == first.version
    await eraser(client).round()
    assert (await client.get(f"{T}/comments/{again['id']}")).json["body"] == "back again"
    reused = await client.send("DELETE", f"{S}/me", data=b"{}", headers=as_ann(client, **once))
    assert reused.code == "idempotency-key-reused"


async def test_a_repeated_post_or_edit_is_409_once_erased(client: Client) -> None:
    life = await erased(client)
    repeat = await send_as_ann(
        client, "POST", f"{T}/comments", {"body": BODY}, **{"Idempotency-Key": "first"}
    )
    assert repeat.code == "comment-erased"
    edit = await send_as_ann(
        client, "PATCH", f"{T}/comments/{life['first']['id']}", {"body": "x"}, **{"If-Match": '"2"'}
    )
    assert edit.code == "comment-erased"
    for method, path, body in (
        ("DELETE", "", None),
        ("POST", "/reports", {"reason": "spam"}),
        ("PUT", "/vote", {"value": 1}),
    ):
        answer = await client.send(method, f"{T}/comments/{life['first']['id']}{path}", body, sub="cem")
        assert answer.code == "comment-erased", (method, path)


async def test_a_moderators_edit_is_refused_as_soon_as_the_key_is_gone(client: Client) -> None:
    life = await lived(client)
    await send_as_ann(client, "DELETE", f"{S}/me")
    edit = await client.send(
        "PATCH",
        f"{T}/comments/{life['first']['id']}",
        {"body": "in other words"},
        sub="mod",
        roles=("moderator",),
        headers={"If-Match": '"2"'},
    )
    assert edit.code == "comment-erased"


async def test_all_that_is_stored_of_me_is_had_as_lines(client: Client) -> None:
    life = await lived(client)
    answer = await send_as_ann(client, "GET", f"{S}/me")
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in answer.raw.splitlines()]
    assert lines[0] == {"kind": "person", "site": SITE, "id": "u-ann"}
    comments = {one["id"]: one for one in lines if one["kind"] == "comment"}
    assert set(comments) == {life[name]["id"] for name in ("first", "reply", "away", "gone", "removed")}
    first = comments[life["first"]["id"]]
    assert (first["name"], first["avatar"], first["thread"]["key"]) == (NAME, AVATAR, "story")
    place = lines.index(first)
    texts = [one for one in lines if one["kind"] == "revision" and one["comment_id"] == first["id"]]
    assert texts == lines[place + 1 : place + 3]
    assert [(one["revision"], one["body"]) for one in texts] == [(1, BODY), (2, EDITED)]
    assert {comments[life[name]["id"]]["state"] for name in ("gone", "removed")} == {"deleted", "removed"}
    (report,) = [one for one in lines if one["kind"] == "report"]
    assert (report["comment_id"], report["reason"], report["detail"]) == (life["bobs"]["id"], "spam", DETAIL)
    (vote,) = [one for one in lines if one["kind"] == "vote"]
    assert (vote["comment_id"], vote["value"]) == (life["bobs"]["id"], 1)
    told = {one["reason"]: one["comment_id"] for one in lines if one["kind"] == "notification"}
    assert told == {"reply": life["bobs"]["id"], "moderation": life["removed"]["id"]}
    head = await send_as_ann(client, "HEAD", f"{S}/me")
    assert (head.status, head.raw) == (200, b"")
    assert (await client.get(f"{S}/me")).code == "unauthenticated"


async def test_afterwards_only_what_keeps_others_counts_is_stored_of_me(client: Client) -> None:
    await erased(client)
    answer = await send_as_ann(client, "GET", f"{S}/me")
    lines = [json.loads(line) for line in answer.raw.splitlines()]
    assert [one["kind"] for one in lines] == ["person", "erasure", "report", "vote"]
    assert (lines[1]["state"], lines[1]["comments"]) == ("done", 5)
    assert lines[2]["detail"] is None


async def test_many_comments_come_as_lines_page_by_page(client: Client) -> None:
    for number in range(130):
        await client.post(f"number {number}", sub="u-many")
    answer = await client.get(f"{S}/me", sub="u-many")
    lines = [json.loads(line) for line in answer.raw.splitlines()[1:]]
    assert [one["kind"] for one in lines] == ["comment", "revision"] * 130
    assert [one["body"] for one in lines[1::2]] == [f"number {number}" for number in range(130)]


async def test_many_revisions_come_as_lines_too(client: Client) -> None:
    posted = await client.post("text 1", sub="u-many")
    for revision in range(1, 45):
        edited = await client.send(
            "PATCH",
            f"{T}/comments/{posted['id']}",
            {"body": f"text {revision + 1}"},
            sub="u-many",
            headers={"If-Match": f'"{revision}"'},
        )
        assert edited.status == 200
    answer = await client.get(f"{S}/me", sub="u-many")
    person, comment, *revisions = [json.loads(line) for line in answer.raw.splitlines()]
    assert (person["kind"], comment["kind"]) == ("person", "comment")
    assert [one["body"] for one in revisions] == [f"text {number}" for number in range(1, 46)]


async def test_another_sites_person_of_the_same_name_is_left_alone(client: Client) -> None:
    parts = client.running.resources
    mine = await parts.keyring.for_author(SITE, "u-ann")
    theirs = await parts.keyring.for_author("elsewhere", "u-ann")
    await send_as_ann(client, "DELETE", f"{S}/me")
    assert await parts.keyring.by_id([mine.key_id, theirs.key_id]) == {theirs.key_id: theirs}


async def test_an_inbox_is_emptied_and_others_rows_show_nobody(client: Client) -> None:
    life = await lived(client)
    told = (await send_as_ann(client, "GET", f"{S}/me/notifications")).json["items"]
    assert [one["comment"]["id"] for one in told] == [life["removed"]["id"], life["bobs"]["id"]]
    before = (await client.get(f"{S}/me/notifications", sub="bob")).json["items"]
    assert "xenopus" in before[0]["comment"]["body"]
    await send_as_ann(client, "DELETE", f"{S}/me")
    await eraser(client).round()
    assert (await send_as_ann(client, "GET", f"{S}/me/notifications")).json["items"] == []
    after = (await client.get(f"{S}/me/notifications", sub="bob")).json["items"]
    comment = after[0]["comment"]
    assert (comment["state"], comment["body"], after[0]["actor"]) == ("erased", None, None)


async def test_a_guest_has_the_same_rights(client: Client) -> None:
    await set_site(client.running.api.appenders, SITE, {"guests": True})
    client.running.api.sites.forget(SITE)
    joined = (await client.send("POST", f"{S}/guests", {"name": NAME})).json
    guest = {"Authorization": f"Bearer {joined['token']}"}
    posted = await client.send("POST", f"{T}/comments", {"body": BODY}, headers=guest)
    assert posted.status == 201
    lines = (await client.get(f"{S}/me", headers=guest)).raw.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["person", "comment", "revision"]
    # Their site takes no more guests; those it had can still go.
    await set_site(client.running.api.appenders, SITE, {"guests": False})
    client.running.api.sites.forget(SITE)
    erasure = await client.send("DELETE", f"{S}/me", headers=guest)
    assert (erasure.status, erasure.json["state"]) == (202, "running")
    await eraser(client).round()
    shown = (await client.get(f"{T}/comments/{posted.json['id']}")).json
    assert (shown["state"], shown["author"]) == ("erased", None)
