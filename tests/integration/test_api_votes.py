"""Votes over HTTP: cast, changed, withdrawn, refused, repeated, and shown in what is read."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.api.shapes import CommentShape, TallyShape
from tests.integration.api_client import Answer, Client, S, T, client_of

MOD = ("moderator",)


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as running:
        yield running


async def vote(client: Client, comment: Any, value: object, **more: Any) -> Answer:
    more.setdefault("sub", "bob")
    return await client.send("PUT", f"{T}/comments/{comment['id']}/vote", {"value": value}, **more)


async def test_a_vote_is_cast_changed_and_withdrawn(client: Client) -> None:
    comment = await client.post("one")
    for value, votes, version in (
        (1, {"up": 1, "down": 0}, 2),
        (-1, {"up": 0, "down": 1}, 3),
        (-1, {"up": 0, "down": 1}, 3),
        (0, {"up": 0, "down": 0}, 4),
    ):
        answer = await vote(client, comment, value)
        assert (answer.status, answer.json, answer.version) == (200, votes | {"value": value}, version)
        assert answer.headers["Cache-Control"].startswith("private")
        TallyShape.model_validate(answer.json)
        read = (await client.get(f"{T}/comments/{comment['id']}?min_version={version}")).json
        assert read == comment | {"votes": votes, "version": version}
        CommentShape.model_validate(read)


async def test_a_page_and_an_edits_answer_show_the_votes(client: Client) -> None:
    comment = await client.post("one")
    reply = await client.post("two", to=comment["id"], sub="bob")
    await vote(client, comment, 1, sub="cid")
    await vote(client, reply, -1, sub="cid")
    await vote(client, reply, -1, sub="ann")
    page = (await client.get(f"{T}/comments?min_version=5")).json
    [root] = page["comments"]
    [below] = root["replies"]["items"]
    assert [(one["votes"], one["version"]) for one in (root, below)] == [
        ({"up": 1, "down": 0}, 3),
        ({"up": 0, "down": 2}, 5),
    ]
    edited = await client.send(
        "PATCH", f"{T}/comments/{comment['id']}", {"body": "new"}, sub="ann", headers={"If-Match": '"1"'}
    )
    assert (edited.json["votes"], edited.json["version"]) == ({"up": 1, "down": 0}, 6)


async def test_a_vote_moves_the_etag_and_not_the_revision(client: Client) -> None:
    comment = await client.post("one")
    path = f"{T}/comments/{comment['id']}"
    before = await client.get(f"{path}?min_version=1")
    await vote(client, comment, 1)
    after = await client.get(f"{path}?min_version=2", headers={"If-None-Match": before.headers["Etag"]})
    assert (after.status, after.json["revision"], after.json["edited_at"]) == (200, 1, None)


async def test_who_may_not_vote_is_told_why(client: Client) -> None:
    comment = await client.post("one")
    path = f"{T}/comments/{comment['id']}/vote"
    own = await vote(client, comment, 1, sub="ann")
    assert (own.status, own.code) == (403, "own-comment")
    nobody = await client.send("PUT", path, {"value": 1})
    assert (nobody.status, nobody.code) == (401, "unauthenticated")
    nowhere = await client.send("PUT", f"{T}/comments/{uuid.uuid4()}/vote", {"value": 1}, sub="bob")
    assert (nowhere.status, nowhere.code) == (404, "comment-not-found")
    elsewhere = await client.send(
        "PUT", f"{S}/threads/other/comments/{comment['id']}/vote", {"value": 1}, sub="bob"
    )
    assert (elsewhere.status, elsewhere.code) == (404, "comment-not-found")
    assert (await client.get(T)).version == 1


async def test_only_a_visible_comment_takes_votes(client: Client) -> None:
    for remover, code in (("ann", "comment-deleted"), ("mod", "comment-removed")):
        comment = await client.post("one")
        await vote(client, comment, 1)
        await client.send("DELETE", f"{T}/comments/{comment['id']}", sub=remover, roles=MOD)
        for value in (1, 0, -1):
            answer = await vote(client, comment, value)
            assert (answer.status, answer.code) == (409, code)


@pytest.mark.parametrize("value", [2, -2, "1", True, None, 0.5, [1], 10**30], ids=repr)
async def test_a_vote_is_one_of_three_numbers(client: Client, value: object) -> None:
    comment = await client.post("one")
    answer = await vote(client, comment, value)
    assert (answer.status, answer.code, answer.json["errors"][0]["field"]) == (422, "invalid", "value")


@pytest.mark.parametrize("body", [{}, {"value": 1, "weight": 9}, []], ids=repr)
async def test_a_vote_is_an_object_with_a_value_and_nothing_else(client: Client, body: object) -> None:
    comment = await client.post("one")
    answer = await client.send("PUT", f"{T}/comments/{comment['id']}/vote", body, sub="bob")
    assert (answer.status, answer.code) == (422, "invalid")


async def test_a_repeated_vote_writes_nothing_and_tells_the_counts_as_they_are_now(client: Client) -> None:
    comment = await client.post("one")
    key = {"Idempotency-Key": "k"}
    first = await vote(client, comment, 1, headers=key)
    await vote(client, comment, 1, sub="cid")
    await vote(client, comment, -1)
    again = await vote(client, comment, 1, headers=key)
    assert (first.json, first.version) == ({"up": 1, "down": 0, "value": 1}, 2)
    assert (again.status, again.json, again.version) == (200, {"up": 1, "down": 1, "value": -1}, 2)
    reused = await vote(client, comment, 0, headers=key)
    assert (reused.status, reused.code) == (422, "idempotency-key-reused")
    assert (await client.get(f"{T}?min_version=4")).version == 4


async def test_a_vote_is_counted_once_however_often_it_is_sent_at_once(client: Client) -> None:
    comment = await client.post("one")
    answers = await asyncio.gather(
        *(vote(client, comment, 1, headers={"Idempotency-Key": "k"}) for _ in range(10)),
        *(vote(client, comment, 1) for _ in range(10)),
    )
    assert {(answer.status, answer.version) for answer in answers} == {(200, 2)}
    assert {answer.raw for answer in answers} == {b'{"up":1,"down":0,"value":1}'}


async def test_a_vote_tells_nobody(client: Client) -> None:
    comment = await client.post("one")
    await vote(client, comment, 1)
    assert (await client.get(f"{S}/me/notifications", sub="ann")).json["items"] == []
