"""The way of comments over HTTP: posted, answered, edited, reported, deleted, paged, read again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.api.shapes import (
    CommentShape,
    EventsShape,
    InboxShape,
    PageShape,
    RevisionsShape,
    ThreadShape,
)
from services.core.site import SiteSettings
from tests.integration.api_client import SITE, Answer, Client, S, T, client_of

MOD = ("moderator",)


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as running:
        yield running


async def edit(client: Client, comment: Any, text: str, revision: int, **more: Any) -> Answer:
    more.setdefault("sub", "ann")
    more.setdefault("headers", {}).setdefault("If-Match", f'"{revision}"')
    return await client.send("PATCH", f"{T}/comments/{comment['id']}", {"body": text}, **more)


async def settings(client: Client, **changes: object) -> None:
    answer = await client.send("PATCH", f"{S}/settings", changes, sub="boss", roles=("admin",))
    assert answer.status == 200, answer.raw


async def test_a_posted_comment_is_answered_as_it_is_read(client: Client) -> None:
    body = {"body": "as *written*", "thread": {"title": "A story", "url": "https://a.example/story"}}
    token = client.token("u-17", name="Ann", avatar="https://a.example/ann.png")
    headers = {"Authorization": f"Bearer {token}"}
    answer = await client.send("POST", f"{T}/comments", body, headers=headers)
    posted = answer.json
    assert answer.status == 201
    assert answer.version == 2  # ThreadDescribed came before it
    assert answer.headers["Location"] == f"{T}/comments/{posted['id']}"
    assert answer.headers["Cache-Control"].startswith("private")
    assert posted["author"] == {
        "id": "u-17",
        "name": "Ann",
        "avatar": "https://a.example/ann.png",
        "badge": None,
    }
    assert posted["html"] == "<p>as <em>written</em></p>"
    assert posted["permalink"] == f"https://a.example/story#comment-{posted['id']}"
    CommentShape.model_validate(posted)
    assert (await client.get(f"{T}/comments/{posted['id']}?min_version=2")).json == posted
    reply = await client.send("POST", f"{T}/comments", {"body": "b", "parent_id": posted["id"]}, sub="bob")
    assert reply.json["path"] == [posted["id"]]
    assert (reply.json["parent_id"], reply.json["depth"], reply.version) == (posted["id"], 1, 3)
    assert (await client.get(f"{T}/comments/{reply.json['id']}?min_version=3")).json == reply.json


async def test_a_thread_without_events_is_empty(client: Client) -> None:
    page = await client.get(f"{T}/comments")
    assert (page.status, page.version, page.json["comments"], page.json["after"]) == (200, 0, [], None)
    PageShape.model_validate(page.json)
    thread = await client.get(T)
    assert (thread.json["key"], thread.json["version"], thread.json["comments"]) == ("story", 0, 0)
    assert (await client.get(f"{T}?min_version=1")).code == "version-not-reached"
    events = await client.get(f"{T}/events", sub="mod", roles=MOD)
    assert events.json == {"items": [], "after": None}


async def test_a_page_nests_replies_and_pages_through_them(client: Client) -> None:
    root = await client.post("root")
    replies = [(await client.post(f"reply {n}", to=root["id"]))["id"] for n in range(5)]
    roots = [root["id"]] + [(await client.post(f"root {n}"))["id"] for n in range(3)]
    page = await client.get(f"{T}/comments?min_version=9&limit=2&replies=2")
    PageShape.model_validate(page.json)
    first = page.json["comments"][0]
    assert [one["id"] for one in page.json["comments"]] == roots[:2]
    assert [one["id"] for one in first["replies"]["items"]] == replies[:2]
    assert (first["replies"]["more"], first["children"], first["descendants"]) == (3, 5, 5)
    rest = await client.get(f"{T}/comments?after={page.json['after']}&limit=10")
    assert [one["id"] for one in rest.json["comments"]] == roots[2:]
    assert rest.json["after"] is None
    below = await client.get(f"{T}/comments?parent={root['id']}&after={first['replies']['after']}")
    assert [one["id"] for one in below.json["comments"]] == replies[2:]
    newest = await client.get(f"{T}/comments?sort=newest&replies=0")
    assert [one["id"] for one in newest.json["comments"]] == roots[::-1]
    assert newest.json["comments"][-1]["replies"] == {"items": [], "after": None, "more": 5}


async def test_a_page_is_not_sent_twice(client: Client) -> None:
    await client.post("one")
    for path in (f"{T}/comments?min_version=1", f"{T}?min_version=1"):
        first = await client.get(path)
        tag = first.headers["Etag"]
        for given in (tag, f'"x", W/{tag}', "*"):
            again = await client.get(path, headers={"If-None-Match": given})
            assert (again.status, again.raw) == (304, b"")
            assert again.headers["Etag"] == tag
            assert again.version == 1
        assert (await client.get(path, headers={"If-None-Match": '"x"'})).status == 200
        assert first.headers["Cache-Control"].startswith("public")


async def test_a_tag_tells_versions_readers_queries_and_addresses_apart(client: Client) -> None:
    await client.post("one")
    await client.post("two")
    reads = [
        await client.get(f"{T}/comments?min_version=2"),
        await client.get(f"{T}/comments?limit=1"),
        await client.get(f"{T}/comments?sort=newest"),
        await client.get(f"{T}/comments", sub="mod", roles=MOD),
    ]
    assert reads[3].headers["Cache-Control"].startswith("private")
    await client.post("three")
    reads.append(await client.get(f"{T}/comments?min_version=3"))
    await settings(client, comment_url="https://a.example/{id}")
    reads.append(await client.get(f"{T}/comments"))
    assert len({one.headers["Etag"] for one in reads}) == len(reads)
    same = await client.get(f"{T}/comments", sub="mod2", roles=MOD)
    again = await client.get(f"{T}/comments", sub="mod", roles=MOD)
    assert same.headers["Etag"] == again.headers["Etag"]


async def test_an_edit_needs_the_revision_that_was_seen(client: Client) -> None:
    comment = await client.post("one")
    path = f"{T}/comments/{comment['id']}"
    without = await client.send("PATCH", path, {"body": "two"}, sub="ann")
    assert (without.status, without.code) == (428, "revision-required")
    edited = await edit(client, comment, "two", 1)
    assert (edited.status, edited.version) == (200, 2)
    assert (edited.json["body"], edited.json["revision"], edited.json["edited_by"]) == ("two", 2, "author")
    stale = await edit(client, comment, "three", 1)
    assert (stale.status, stale.code) == (412, "revision-mismatch")
    same = await edit(client, comment, "two", 2)
    assert (same.status, same.version, same.json["revision"]) == (200, 2, 2)
    other = await edit(client, comment, "mine", 2, sub="bob")
    assert (other.status, other.code) == (403, "not-author")
    moderated = await edit(client, comment, "better", 2, sub="mod", roles=MOD)
    assert (moderated.json["edited_by"], moderated.json["author"]["id"]) == ("moderator", "ann")
    await settings(client, edit_window_seconds=0)
    closed = await edit(client, comment, "late", 3)
    assert (closed.status, closed.code) == (403, "edit-window-closed")


async def test_revisions_are_for_the_author_and_moderators(client: Client) -> None:
    comment = await client.post("one")
    await edit(client, comment, "two", 1)
    await edit(client, comment, "three", 2, sub="mod", roles=MOD)
    path = f"{T}/comments/{comment['id']}/revisions"
    answer = await client.get(path, sub="ann")
    RevisionsShape.model_validate(answer.json)
    assert [(one["revision"], one["body"], one["edited_by"]) for one in answer.json["items"]] == [
        (1, "one", "author"),
        (2, "two", "author"),
        (3, "three", "moderator"),
    ]
    assert answer.json["after"] is None
    first = await client.get(f"{path}?limit=2", sub="mod", roles=MOD)
    rest = await client.get(f"{path}?limit=2&after={first.json['after']}", sub="mod", roles=MOD)
    assert first.json["items"] + rest.json["items"] == answer.json["items"]
    assert rest.json["after"] is None
    exactly = await client.get(f"{path}?limit=3", sub="ann")
    assert (exactly.json["items"], exactly.json["after"]) == (answer.json["items"], None)
    assert (await client.get(path)).code == "unauthenticated"
    assert (await client.get(path, sub="bob")).code == "not-author"
    await client.send("DELETE", f"{T}/comments/{comment['id']}", sub="ann")
    gone = await client.get(path, sub="ann")
    assert [one["body"] for one in gone.json["items"]] == [None] * 3
    kept = await client.get(path, sub="mod", roles=MOD)
    assert [one["body"] for one in kept.json["items"]] == ["one", "two", "three"]


async def test_a_deleted_comment_keeps_its_place_and_its_replies(client: Client) -> None:
    comment = await client.post("one")
    reply = await client.post("below", to=comment["id"], sub="bob")
    path = f"{T}/comments/{comment['id']}"
    assert (await client.send("DELETE", path, sub="bob")).code == "not-author"
    first = await client.send("DELETE", path, sub="ann")
    again = await client.send("DELETE", path, sub="ann")
    assert [(one.status, one.version, one.raw) for one in (first, again)] == [(204, 3, b""), (204, 3, b"")]
    page = (await client.get(f"{T}/comments?min_version=3")).json
    top = page["comments"][0]
    assert (top["state"], top["body"], top["html"], top["author"]) == ("deleted", None, None, None)
    assert top["replies"]["items"][0]["id"] == reply["id"]
    assert page["thread"]["comments"] == 1
    seen = await client.get(f"{path}?min_version=3", sub="mod", roles=MOD)
    assert (seen.json["body"], seen.json["author"]["id"]) == ("one", "ann")
    for answer, code in (
        (await edit(client, comment, "x", 1), "comment-deleted"),
        (await client.send("POST", f"{path}/reports", {"reason": "spam"}, sub="bob"), "comment-deleted"),
        (await client.send("DELETE", path, sub="mod", roles=MOD), "comment-deleted"),
        (
            await client.send("POST", f"{T}/comments", {"body": "x", "parent_id": comment["id"]}, sub="bob"),
            "parent-not-open",
        ),
    ):
        assert (answer.status, answer.code) == (409, code)


async def test_a_moderator_removes_anothers_comment(client: Client) -> None:
    comment = await client.post("one")
    path = f"{T}/comments/{comment['id']}"
    for _ in range(2):
        answer = await client.send("DELETE", path, sub="mod", roles=MOD)
        assert (answer.status, answer.version) == (204, 2)
    assert (await client.get(f"{path}?min_version=2", sub="ann")).json["body"] is None
    assert (await client.send("DELETE", path, sub="ann")).code == "comment-removed"


async def test_reports_hide_a_comment_at_the_threshold(client: Client) -> None:
    await settings(client, report_threshold=2)
    comment = await client.post("one")
    path = f"{T}/comments/{comment['id']}"
    own = await client.send("POST", f"{path}/reports", {"reason": "spam"}, sub="ann")
    assert (own.status, own.code) == (403, "own-comment")
    first = await client.send("POST", f"{path}/reports", {"reason": "spam", "detail": "again"}, sub="bob")
    assert (first.status, first.json, first.version) == (202, {}, 2)
    again = await client.send("POST", f"{path}/reports", {"reason": "spam"}, sub="bob")
    assert (again.status, again.code) == (409, "already-reported")
    wrong = await client.send("POST", f"{path}/reports", {"reason": "boring"}, sub="cid")
    assert (wrong.status, wrong.code, wrong.json["errors"][0]["field"]) == (422, "invalid", "reason")
    second = await client.send("POST", f"{path}/reports", {"reason": "abuse"}, sub="cid")
    assert (second.status, second.version) == (202, 4)  # CommentReported and CommentHidden
    hidden = (await client.get(f"{path}?min_version=4")).json
    assert (hidden["state"], hidden["body"]) == ("hidden", None)
    assert (await client.get(path, sub="ann")).json["body"] == "one"
    assert (await client.get(path, sub="bob")).json["body"] is None
    assert (await edit(client, comment, "x", 1)).code == "comment-hidden"


async def test_a_thread_is_described_closed_and_reopened(client: Client) -> None:
    first = await client.send("PATCH", T, {"title": "A", "url": "https://a.example"}, sub="mod", roles=MOD)
    assert (first.status, first.version, first.json["title"]) == (200, 1, "A")
    ThreadShape.model_validate(first.json)
    closed = await client.send("PATCH", T, {"state": "closed"}, sub="mod", roles=MOD)
    assert (closed.version, closed.json["state"], closed.json["title"]) == (2, "closed", "A")
    same = await client.send("PATCH", T, {"state": "closed", "title": "A"}, sub="mod", roles=MOD)
    assert (same.status, same.version) == (200, 2)
    refused = await client.send("POST", f"{T}/comments", {"body": "x"}, sub="ann")
    assert (refused.status, refused.code) == (409, "thread-closed")
    opened = await client.send("PATCH", T, {"state": "open", "title": None}, sub="mod", roles=MOD)
    assert (opened.json["state"], opened.json["title"], opened.json["url"]) == (
        "open",
        None,
        "https://a.example",
    )
    nothing = await client.send("PATCH", f"{S}/threads/new", {}, sub="mod", roles=MOD)
    assert (nothing.status, nothing.version) == (200, 0)


async def test_settings_take_effect_and_strangers_do_not_describe(client: Client) -> None:
    before = await client.get(f"{S}/settings", sub="boss", roles=("admin",))
    assert before.json == SiteSettings().model_dump()
    await settings(client, origins=["https://a.example"], open_threads=True)
    body = {"body": "x", "thread": {"url": "https://b.example/story"}}
    wrong = await client.send("POST", f"{T}/comments", body, sub="ann")
    assert (wrong.status, wrong.code, wrong.json["errors"][0]["field"]) == (422, "invalid", "thread.url")
    await settings(client, open_threads=False)
    assert (await client.send("POST", f"{T}/comments", {"body": "x"}, sub="ann")).code == "thread-closed"
    assert (await client.send("PATCH", T, {"title": "A"}, sub="mod", roles=MOD)).status == 200
    await client.post("now it takes comments")


async def test_the_log_of_a_thread_is_for_moderators(client: Client) -> None:
    headers = {"X-Request-ID": "trace:7/a"}
    posted = await client.send("POST", f"{T}/comments", {"body": "quiet"}, sub="ann", headers=headers)
    await client.post("two")
    answer = await client.get(f"{T}/events?limit=1", sub="mod", roles=MOD)
    EventsShape.model_validate(answer.json)
    event = answer.json["items"][0]
    assert (event["type"], event["version"], event["actor"]) == ("CommentPosted", 1, "ann")
    assert (event["event_id"], event["correlation_id"]) == (posted.json["id"], "trace:7/a")
    assert b"quiet" not in answer.raw
    rest = await client.get(f"{T}/events?after={answer.json['after']}", sub="mod", roles=MOD)
    assert [one["version"] for one in rest.json["items"]] == [2]
    assert rest.json["after"] is None
    assert (await client.get(f"{T}/events", sub="ann")).code == "forbidden"
    assert (await client.get(f"{T}/events?min_version=3", sub="mod", roles=MOD)).code == "version-not-reached"


async def test_a_key_used_again_repeats_the_first_answer(client: Client) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await client.send("POST", f"{T}/comments", {"body": "one"}, sub="ann", headers=key)
    await edit(client, first.json, "two", 1)
    again = await client.send("POST", f"{T}/comments", {"body": "one"}, sub="ann", headers=key)
    assert (again.status, again.version) == (first.status, first.version)
    assert again.headers["Location"] == first.headers["Location"]
    assert (again.json["id"], again.json["body"]) == (first.json["id"], "two")
    reused = await client.send("POST", f"{T}/comments", {"body": "other"}, sub="ann", headers=key)
    assert (reused.status, reused.code) == (422, "idempotency-key-reused")
    others = await client.send("POST", f"{T}/comments", {"body": "other"}, sub="bob", headers=key)
    elsewhere = await client.send(
        "POST", f"{S}/threads/other/comments", {"body": "other"}, sub="ann", headers=key
    )
    assert (others.status, elsewhere.status) == (201, 201)


async def test_a_key_serves_every_kind_of_write(client: Client) -> None:
    comment = await client.post("one")
    path = f"{T}/comments/{comment['id']}"
    writes: list[tuple[str, str, Any, str, tuple[str, ...], dict[str, str]]] = [
        ("PATCH", path, {"body": "two"}, "ann", (), {"If-Match": '"1"'}),
        ("POST", f"{path}/reports", {"reason": "spam"}, "bob", (), {}),
        ("DELETE", path, None, "ann", (), {}),
        ("PATCH", T, {"title": "A"}, "mod", MOD, {}),
        ("PATCH", f"{S}/settings", {"report_threshold": 9}, "boss", ("admin",), {}),
    ]
    for number, (method, at, body, sub, roles, more) in enumerate(writes):
        headers = {"Idempotency-Key": f"k-{number}", **more}
        first, again = [
            await client.send(method, at, body, sub=sub, roles=roles, headers=headers) for _ in range(2)
        ]
        assert (again.status, again.version) == (first.status, first.version), (method, at)
        assert first.status < 300
    stale = await client.send(
        "PATCH",
        path,
        {"body": "two"},
        sub="ann",
        headers={"Idempotency-Key": "k-0", "If-Match": '"2"'},
    )
    assert stale.code == "idempotency-key-reused"


async def test_many_at_once_with_one_key_write_once(client: Client) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(
        *(
            client.send("POST", f"{T}/comments", {"body": "one"}, sub="ann", headers=headers)
            for _ in range(20)
        )
    )
    assert {one.status for one in answers} == {201}
    assert len({one.json["id"] for one in answers}) == 1
    assert (await client.get(f"{T}?min_version=1")).json["version"] == 1


async def test_a_destroyed_key_is_replaced_without_the_writer_noticing(client: Client) -> None:
    first = await client.post("one")
    await client.running.resources.pool.execute(
        "update author_keys set wrapped = null, destroyed_at = now() where site = $1", SITE
    )
    assert (await client.post("two"))["version"] == 2
    gone = await edit(client, first, "x", 1)
    assert (gone.status, gone.code) == (409, "comment-erased")


async def test_notifications_show_the_comment_as_it_is(client: Client) -> None:
    parent = await client.post("one")
    replies = [await client.post(f"reply {n}", to=parent["id"], sub="bob") for n in range(3)]
    stream = await client.running.resources.pool.fetchval("select stream_id from streams where key = 'story'")
    ids: list[uuid.UUID] = []
    for reply in replies:
        ids.append(uuid.UUID(int=(1 << 127) + len(ids)))
        await client.running.resources.pool.execute(
            "insert into notifications (site, recipient_id, notification_id, event_id, stream_id, comment_id,"
            " reason, actor_id, created_at) values ($1, 'ann', $2, $3, $4, $3, 'reply', 'bob', now())",
            SITE,
            ids[-1],
            uuid.UUID(reply["id"]),
            stream,
        )
    await client.get(f"{T}?min_version=4")
    inbox = await client.get(f"{S}/me/notifications", sub="ann")
    InboxShape.model_validate(inbox.json)
    assert [one["comment"]["id"] for one in inbox.json["items"]] == [one["id"] for one in replies[::-1]]
    assert inbox.json["items"][0]["actor"]["id"] == "bob"
    assert (inbox.json["unread"], inbox.json["after"]) == (3, None)
    first = await client.get(f"{S}/me/notifications?limit=2", sub="ann")
    rest = await client.get(f"{S}/me/notifications?limit=2&after={first.json['after']}", sub="ann")
    assert first.json["items"] + rest.json["items"] == inbox.json["items"]
    assert (await client.get(f"{S}/me/notifications?after={first.json['after']}", sub="bob")).code == (
        "cursor-invalid"
    )
    read = f"{S}/me/notifications/read"
    assert (await client.send("POST", read, {"ids": [str(ids[2])]}, sub="ann")).status == 204
    assert (await client.get(f"{S}/me/notifications?state=unread", sub="ann")).json["unread"] == 2
    assert (await client.send("POST", read, {"through": str(ids[1])}, sub="ann")).status == 204
    assert (await client.get(f"{S}/me/notifications?state=read", sub="ann")).json["unread"] == 0
    for body in ({}, {"ids": [], "through": str(ids[0])}, {"ids": ["x"]}, {"through": 1}):
        answer = await client.send("POST", read, body, sub="ann")
        assert (answer.status, answer.code) == (422, "invalid")
