"""`as_of`: pages and comments as they once were, for whom, and what they keep back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from services.api.shapes import CommentShape, PageShape
from services.projection import logpages
from tests.integration.api_client import SITE, Answer, Client, S, T, client_of
from tests.sites import UNLIMITED, set_site

MOD: dict[str, Any] = {"sub": "mod", "roles": ("moderator",)}
DEL = "DELETE"


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True) as running:
        yield running


async def publish(client: Client) -> None:
    """Let everybody read what once was."""
    await set_site(client.running.api.appenders, SITE, UNLIMITED | {"public_history": True})
    client.running.api.sites.forget(SITE)


async def page(client: Client, as_of: object, more: str = "", **who: Any) -> Any:
    answer = await client.get(f"{T}/comments?as_of={as_of}{more}", **(who or MOD))
    assert answer.status == 200, answer.raw
    assert answer.version == answer.json["thread"]["version"]
    PageShape.model_validate(answer.json)
    return answer.json


def bodies(page: Any) -> list[str | None]:
    return [comment["body"] for comment in page["comments"]]


def path_of(comment: Any) -> str:
    return f"{T}/comments/{comment['id']}"


async def vote(client: Client, comment: Any, value: int, sub: str) -> Answer:
    return await client.send("PUT", f"{path_of(comment)}/vote", {"value": value}, sub=sub)


async def edit(client: Client, comment: Any, body: str) -> Answer:
    headers = {"If-Match": f'"{comment["revision"]}"'}
    return await client.send("PATCH", path_of(comment), {"body": body}, sub="ann", headers=headers)


async def test_a_page_is_as_it_was_at_each_version(client: Client) -> None:
    first = await client.post("first")
    shown = [await page(client, 0), await page(client, 1)]
    second = await client.post("second")
    shown.append(await page(client, 2))
    await client.post("below", to=first["id"], sub="bob")
    shown.append(await page(client, 3))
    await vote(client, second, 1, "bob")
    shown.append(await page(client, 4))
    await edit(client, first, "changed")
    shown.append(await page(client, 5))
    await client.send("PATCH", T, {"title": "A story", "state": "closed"}, **MOD)
    shown.append(await page(client, 6))

    assert [await page(client, version) for version in range(7)] == shown
    assert shown[0] == {
        "thread": {**shown[1]["thread"], "comments": 0, "version": 0},
        "comments": [],
        "after": None,
    }
    assert [bodies(one) for one in shown[1:5]] == [["first"], *[["first", "second"]] * 3]
    assert [one["thread"]["comments"] for one in shown] == [0, 1, 2, 3, 3, 3, 3]
    assert [one["comments"][0]["descendants"] for one in shown[1:]] == [0, 0, 1, 1, 1, 1]
    assert [one["comments"][1]["votes"]["up"] for one in shown[2:]] == [0, 0, 1, 1, 1]
    assert (shown[4]["comments"][0]["revision"], shown[5]["comments"][0]["revision"]) == (1, 2)
    assert bodies(shown[5]) == ["changed", "second"]
    now = (await client.get(f"{T}/comments?min_version=5", **MOD)).json
    assert now["thread"]["version"] > 5
    assert await page(client, now["thread"]["version"]) == now


async def test_sorts_go_by_what_was_then(client: Client) -> None:
    first, second = await client.post("first"), await client.post("second")
    await vote(client, second, 1, "bob")
    for sub in ("bob", "cid"):
        await vote(client, first, 1, sub)
    assert bodies(await page(client, 3, "&sort=best")) == ["second", "first"]
    assert bodies(await page(client, 5, "&sort=best")) == ["first", "second"]
    assert bodies(await page(client, 2, "&sort=newest")) == ["second", "first"]


async def test_a_comment_is_as_it_was_and_is_not_there_before(client: Client) -> None:
    first = await client.post("first")
    reply = await client.post("below", to=first["id"], sub="bob")
    await edit(client, first, "changed")
    read = await client.get(f"{path_of(first)}?as_of=2", **MOD)
    assert (read.status, read.version) == (200, 2)
    assert read.json == {**first, "children": 1, "descendants": 1}
    CommentShape.model_validate(read.json)
    assert (await client.get(f"{path_of(first)}?as_of=3", **MOD)).json["body"] == "changed"
    found = await client.get(f"{path_of(reply)}?as_of=2", **MOD)
    assert (found.json["path"], found.json["parent_id"]) == ([first["id"]], first["id"])
    for version in (0, 1):
        answer = await client.get(f"{path_of(reply)}?as_of={version}", **MOD)
        assert (answer.status, answer.code) == (404, "comment-not-found")
        answer = await client.get(f"{T}/comments?as_of={version}&parent={reply['id']}", **MOD)
        assert (answer.status, answer.code) == (404, "parent-not-found")
        answer = await client.get(f"{T}/comments?as_of={version}&focus={reply['id']}", **MOD)
        assert (answer.status, answer.code) == (404, "comment-not-found")


# --- who -------------------------------------------------------------------------------------------------


async def test_it_is_for_moderators_and_operators_unless_the_site_says_otherwise(client: Client) -> None:
    comment = await client.post("first")
    key = (await client.running.resources.credentials.add_key(SITE, ["operator"])).key
    client.running.api.sites.forget(SITE)
    operator = {"headers": {"Authorization": f"Bearer {key}"}}
    for path in (f"{T}/comments?as_of=1", f"{path_of(comment)}?as_of=1"):
        answer = await client.get(path)
        assert (answer.status, answer.code) == (401, "unauthenticated")
        answer = await client.get(path, sub="ann")
        assert (answer.status, answer.code) == (403, "forbidden")
        for who in (MOD, {"sub": "boss", "roles": ("admin",)}, operator):
            answer = await client.get(path, **who)
            assert (answer.status, answer.headers["Cache-Control"]) == (200, "private, no-cache")
    await publish(client)
    for path in (f"{T}/comments?as_of=1", f"{path_of(comment)}?as_of=1"):
        assert (await client.get(path)).headers["Cache-Control"].startswith("public")
        assert (await client.get(path, sub="ann")).headers["Cache-Control"] == "private, no-cache"


async def test_public_history_is_a_setting_of_the_site(client: Client) -> None:
    admin: dict[str, Any] = {"sub": "boss", "roles": ("admin",)}
    assert (await client.get(f"{S}/settings", **admin)).json["public_history"] is False
    answer = await client.send("PATCH", f"{S}/settings", {"public_history": True}, **admin)
    assert (answer.status, answer.json["public_history"]) == (200, True)
    await client.post("first")
    assert (await client.get(f"{T}/comments?as_of=1")).status == 200
    answer = await client.send("PATCH", f"{S}/settings", {"public_history": "yes"}, **admin)
    assert answer.status == 422


async def test_text_that_is_withheld_by_now_is_withheld_as_of_then(client: Client) -> None:
    await publish(client)
    comments = [await client.post(f"text {n}", sub=f"u{n}") for n in range(5)]
    gone, deleted, hidden, _, stays = comments
    version = (await client.get(f"{T}/comments", **MOD)).version
    before = {name: await page(client, version, **who) for name, who in READERS.items()}
    assert all(bodies(one) == [f"text {n}" for n in range(5)] for one in before.values())
    await client.send(DEL, path_of(gone), **MOD)
    await client.send(DEL, path_of(deleted), sub="u1")
    for number in range(5):
        report = {"reason": "spam"}
        answer = await client.send("POST", f"{path_of(hidden)}/reports", report, sub=f"r{number}")
        assert answer.status == 202
    assert (await client.send(DEL, f"{S}/me", sub="u3")).status == 202

    async def shown(name: str) -> list[str | None]:
        after = await page(client, version, **READERS[name])
        for was, is_ in zip(before[name]["comments"], after["comments"], strict=True):
            null = {"body": None, "html": None, "author": None} if is_["body"] is None else {}
            assert is_ == was | null, "all else is as it stood"
            one = await client.get(f"{path_of(was)}?as_of={version}", **READERS[name])
            assert one.json == {key: is_[key] for key in one.json}
        return bodies(after)

    assert await shown("nobody") == [None, None, None, None, "text 4"]
    assert await shown("its author") == [None, None, "text 2", None, "text 4"]
    assert await shown("moderator") == ["text 0", "text 1", "text 2", None, "text 4"]
    assert (await client.get(path_of(stays))).json["body"] == "text 4"


READERS: dict[str, dict[str, Any]] = {
    "nobody": {"headers": {}},
    "its author": {"sub": "u2"},
    "moderator": MOD,
}


async def test_a_state_is_that_of_then(client: Client) -> None:
    await publish(client)
    comment = await client.post("doubtful")
    for number in range(5):
        await client.send("POST", f"{path_of(comment)}/reports", {"reason": "spam"}, sub=f"r{number}")
    assert bodies(await page(client, 1, **READERS["nobody"])) == [None], "it is hidden now"
    states = [(await page(client, version))["comments"][0]["state"] for version in (1, 6, 7)]
    assert states == ["visible", "visible", "hidden"]
    assert bodies(await page(client, 7)) == ["doubtful"]


# --- which version ---------------------------------------------------------------------------------------


async def test_a_time_is_the_last_version_recorded_by_then(client: Client) -> None:
    posted = [await client.post(f"text {n}") for n in range(5)]
    times = [datetime.fromisoformat(comment["created_at"]) for comment in posted]
    assert sorted(set(times)) == times
    step = timedelta(microseconds=1)

    async def version_at(when: datetime | str) -> int:
        text = when if isinstance(when, str) else when.isoformat()
        return int((await page(client, quote(text)))["thread"]["version"])

    for number, when in enumerate(times, start=1):
        assert await version_at(when) == number
        assert await version_at(when - step) == number - 1
        assert await version_at(when + step) == number
    for early in ("0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59Z"):
        assert await version_at(early) == 0
    for late in ("9999-12-31T23:59:59-14:00", "2999-01-01t00:00:00.5z"):
        assert await version_at(late) == 5


@pytest.mark.parametrize(
    ("as_of", "code"),
    [
        ("3", "version-not-reached"),
        ("999999999999999999", "version-not-reached"),
        ("9999999999999999999", "bad-query"),
        ("-1", "bad-query"),
        ("", "bad-query"),
        ("1.0", "bad-query"),
        ("now", "bad-query"),
        ("2026-11-23", "bad-query"),
        ("2026-11-23T05:00:00", "bad-query"),
        ("2026-11-23T05:00:00+01:00", "bad-query"),  # a plus that is not encoded is a space
        ("2026-13-23T05:00:00Z", "bad-query"),
        ("0000-01-01T00:00:00Z", "bad-query"),
        ("2026-11-23T05:00:61Z", "bad-query"),
        ("1&as_of=2", "bad-query"),
        ("1&min_version=1", "bad-query"),
        ("1&after=abc", "cursor-invalid"),
    ],
)
async def test_no_other_version_is_taken(client: Client, as_of: str, code: str) -> None:
    comment = await client.post("first")
    await client.post("second")
    paths = [f"{T}/comments?as_of={as_of}"]
    if "after" not in as_of:
        paths.append(f"{path_of(comment)}?as_of={as_of}")
    for path in paths:
        answer = await client.get(path, **MOD)
        assert (answer.status, answer.code) == (400, code), path


async def test_a_thread_without_events_was_always_empty(client: Client) -> None:
    for as_of in ("0", "2026-11-23T05:00:00Z", "2999-01-01T00:00:00Z"):
        assert (await page(client, as_of))["comments"] == []
    answer = await client.get(f"{T}/comments?as_of=1", **MOD)
    assert (answer.status, answer.code) == (400, "version-not-reached")


# --- cursors and tags --------------------------------------------------------------------------------------


async def test_a_cursor_goes_on_in_the_same_version_and_in_no_other(client: Client) -> None:
    first = await client.post("text 0")
    for number in range(1, 5):
        await client.post(f"text {number}")
    for number in range(4):
        await client.post(f"reply {number}", to=first["id"], sub="bob")
    for sort, order in (("oldest", range(5)), ("newest", range(4, -1, -1)), ("best", range(5))):
        seen: list[str | None] = []
        after = ""
        while True:
            one = await page(client, 9, f"&sort={sort}&limit=2{after}")
            seen += bodies(one)
            await client.post("later")
            if one["after"] is None:
                break
            after = f"&after={one['after']}"
        assert seen == [f"text {number}" for number in order]

    one = await page(client, 9, "&limit=2&replies=1")
    below = one["comments"][0]["replies"]
    assert (len(below["items"]), below["more"]) == (1, 3)
    rest = await page(client, 9, f"&parent={first['id']}&after={below['after']}")
    assert bodies(rest) == ["reply 1", "reply 2", "reply 3"]
    for path in (
        f"{T}/comments?after={one['after']}",
        f"{T}/comments?as_of=8&after={one['after']}",
        f"{T}/comments?as_of=9&sort=newest&after={one['after']}",
        f"{T}/comments?as_of=9&parent={first['id']}&after={one['after']}",
        f"{S}/threads/other/comments?as_of=0&after={one['after']}",
    ):
        answer = await client.get(path, **MOD)
        assert (answer.status, answer.code) == (400, "cursor-invalid"), path
    now = (await client.get(f"{T}/comments?limit=2", **MOD)).json["after"]
    answer = await client.get(f"{T}/comments?as_of=9&after={now}", **MOD)
    assert (answer.status, answer.code) == (400, "cursor-invalid")


async def test_a_tag_stays_while_the_thread_goes_on_and_goes_with_a_text(client: Client) -> None:
    await publish(client)
    comment = await client.post("first")
    paths = [f"{T}/comments?as_of=1", f"{path_of(comment)}?as_of=1"]
    tags = [(await client.get(path)).headers["Etag"] for path in paths]
    assert len({*tags, (await client.get(f"{T}/comments")).headers["Etag"]}) == 3
    await client.post("second")
    await edit(client, comment, "changed")
    for path, tag in zip(paths, tags, strict=True):
        answer = await client.get(path, headers={"If-None-Match": tag})
        assert (answer.status, answer.raw, answer.headers["Etag"]) == (304, b"", tag)
        assert (await client.get(path, **MOD)).headers["Etag"] != tag
    await client.send(DEL, path_of(comment), sub="ann")
    for path, tag in zip(paths, tags, strict=True):
        answer = await client.get(path, headers={"If-None-Match": tag})
        assert (answer.status, answer.headers["Etag"] != tag) == (200, True)


async def test_it_needs_no_view_and_makes_none(client: Client) -> None:
    await client.post("first")
    redis = client.running.resources.redis
    await redis.flushdb()
    await page(client, 1)
    assert [key async for key in redis.scan_iter("*view*")] == []


async def test_more_readers_of_the_past_than_there_is_room_for_come_again_later(
    database_url: str, redis_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logpages, "_PAST", 0)
    monkeypatch.setattr(logpages, "_PAST_WAITING", 0)
    async with client_of(database_url, redis_url, broker_url, unlimited=True) as client:
        comment = await client.post("a text")
        for path in (f"{T}/comments", path_of(comment)):
            answer = await client.get(f"{path}?as_of=1", **MOD)
            assert (answer.status, answer.code) == (503, "overloaded")
            assert int(answer.headers["Retry-After"]) > 0
            assert (await client.get(path, **MOD)).status == 200
