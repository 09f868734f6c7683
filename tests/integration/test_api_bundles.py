"""`S/me/notifications?bundles=true`: what belongs together on a page of an inbox, and how it is put."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.api.shapes import InboxShape
from services.core.addresses import thread_stream_id
from services.workers.notifier import Notifier
from tests.integration.api_client import SITE, Client, S, T, client_of

OTHER = f"{S}/threads/other"


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True) as client:
        yield client


async def told(client: Client) -> None:
    parts = client.running.resources
    for key in ("story", "other"):
        await Notifier(parts.pool, parts.keyring).notify(thread_stream_id(SITE, key))


async def say(client: Client, name: str, text: str, to: str, at: str = T) -> Any:
    """A reply by somebody whom their token names."""
    token = client.token(f"u-{name.lower()}", name=name)
    headers = {"Authorization": f"Bearer {token}"}
    answer = await client.send("POST", f"{at}/comments", {"body": text, "parent_id": to}, headers=headers)
    assert answer.status == 201, answer.raw
    return answer.json


async def page(client: Client, query: str = "") -> Any:
    answer = await client.get(f"{S}/me/notifications?bundles=true{query}", sub="ann")
    assert answer.status == 200, answer.raw
    InboxShape.model_validate(answer.json)
    return answer.json


async def test_replies_to_one_comment_go_together_with_their_latest_first(client: Client) -> None:
    root = (await client.post("by ann"))["id"]
    for name in ("Bob", "Cid", "Bob", "Dan", "Eve"):
        await say(client, name, f"by {name}", root)
    await told(client)
    found = await page(client)
    (bundle,) = found["bundles"]
    assert bundle["sentence"] == "Eve and 3 others replied to your comment"
    assert [actor["name"] for actor in bundle["actors"]] == ["Eve", "Dan", "Bob"]
    assert (bundle["count"], bundle["others"], bundle["parent_id"]) == (5, 3, root)
    assert bundle["ids"] == [one["id"] for one in found["items"]]
    assert (bundle["thread"]["key"], bundle["reason"], bundle["read"]) == ("story", "reply", False)
    assert bundle["created_at"] == found["items"][0]["created_at"]


async def test_what_has_not_thread_reason_and_parent_in_common_is_apart(client: Client) -> None:
    root, second = (await client.post("one"))["id"], (await client.post("two"))["id"]
    elsewhere = (await client.post("three", at=OTHER))["id"]
    await say(client, "Bob", "to the first", root)
    await say(client, "Bob", "to the second", second)
    await say(client, "Bob", "elsewhere", elsewhere, OTHER)
    deep = await say(client, "Cid", "to the first too", root)
    await say(client, "Dan", "naming @[ann]", deep["id"])
    await told(client)
    found = await page(client)
    bundles = found["bundles"]
    shown = {(one["thread"]["key"], one["reason"], one["parent_id"]): one for one in bundles}
    assert len(shown) == len(bundles) == 4
    assert shown["story", "reply", root]["sentence"] == "Cid and 1 other replied to your comment"
    assert shown["story", "reply", second]["sentence"] == "Bob replied to your comment"
    assert shown["other", "reply", elsewhere]["sentence"] == "Bob replied to your comment"
    assert shown["story", "mention", None]["sentence"] == "Dan mentioned you"
    ids = [one for bundle in bundles for one in bundle["ids"]]
    assert sorted(ids) == sorted(one["id"] for one in found["items"])


async def test_who_cannot_be_named_any_more_is_not_counted_among_the_others(client: Client) -> None:
    root = (await client.post("by ann"))["id"]
    replies = [await say(client, name, "hi", root) for name in ("Bob", "Cid")]
    await told(client)
    for number, (sentence, others) in enumerate(
        (("Bob replied to your comment", 0), ("Somebody replied to your comment", 0)), 1
    ):
        gone = replies[-number]
        deleted = await client.send("DELETE", f"{T}/comments/{gone['id']}", sub=gone["author"]["id"])
        assert deleted.status == 204
        await client.get(f"{T}/comments?min_version={deleted.version}")
        (bundle,) = (await page(client))["bundles"]
        assert (bundle["sentence"], bundle["others"], bundle["count"]) == (sentence, others, 2)


async def test_a_page_has_the_bundles_of_its_own_items_and_paging_is_as_ever(client: Client) -> None:
    root = (await client.post("by ann"))["id"]
    for number in range(7):
        await say(client, f"Bob{number}", "hi", root)
    await told(client)
    plain = await client.get(f"{S}/me/notifications", sub="ann")
    seen: list[Any] = []
    after: Any = ""
    assert "bundles" not in plain.json
    while after is not None:
        found = await page(client, f"&limit=3{after and '&after=' + after}")
        (bundle,) = found["bundles"]
        assert bundle["ids"] == [one["id"] for one in found["items"]]
        seen += found["items"]
        after = found["after"]
    assert seen == plain.json["items"]
    read = {"ids": [seen[-1]["id"]]}
    await client.send("POST", f"{S}/me/notifications/read", read, sub="ann")
    assert [one["read"] for one in (await page(client, "&state=read"))["bundles"]] == [True]
    wrong = await client.get(f"{S}/me/notifications?bundles=1", sub="ann")
    assert wrong.code == "bad-query"


async def test_the_sentence_is_in_the_sites_language(client: Client) -> None:
    root = (await client.post("by ann"))["id"]
    for name in ("Bob", "Cid"):
        await say(client, name, "hi", root)
    await told(client)
    english = (await page(client))["bundles"][0]["sentence"]
    changed = await client.send("PATCH", f"{S}/settings", {"language": "de"}, sub="ada", roles=("admin",))
    assert changed.status == 200
    german = (await page(client))["bundles"][0]["sentence"]
    assert "Cid" in english
    assert "Cid" in german
    assert english != german


async def test_an_inbox_without_items_has_no_bundles(client: Client) -> None:
    assert (await page(client))["bundles"] == []
