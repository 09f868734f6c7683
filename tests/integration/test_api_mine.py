"""`T/mine`: what somebody did in a thread, to be laid over pages that are the same for everyone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.api.shapes import MineShape
from tests.integration.api_client import Answer, Client, S, T, client_of

NOTHING: dict[str, Any] = {
    "votes": {},
    "reports": [],
    "held": [],
    "subscription": None,
    "can": {"post": True, "vote": True, "report": True},
    "banned_until": None,
}


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True) as client:
        yield client


async def mine(client: Client, query: str = "", *, sub: str = "bob", **more: Any) -> Answer:
    return await client.get(f"{T}/mine{query}", sub=sub, **more)


async def vote(client: Client, comment: Any, value: int, sub: str = "bob", at: str = T) -> None:
    path = f"{at}/comments/{comment['id']}/vote"
    assert (await client.send("PUT", path, {"value": value}, sub=sub)).status == 200


async def report(client: Client, comment: Any, sub: str = "bob") -> None:
    path = f"{T}/comments/{comment['id']}/reports"
    assert (await client.send("POST", path, {"reason": "spam"}, sub=sub)).status == 202


async def settle(client: Client, **settings: object) -> None:
    assert (await client.send("PATCH", f"{S}/settings", settings, sub="ada", roles=("admin",))).status == 200


async def test_a_thread_that_nobody_has_written_to_is_mine_too(client: Client) -> None:
    answer = await mine(client)
    assert (answer.status, answer.json, answer.version) == (200, NOTHING, 0)
    MineShape.model_validate(answer.json)


async def test_votes_and_reports_are_there_as_soon_as_they_are_answered(client: Client) -> None:
    one, two, three = [await client.post(text) for text in ("one", "two", "three")]
    await vote(client, one, 1)
    await vote(client, two, -1)
    await vote(client, three, 1)
    await vote(client, three, 0)
    await report(client, three)
    await vote(client, one, -1, sub="cid")
    elsewhere = await client.post("elsewhere", at=f"{S}/threads/other")
    await vote(client, elsewhere, 1, at=f"{S}/threads/other")
    answer = await mine(client)
    assert answer.json == NOTHING | {"votes": {one["id"]: 1, two["id"]: -1}, "reports": [three["id"]]}
    assert answer.version == 3 + 4 + 1 + 1
    MineShape.model_validate(answer.json)


async def test_of_the_comments_asked_about_only_these_are_answered(client: Client) -> None:
    one, two = await client.post("one"), await client.post("two")
    for comment in (one, two):
        await vote(client, comment, 1)
        await report(client, comment)
    asked = await mine(client, f"?ids={uuid4()},{one['id'].upper()}")
    assert asked.json == NOTHING | {"votes": {one["id"]: 1}, "reports": [one["id"]]}
    assert (await mine(client, "?ids=")).json == NOTHING


async def test_500_ids_fit_and_more_are_refused(client: Client) -> None:
    comment = await client.post("one")
    await vote(client, comment, 1)
    ids = [str(uuid4()) for _ in range(500)]
    most = await mine(client, "?ids=" + ",".join([*ids[:499], comment["id"]]))
    assert (most.status, most.json["votes"]) == (200, {comment["id"]: 1})
    more = await mine(client, "?ids=" + ",".join([*ids, comment["id"]]))
    assert (more.status, more.code, more.json["errors"][0]["field"]) == (400, "bad-query", "ids")


@pytest.mark.parametrize("ids", ["x", ",", f"{UUID(int=1)},", f"{UUID(int=1)};{UUID(int=2)}", "0" * 36])
async def test_what_is_no_id_is_refused(client: Client, ids: str) -> None:
    answer = await mine(client, f"?ids={ids}")
    assert (answer.status, answer.code, answer.json["errors"][0]["field"]) == (400, "bad-query", "ids")


async def test_only_ones_own_comments_that_wait_are_held(client: Client) -> None:
    one, two, three = [
        await client.post(text, sub=sub) for text, sub in (("a", "bob"), ("b", "bob"), ("c", "ann"))
    ]
    held = [UUID(one["id"]), UUID(three["id"])]
    await client.running.resources.pool.execute(
        "update comments set state = 'held' where comment_id = any($1)", held
    )
    assert (await mine(client)).json["held"] == [one["id"]]
    assert two["id"] != one["id"]


async def test_without_ids_the_newest_are_answered(client: Client) -> None:
    await client.post("one")
    stream_id = await client.running.resources.pool.fetchval("select stream_id from comments")
    await client.running.resources.pool.execute(
        "insert into votes select gen_random_uuid(), 'bob', $1, 1, 1 from generate_series(1, 600)", stream_id
    )
    newest = await client.running.resources.pool.fetch(
        "select comment_id from votes where voter_id = 'bob' order by comment_id desc limit 500"
    )
    assert list((await mine(client)).json["votes"]) == [str(row["comment_id"]) for row in newest]


async def test_what_may_be_done_follows_the_thread_and_the_site(client: Client) -> None:
    await client.post("one")
    await settle(client, guests=True)
    joined = await client.send("POST", f"{S}/guests", {"name": "Gil"})
    guest = {"Authorization": f"Bearer {joined.json['token']}"}

    async def can(headers: dict[str, str] | None = None) -> dict[str, bool]:
        answer = await client.get(
            f"{T}/mine", **({"sub": "bob"} if headers is None else {"headers": headers})
        )
        found: dict[str, bool] = answer.json["can"]
        return found

    assert await can() == {"post": True, "vote": True, "report": True}
    assert await can(guest) == {"post": True, "vote": False, "report": True}
    closed = await client.send("PATCH", T, {"state": "closed"}, sub="mia", roles=("moderator",))
    assert closed.status == 200
    assert await can() == {"post": False, "vote": True, "report": True}
    await client.send("PATCH", T, {"state": "open"}, sub="mia", roles=("moderator",))
    await settle(client, guests=False, open_threads=False)
    assert await can() == {"post": False, "vote": True, "report": True}
    assert await can(guest) == {"post": False, "vote": False, "report": False}
    await client.send("PATCH", T, {"title": "Ours"}, sub="mia", roles=("moderator",))
    assert await can() == {"post": True, "vote": True, "report": True}


async def test_it_is_private_and_tagged_by_what_it_says(client: Client) -> None:
    comment = await client.post("one")
    first = await mine(client)
    assert first.headers["Cache-Control"].startswith("private")
    tag = {"If-None-Match": first.headers["Etag"]}
    again = await mine(client, headers=tag)
    assert (again.status, again.raw, again.version) == (304, b"", 1)
    assert (await mine(client, sub="cid", headers=tag)).status == 200
    await vote(client, comment, 1)
    after = await mine(client, headers=tag)
    assert (after.status, after.json["votes"]) == (200, {comment["id"]: 1})


async def test_it_is_never_behind_and_says_so_of_versions_to_come(client: Client) -> None:
    await client.post("one")
    assert (await mine(client, "?min_version=1")).status == 200
    answer = await mine(client, "?min_version=2")
    assert (answer.status, answer.code) == (400, "version-not-reached")


async def test_nobody_has_nothing(client: Client) -> None:
    answer = await client.get(f"{T}/mine")
    assert (answer.status, answer.code) == (401, "unauthenticated")
