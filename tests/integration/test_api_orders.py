"""The five orders of a page, and a page about one comment, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.api.shapes import PageShape
from tests.integration.api_client import Client, T, client_of

SORTS = ("oldest", "newest", "best", "controversial", "replies")


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True) as running:
        yield running


@pytest.fixture
async def said(client: Client) -> dict[str, Any]:
    """Five roots: `plain`, `liked` (3 up, none down), `disputed` (2 up, 2 down), `answered` (a chain of three
    below it, the second of its replies liked) and `last`."""
    comments: dict[str, Any] = {}
    for name in ("plain", "liked", "disputed", "answered", "last"):
        comments[name] = await client.post(name)
    for name, parent in (
        ("first", "answered"),
        ("second", "answered"),
        ("deep", "first"),
        ("deeper", "deep"),
    ):
        comments[name] = await client.post(name, to=comments[parent]["id"], sub="bob")
    votes = {"liked": (1, 1, 1), "disputed": (1, -1, 1, -1), "second": (1,)}
    for name, values in votes.items():
        for number, value in enumerate(values):
            path = f"{T}/comments/{comments[name]['id']}/vote"
            assert (await client.send("PUT", path, {"value": value}, sub=f"voter-{number}")).status == 200
    comments["version"] = (
        await client.get(f"{T}/events?limit=1000", sub="eve", roles=("moderator",))
    ).version
    return comments


async def page(client: Client, said: dict[str, Any], query: str) -> Any:
    answer = await client.get(f"{T}/comments?min_version={said['version']}&{query}")
    assert answer.status == 200, answer.raw
    PageShape.model_validate(answer.json)
    return answer.json


def texts(comments: list[Any]) -> list[str]:
    return [comment["body"] for comment in comments]


@pytest.mark.parametrize(
    ("sort", "roots", "replies"),
    [
        ("oldest", "plain liked disputed answered last", "first second"),
        ("newest", "last answered disputed liked plain", "second first"),
        ("best", "liked disputed plain answered last", "second first"),
        ("controversial", "disputed plain liked answered last", "first second"),
        ("replies", "answered plain liked disputed last", "first second"),
    ],
)
async def test_each_order_is_that_of_the_contract_and_of_the_replies_too(
    client: Client, said: dict[str, Any], sort: str, roots: str, replies: str
) -> None:
    whole = await page(client, said, f"sort={sort}")
    assert texts(whole["comments"]) == roots.split()
    [answered] = [comment for comment in whole["comments"] if comment["body"] == "answered"]
    assert texts(answered["replies"]["items"]) == replies.split()
    listed: list[str] = []
    after = ""
    while True:
        part = await page(client, said, f"sort={sort}&limit=2&replies=1{after}")
        listed += texts(part["comments"])
        for comment in part["comments"]:
            if comment["body"] == "answered":
                below = comment["replies"]
                assert (texts(below["items"]), below["more"]) == (replies.split()[:1], 1)
                query = f"sort={sort}&parent={comment['id']}&after={below['after']}"
                assert texts((await page(client, said, query))["comments"]) == replies.split()[1:]
        if part["after"] is None:
            break
        after = f"&after={part['after']}"
    assert listed == roots.split()


async def test_a_cursor_is_of_use_in_its_own_order_only(client: Client, said: dict[str, Any]) -> None:
    for made in SORTS:
        after = (await page(client, said, f"sort={made}&limit=1"))["after"]
        for sort in SORTS:
            answer = await client.get(f"{T}/comments?sort={sort}&after={after}")
            assert (answer.status == 200) == (sort == made)
            if sort != made:
                assert (answer.status, answer.code) == (400, "cursor-invalid")
        below = await client.get(f"{T}/comments?sort={made}&after={after}&parent={said['answered']['id']}")
        assert (below.status, below.code) == (400, "cursor-invalid")


@pytest.mark.parametrize("sort", SORTS)
async def test_a_comment_in_focus_stands_below_its_path_with_all_else_left_out(
    client: Client, said: dict[str, Any], sort: str
) -> None:
    [answered] = (await page(client, said, f"sort={sort}&focus={said['deep']['id']}"))["comments"]
    assert answered["body"] == "answered"
    assert (answered["replies"]["more"], answered["replies"]["after"]) == (1, None)
    [first] = answered["replies"]["items"]
    assert (first["body"], first["replies"]["more"]) == ("first", 0)
    [deep] = first["replies"]["items"]
    assert deep["path"] == [said["answered"]["id"], said["first"]["id"]]
    assert texts(deep["replies"]["items"]) == ["deeper"]


async def test_focus_goes_with_neither_parent_nor_after_and_names_a_comment_of_the_thread(
    client: Client, said: dict[str, Any]
) -> None:
    after = (await page(client, said, "limit=1"))["after"]
    focus = f"focus={said['deep']['id']}"
    for query in (f"{focus}&parent={said['answered']['id']}", f"{focus}&after={after}"):
        answer = await client.get(f"{T}/comments?{query}")
        assert (answer.status, answer.code) == (400, "bad-query")
    empty = T.replace("story", "empty")
    for path in (f"{T}/comments?focus={'0' * 8}-0000-7000-8000-{'0' * 12}", f"{empty}/comments?{focus}"):
        answer = await client.get(path)
        assert (answer.status, answer.code) == (404, "comment-not-found")
    assert (await client.get(f"{T}/comments?focus=nobody")).code == "comment-not-found"
    assert (await client.get(f"{T}/comments?sort=worst")).code == "bad-query"
