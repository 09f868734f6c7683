"""The main job as clients and operators see it: real servers and processes, HTTP and the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.dev.servers import EmbeddedRedis
from tests.processes import Answer, S, Threadlog, threadlog, until

T = f"{S}/threads/talk"
BUSY = ["busy-1", "busy-2", "busy-3"]
PAGES = [
    "limit=100&replies=20&depth=10",
    "limit=1&replies=1&depth=1",
    "sort=newest&limit=2&replies=2&depth=10",
]


@pytest.fixture(params=["the views and the messages", "the views alone"])
def urls(
    request: pytest.FixtureRequest, redis_url: str, broker_url: str, start_redis: Callable[..., EmbeddedRedis]
) -> tuple[str, str]:
    """Where views and messages are: what FLUSHALL on the views' server empties."""
    together = request.param == "the views and the messages"
    return redis_url, broker_url if together else start_redis().url()


@pytest.fixture
async def running(database_url: str, urls: tuple[str, str], tmp_path: Path) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, *urls, tmp_path) as opened:
        yield opened


@dataclass(slots=True)
class Posting:
    """Somebody posts to the busy threads, one comment after the other, until told to stop."""

    running: Threadlog
    posted: dict[str, list[str]] = field(default_factory=lambda: {thread: [] for thread in BUSY})
    versions: dict[str, int] = field(default_factory=dict)
    count: int = 0
    stopped: bool = False

    async def run(self) -> None:
        while not self.stopped:
            thread = BUSY[self.count % len(BUSY)]
            earlier = self.posted[thread]
            to = earlier[0] if earlier and self.count % 2 else None
            answer = await self.running.client.post(thread, f"comment {self.count}", sub="eve", to=to)
            self.posted[thread].append(answer.json["id"])
            self.versions[thread] = answer.version
            self.count += 1

    async def goes_on(self, more: int) -> None:
        """Wait until so many more comments were taken."""
        goal = self.count + more

        async def counted() -> int:
            return self.count

        await until(counted, "posting goes on", lambda count: count >= goal)


async def tell_a_story(running: Threadlog) -> dict[str, str]:
    """Post, reply, edit, report to hidden, delete and remove; the comments' ids by name."""
    client = running.client
    settings = {"report_threshold": 2, "edit_window_seconds": None}
    changed = await client.send("PATCH", f"{S}/settings", settings, sub="root", roles=("admin",))
    assert changed.status == 200
    first = await client.post("talk", "What do *you* think?", sub="ann", title="A talk")
    assert first.version == 2  # the thread's description came first
    ids = {"first": first.json["id"]}
    assert first.headers["Location"] == f"{T}/comments/{ids['first']}"
    ids["reply"] = (await client.post("talk", "That you are right.", sub="bob", to=ids["first"])).json["id"]
    ids["below"] = (await client.post("talk", "I am not so sure.", sub="cem", to=ids["reply"])).json["id"]
    ids["bottom"] = (await client.post("talk", "Nor am I.", sub="dee", to=ids["below"])).json["id"]
    ids["spam"] = (await client.post("talk", "Buy now!", sub="spammer", to=ids["first"])).json["id"]
    ids["rash"] = (await client.post("talk", "I take this back.", sub="cem")).json["id"]
    ids["rude"] = (await client.post("talk", "Not to be read.", sub="rude", to=ids["rash"])).json["id"]
    answers = [
        await client.send(
            "PATCH",
            f"{T}/comments/{ids['reply']}",
            {"body": "That you are **right**."},
            sub="bob",
            headers={"If-Match": '"1"'},
        ),
        *[
            await client.send("POST", f"{T}/comments/{ids['spam']}/reports", {"reason": "spam"}, sub=sub)
            for sub in ("bob", "cem")
        ],
        await client.send("DELETE", f"{T}/comments/{ids['rude']}", sub="mod", roles=("moderator",)),
        await client.send("DELETE", f"{T}/comments/{ids['rash']}", sub="cem"),
    ]
    assert [answer.status for answer in answers] == [200, 202, 202, 204, 204]
    # Described, posted seven times, edited, reported twice, hidden, removed, deleted.
    assert answers[-1].version == 14
    return ids


def tree(comments: list[dict[str, Any]]) -> list[Any]:
    """The page as (text or state, replies), down to the leaves."""
    return [
        (
            one["body"] if one["state"] == "visible" else one["state"],
            one["descendants"],
            tree(one["replies"]["items"]),
        )
        for one in comments
    ]


STORY = [
    (
        "What do *you* think?",
        4,
        [
            ("That you are **right**.", 2, [("I am not so sure.", 1, [("Nor am I.", 0, [])])]),
            ("hidden", 0, []),
        ],
    ),
    ("deleted", 1, [("removed", 0, [])]),
]


async def every_page(running: Threadlog, threads: list[str]) -> dict[str, tuple[bytes, str]]:
    """What everyone reads of these threads: each page's bytes and its ETag."""
    asked = {f"{thread}?{query}": running.page(thread, query) for thread in threads for query in PAGES}
    answers: list[Answer] = await asyncio.gather(*asked.values())
    for answer in answers:
        assert not answer.stale
    return {name: (answer.raw, answer.headers["ETag"]) for name, answer in zip(asked, answers, strict=True)}


async def every_id(running: Threadlog, thread: str, query: str = "") -> list[str]:
    """The ids of a whole list, page after page."""
    ids: list[str] = []
    after = ""
    while True:
        page = (await running.page(thread, f"limit=20&depth=0{query}{after}")).json
        ids += [one["id"] for one in page["comments"]]
        if page["after"] is None:
            return ids
        after = f"&after={page['after']}"


async def test_the_whole_way_of_a_comment(running: Threadlog, urls: tuple[str, str]) -> None:
    api, worker = await running.api(), running.worker()
    client = running.client

    # Posted, stored, threaded: what is acknowledged shows without being asked for.
    ids = await tell_a_story(running)
    page = await running.shows("talk", 14)
    assert tree(page.json["comments"]) == STORY
    assert (page.json["thread"]["comments"], page.json["thread"]["title"]) == (4, "A talk")
    reply = page.json["comments"][0]["replies"]["items"][0]
    assert (reply["id"], reply["revision"], reply["edited_by"]) == (ids["reply"], 2, "author")
    assert "<strong>right</strong>" in reply["html"]
    for replies in (page.json["comments"][0]["replies"]["items"][1], page.json["comments"][1]):
        assert (replies["body"], replies["html"], replies["author"]) == (None, None, None)

    # Told: the parent's author, once; nobody of what they wrote themselves.
    inbox = await until(
        lambda: client.get(f"{S}/me/notifications", sub="ann"),
        "ann is told of the reply",
        lambda answer: any(item["comment"]["id"] == ids["reply"] for item in answer.json["items"]),
    )
    told = [item for item in inbox.json["items"] if item["comment"]["id"] == ids["reply"]]
    assert len(told) == 1
    assert (told[0]["reason"], told[0]["actor"]["id"], told[0]["read"]) == ("reply", "bob", False)
    assert (await client.get(f"{S}/me/notifications", sub="eve")).json["items"] == []

    # Redis is emptied while others post.
    posting = Posting(running)
    task = asyncio.create_task(posting.run())
    await posting.goes_on(20)
    quiet = await every_page(running, ["talk"])
    async with Redis.from_url(urls[0]) as redis:
        assert await redis.dbsize() > 0
        await redis.flushall()
    assert await every_page(running, ["talk"]) == quiet
    await posting.goes_on(20)
    posting.stopped = True
    await task
    assert await every_page(running, ["talk"]) == quiet
    for thread in BUSY:
        await running.shows(thread, posting.versions[thread])
        first = posting.posted[thread][0]
        listed = await every_id(running, thread) + await every_id(running, thread, f"&parent={first}")
        assert sorted(listed) == sorted(posting.posted[thread])

    # What is served is what the log says, and a replay changes nothing of it.
    assert await verified(running) == {"identical": True, "threads": 4, "differences": []}
    live = await every_page(running, ["talk", *BUSY])
    await until(lambda: notified(running), "the notifiers are at the logs' ends")
    inbox = await client.get(f"{S}/me/notifications", sub="ann")
    code, out, err = await running.run("replay", "--all", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["threads"], report["rows_changed"], report["failed"]) == (4, 0, 0)
    assert await every_page(running, ["talk", *BUSY]) == live
    assert await verified(running) == {"identical": True, "threads": 4, "differences": []}
    assert tree((await running.page("talk")).json["comments"]) == STORY

    # A replay is silent, and nothing went wrong on the way.
    assert (await client.get(f"{S}/me/notifications", sub="ann")).json == inbox.json
    assert [await process.stop() for process in (worker, api)] == [0, 0]
    for process in (api, worker):
        assert "Traceback" not in process.said, process.said


async def notified(running: Threadlog) -> bool:
    """Whether all notifications there are to be were written."""
    behind = await running.parts.pool.fetchval(
        "select count(*) from streams s left join notifier_checkpoints c using (stream_id) "
        "where s.key is not null and coalesce(c.version, 0) < s.version"
    )
    return not behind


async def verified(running: Threadlog) -> Any:
    """What `threadlog verify` finds."""
    code, out, err = await running.run("verify", "--all", "--chain", "--json")
    report = json.loads(out)
    assert code == (0 if report["identical"] else 1), err
    return {name: report[name] for name in ("identical", "threads", "differences")}
