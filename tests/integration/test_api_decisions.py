"""Moderators' decisions over HTTP: what each is answered with, what everyone reads then and where, and what
the log keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from services.api.shapes import CommentShape
from services.core.addresses import thread_stream_id
from tests.atom import ATOM, parsed, text
from tests.integration.api_client import SITE, Answer, Client, S, T
from tests.integration.erasing import eraser, erasing_client

MOD: Any = {"sub": "mod", "roles": ("moderator",)}
STREAM = thread_stream_id(SITE, "story")
SORTS = ("oldest", "newest", "best", "controversial", "replies")


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with erasing_client(database_url, redis_url, broker_url) as running:
        yield running


def path_of(comment: Any) -> str:
    return f"{T}/comments/{comment['id']}"


async def decide(client: Client, comment: Any, action: str, reason: str | None = None, **more: Any) -> Answer:
    body = {"action": action} | ({} if reason is None else {"reason": reason})
    return await client.send("POST", f"{path_of(comment)}/decisions", body, **(MOD | more))


async def report(client: Client, comment: Any, *reporters: str) -> Answer:
    """Reports, one after the other; the last one's answer."""
    answers = [
        await client.send("POST", f"{path_of(comment)}/reports", {"reason": "spam"}, sub=sub)
        for sub in reporters
    ]
    assert {answer.status for answer in answers} == {202}
    return answers[-1]


async def threshold(client: Client, count: int) -> None:
    settings = {"report_threshold": count}
    answer = await client.send("PATCH", f"{S}/settings", settings, sub="root", roles=("admin",))
    assert answer.status == 200, answer.raw


async def events(client: Client) -> list[Any]:
    answer = await client.get(f"{T}/events", **MOD)
    return list(answer.json["items"])


async def seen(client: Client, comment: Any, version: int, **who: Any) -> tuple[str, str | None]:
    """A comment's state and text at this version, as somebody reads them."""
    found = (await client.get(f"{path_of(comment)}?min_version={version}", **who)).json
    return found["state"], found["body"]


async def test_a_moderator_hides_restores_approves_and_removes(client: Client) -> None:
    comment = await client.post("one")
    states = {"hide": "hidden", "restore": "visible", "approve": "visible", "remove": "removed"}
    for version, action in enumerate(("hide", "restore", "hide", "approve", "remove"), start=2):
        state = states[action]
        answer = await decide(client, comment, action)
        assert (answer.status, answer.version) == (200, version), answer.raw
        assert answer.json == comment | {"state": state, "version": version}  # a moderator sees the text
        CommentShape.model_validate(answer.json)
        assert answer.headers["Cache-Control"].startswith("private")
        public = await seen(client, comment, version)
        assert public == (state, "one" if state == "visible" else None)
        author = await seen(client, comment, version, sub="ann")
        assert author == (state, None if state == "removed" else "one")
        counted = (await client.get(f"{T}?min_version={version}")).json["comments"]
        assert counted == (state == "visible")
    about = {"comment_id": comment["id"], "posted": 1}
    decided = (await events(client))[1:]
    assert [(event["type"], event["schema_version"], event["data"]) for event in decided] == [
        ("CommentHidden", 2, about | {"rule": "moderator"}),
        ("CommentRestored", 1, about),
        ("CommentHidden", 2, about | {"rule": "moderator"}),
        ("CommentApproved", 1, about | {"from": "hidden"}),
        ("CommentRemoved", 1, about),
    ]
    assert {event["actor"] for event in decided} == {"mod"}


async def test_a_decision_that_changes_nothing_adds_no_event(client: Client) -> None:
    comment = await client.post("one")
    for action, version in (("approve", 2), ("approve", 2), ("hide", 3), ("hide", 3), ("approve", 4)):
        answer = await decide(client, comment, action, "said again")
        assert (answer.status, answer.version) == (200, version)
        assert answer.json["version"] == version
    assert len(await events(client)) == 4


async def test_what_cannot_be_decided_is_refused_and_writes_nothing(client: Client) -> None:
    comment = await client.post("one")
    refused = await decide(client, comment, "restore")
    assert (refused.status, refused.code) == (409, "decision-not-possible")
    deleted, removed = await client.post("gone"), await client.post("rude")
    assert (await client.send("DELETE", path_of(deleted), sub="ann")).status == 204
    assert (await decide(client, removed, "remove")).status == 200
    for one, code in ((deleted, "comment-deleted"), (removed, "comment-removed")):
        for action in ("approve", "hide", "restore", "remove"):
            answer = await decide(client, one, action, "too late")
            assert (answer.status, answer.code) == (409, code)
    elsewhere = f"{S}/threads/other/comments/{comment['id']}/decisions"
    for reason in ({}, {"reason": "why"}):
        answer = await client.send("POST", elsewhere, {"action": "hide"} | reason, **MOD)
        assert (answer.status, answer.code) == (404, "comment-not-found")
    assert len(await events(client)) == 5


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "action"),
        ({"action": "ban"}, "action"),
        ({"action": None}, "action"),
        ({"action": "hide", "reason": "x" * 301}, "reason"),
        ({"action": "hide", "reason": "two\nlines"}, "reason"),
        ({"action": "hide", "reason": ""}, "reason"),
        ({"action": "hide", "reason": 1}, "reason"),
        ({"action": "hide", "because": "x"}, "because"),
    ],
    ids=str,
)
async def test_a_body_of_another_shape_names_the_field(
    client: Client, body: dict[str, object], field: str
) -> None:
    comment = await client.post("one")
    answer = await client.send("POST", f"{path_of(comment)}/decisions", body, **MOD)
    assert (answer.status, answer.code, answer.json["errors"][0]["field"]) == (422, "invalid", field)


async def test_what_a_moderator_has_approved_is_reported_and_never_hidden_by_it(client: Client) -> None:
    await threshold(client, 2)
    reported, fresh = await client.post("one"), await client.post("two")
    assert (await report(client, reported, "bob", "cid")).version == 5
    assert await seen(client, reported, 5) == ("hidden", None)
    for comment in (reported, fresh):
        assert (await decide(client, comment, "approve")).status == 200
    await report(client, reported, "dee", "eve")
    last = await report(client, fresh, "bob", "cid", "dee")
    for comment, body in ((reported, "one"), (fresh, "two")):
        assert await seen(client, comment, last.version) == ("visible", body)
    hidings = [event for event in await events(client) if event["type"] == "CommentHidden"]
    assert [event["data"]["rule"] for event in hidings] == ["reports"]
    hidden = await decide(client, fresh, "hide")  # which a moderator still may
    assert hidden.json["state"] == "hidden"


async def test_a_report_at_the_moment_of_an_approval_leaves_it_seen_in_the_end(client: Client) -> None:
    await threshold(client, 1)
    for number in range(8):
        comment = await client.post(f"number {number}")
        _, approval = await asyncio.gather(report(client, comment, "bob"), decide(client, comment, "approve"))
        # The one before or the other: at the approval's version it is visible, and is not hidden later.
        assert approval.json["state"] == "visible"
        later = await report(client, comment, "cid")
        assert (await seen(client, comment, later.version))[0] == "visible"


async def test_two_moderators_who_decide_at_once_are_both_answered_and_one_event_is_added(
    client: Client,
) -> None:
    comment = await client.post("one")
    answers = await asyncio.gather(
        *(decide(client, comment, "hide", sub=sub) for sub in ("mia", "max", "moe"))
    )
    assert [(answer.status, answer.version) for answer in answers] == [(200, 2)] * 3
    assert [event["type"] for event in await events(client)] == ["CommentPosted", "CommentHidden"]


@pytest.mark.parametrize("action", ["restore", "approve"])
async def test_what_comes_back_is_back_in_every_view_as_if_it_had_never_been_away(
    client: Client, action: str
) -> None:
    root = await client.post("root")
    comment = await client.post("one", to=root["id"], sub="bob")
    below = await client.post("below", to=comment["id"], sub="cid")
    await client.send("PUT", f"{path_of(comment)}/vote", {"value": 1}, sub="dee")

    async def read(version: int) -> dict[str, Any]:
        pages = {
            sort: (await client.get(f"{T}/comments?sort={sort}&min_version={version}")).json for sort in SORTS
        }
        listed = (await client.get(f"{S}/comments")).json["items"]
        counts = await client.send("POST", f"{S}/counts", {"threads": ["story"]})
        feeds = [await client.get(f"{at}/feed.atom") for at in (T, S)]
        return {
            "pages": {sort: tree(page["comments"]) for sort, page in pages.items()},
            "comments": pages["oldest"]["thread"]["comments"],
            "listed": [one["id"] for one in listed],
            "counts": counts.json,
            "feeds": [
                [text(entry, "id") for entry in parsed(answer.raw).findall(f"{ATOM}entry")]
                for answer in feeds
            ],
        }

    def tree(nodes: list[Any]) -> list[Any]:
        kept = ("id", "state", "body", "children", "descendants", "votes", "author")
        return [
            {name: node[name] for name in kept} | {"below": tree(node["replies"]["items"])} for node in nodes
        ]

    before = await read(4)
    hidden = await decide(client, comment, "hide")
    away = await read(hidden.version)
    back = await decide(client, comment, action)
    after = await read(back.version)

    assert after == before
    assert (before["comments"], before["counts"]) == (3, {"story": 3})
    assert (away["comments"], away["counts"]) == (2, {"story": 2})
    assert away["listed"] == [below["id"], root["id"]]
    assert [len(feed) for feed in away["feeds"]] == [2, 2]
    for sort in SORTS:  # its place, and what lies below it, stay
        [node] = away["pages"][sort]
        assert (node["children"], node["descendants"]) == (1, 2)
        [gone] = node["below"]
        assert (gone["state"], gone["body"], gone["author"]) == ("hidden", None, None)
        assert [one["body"] for one in gone["below"]] == ["below"]


async def test_a_page_in_memory_shows_each_reader_what_is_theirs_through_all_of_it(client: Client) -> None:
    comment = await client.post("one", sub="ann")
    readers: dict[str, Any] = {"everyone": {}, "author": {"sub": "ann"}, "other": {"sub": "bob"}, "mod": MOD}
    version = 1
    for action in (None, "hide", "restore", "hide", "approve"):
        if action is not None:
            version = (await decide(client, comment, action)).version
        shown: dict[str, str | None] = {}
        for name, who in readers.items():
            for _ in range(2):  # the second is answered from memory
                page = (await client.get(f"{T}/comments?min_version={version}", **who)).json
                shown[name] = page["comments"][0]["body"]
        public = None if action == "hide" else "one"
        assert shown == {"everyone": public, "author": "one", "other": public, "mod": "one"}, action


async def test_as_of_shows_the_state_of_then(client: Client) -> None:
    comment = await client.post("one")
    for action in ("hide", "restore", "hide", "approve"):
        await decide(client, comment, action)
    states = [
        (await client.get(f"{path_of(comment)}?as_of={version}", **MOD)).json["state"]
        for version in range(1, 6)
    ]
    assert states == ["visible", "hidden", "visible", "hidden", "visible"]


# --- what is kept ------------------------------------------------------------------------------------------


async def test_a_reason_is_sealed_under_the_authors_key_and_goes_with_them(client: Client) -> None:
    parts = client.running.resources
    comment = await client.post("one", sub="ann")
    why = "Ann Quixotic names her neighbour"
    for action in ("hide", "restore", "approve"):
        assert (await decide(client, comment, action, f"  {action}: {why} ")).status == 200
    made = await parts.credentials.add_key(SITE, ["operator"])
    headers = {"Authorization": f"Bearer {made.key}"}

    async def opened() -> list[tuple[Any, Any]]:
        answer = await client.get("/v1/events?open=1&limit=100", headers=headers)
        return [(e["opened"], e["shut"]) for e in answer.json["items"] if e["actor"] == "mod"]

    assert [found["reason"].strip() for found, _ in await opened()] == [
        f"{action}: {why}" for action in ("hide", "restore", "approve")
    ]
    stored = await parts.pool.fetch("select data, key_id from events where actor_id = 'mod'")
    assert not [row for row in stored if b"Quixotic" in row["data"]]
    posting = await parts.log.comment_key(STREAM, UUID(comment["id"]))
    assert posting is not None
    assert {row["key_id"] for row in stored} == {posting[1]}

    assert (await client.send("DELETE", f"{S}/me", sub="ann")).status == 202
    assert await opened() == [(None, "no key")] * 3
    # Before a worker has marked the comment, too: there is nothing left to seal a reason under.
    late = await decide(client, comment, "hide", "too late")
    assert (late.status, late.code) == (409, "comment-erased")
    await eraser(client).round()
    for action in ("approve", "hide", "restore", "remove"):
        answer = await decide(client, comment, action)
        assert (answer.status, answer.code) == (409, "comment-erased")
    assert await parts.verifier.thread(STREAM) == []


async def test_a_repeat_with_the_same_key_is_answered_as_the_first_and_another_request_is_not(
    client: Client,
) -> None:
    comment = await client.post("one")
    key = {"Idempotency-Key": "once"}
    first = await decide(client, comment, "hide", "rude", headers=key)
    assert (await decide(client, comment, "restore")).version == 3
    again = await decide(client, comment, "hide", "rude", headers=key)
    assert (first.status, first.version, first.json["state"]) == (200, 2, "hidden")
    # The status and version of the first, the comment as it is now.
    assert (again.status, again.version, again.json["state"]) == (200, 2, "visible")
    other = await decide(client, comment, "hide", "another reason", headers=key)
    assert (other.status, other.code) == (422, "idempotency-key-reused")
    assert len(await events(client)) == 3


async def test_verify_finds_a_lost_approval_and_a_replay_repairs_it(client: Client) -> None:
    await threshold(client, 1)
    comment, plain = await client.post("one"), await client.post("two")
    await decide(client, comment, "approve")
    parts = client.running.resources
    assert await parts.verifier.thread(STREAM) == []
    await parts.pool.execute("update comments set approved = not approved")
    found = [(one.path.rpartition(" ")[2], one.stored) for one in await parts.verifier.thread(STREAM)]
    assert sorted(found) == [("approved", False), ("approved", True)]
    await parts.replayer.replay(STREAM)
    assert await parts.verifier.thread(STREAM) == []
    last = await report(client, comment, "bob")
    assert (await seen(client, comment, last.version))[0] == "visible"
    last = await report(client, plain, "bob")
    assert (await seen(client, plain, last.version))[0] == "hidden"
