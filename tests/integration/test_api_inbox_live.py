"""`S/me/notifications/live`: what is told to whom, at once or when it is asked for, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

import pytest

from services.api.shapes import InboxLiveShape, NotificationShape
from services.core.addresses import thread_stream_id
from services.eventlog.inbox import Seen
from services.readmodel.told import CHANNEL, Told
from services.workers.notifier import Notifier
from tests.inboxes import Follower, enter, following, new_id
from tests.integration.api_client import SITE, Answer, Client, S, client_of
from tests.processes import until

LIVE = f"{S}/me/notifications/live"
JSON = {"Accept": "application/json"}
STREAM = thread_stream_id(SITE, "story")


@dataclass(slots=True)
class Scene:
    """A thread of ann's, to which others reply, and a notifier that tells her."""

    client: Client
    told: Told
    root: Any

    @property
    def base(self) -> str:
        return f"http://{self.client.running.host}:{self.client.running.port}"

    async def reply(self, text: str, sub: str = "bob", *, hinted: bool = True) -> Any:
        """Somebody replies, and ann is told, with or without a hint."""
        posted = await self.client.post(text, to=self.root["id"], sub=sub)
        parts = self.client.running.resources
        tell = self.told.tell if hinted else lambda _people: None
        await Notifier(parts.pool, parts.keyring, told=tell).notify(STREAM)
        return posted

    async def poll(self, query: str = "", sub: str = "ann", **headers: str) -> Answer:
        return await self.client.get(LIVE + query, sub=sub, headers=JSON | headers)

    def follower(self, sub: str = "ann", **more: Any) -> Follower:
        return Follower([self.base], LIVE, self.client.token(sub), **more)


@pytest.fixture
async def scene(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Scene]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True, max_streams=4) as client:
        told = Told(client.running.resources.redis)
        yield Scene(client, told, await client.post("by ann"))
        await told.stop()


def has(count: int) -> Callable[[Follower], bool]:
    return lambda follower: len(follower.events) >= count


async def hinted(scene: Scene) -> None:
    """Wait until hints are heard."""
    await until(
        lambda: scene.client.running.resources.redis.pubsub_numsub(CHANNEL),
        "hints are heard",
        lambda found: found[0][1] == 1,
    )


# --- streams -------------------------------------------------------------------------------------------


async def test_a_reply_reaches_its_readers_stream_at_once_as_the_inbox_has_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody looks: what comes came by a hint.
    monkeypatch.setattr("services.api.live.inboxes.Inboxes.beat", lambda *_: None)
    done = asyncio.Event()
    async with (
        following(scene.follower("bob"), lambda _: done.is_set()) as bob,
        following(scene.follower(), has(2)) as ann,
    ):
        await hinted(scene)
        first = await scene.reply("hello")
        await until(lambda: asyncio.sleep(0, ann.seen), "it came", lambda seen: len(seen) == 1)
        second = await scene.reply("and again", sub="cid")
        await until(lambda: asyncio.sleep(0, ann.seen), "both came", lambda seen: len(seen) == 2)
        done.set()
    assert bob.events == []
    assert [name for name, _ in ann.events] == ["notification", "notification"]
    assert [data["unread"] for _, data in ann.events] == [1, 2]
    assert [data["notification"]["comment"] for _, data in ann.events] == [first, second]
    listed = (await scene.client.get(f"{S}/me/notifications", sub="ann")).json["items"]
    assert [data["notification"] for _, data in ann.events] == listed[::-1]
    NotificationShape.model_validate(ann.events[0][1]["notification"])
    assert ann.retries == 1


async def test_what_no_hint_told_comes_with_the_next_heartbeat(scene: Scene) -> None:
    async with following(scene.follower(), has(1)) as ann:
        posted = await scene.reply("unheard", hinted=False)
    assert ann.events[0][1]["notification"]["comment"] == posted


async def test_a_heartbeat_says_what_was_seen(scene: Scene) -> None:
    begun: list[str | None] = []

    def enough(one: Follower) -> bool:
        return one.heartbeats > 0 and bool(begun) and one.last != begun[0]

    async with following(scene.follower(), enough) as ann:
        begun.append(ann.last)
        await scene.client.running.resources.pool.execute("select pg_current_xact_id()")
    assert ann.events == []
    assert (await scene.poll(f"?after={ann.last}")).json["items"] == []


async def test_a_stream_begins_now_or_behind_what_was_seen(scene: Scene) -> None:
    before = (await scene.poll()).json["after"]
    first = await scene.reply("one")
    async with following(scene.follower(), has(1)) as ann:
        second = await scene.reply("two")
    assert ann.events[0][1]["notification"]["comment"] == second
    async with following(scene.follower(last=before), has(2)) as late:
        pass
    assert [data["notification"]["comment"]["id"] for _, data in late.events] == [first["id"], second["id"]]


async def test_who_is_far_behind_or_of_another_history_begins_anew(scene: Scene) -> None:
    before = (await scene.poll()).json["after"]
    api = scene.client.running.api
    scope = f"{SITE}\nlive\nann".encode()
    async with scene.client.running.resources.pool.acquire() as connection, connection.transaction():
        random = Random(1)
        for _ in range(1001):
            await enter(connection, SITE, "ann", new_id(random), (STREAM, UUID(scene.root["id"])))
    future = api.cursors.seen(scope, Seen("5000000000:5000000000:"))
    for cursor in (before, future):
        async with following(scene.follower(last=cursor), has(1)) as ann:
            pass
        assert ann.events == [("reset", {"unread": 1001})]
        polled = (await scene.poll(f"?after={cursor}")).json
        assert [one["event"] for one in polled["items"]] == ["reset"]
        assert (await scene.poll(f"?after={polled['after']}")).json["items"] == []
        async with following(scene.follower(last=ann.last), has(1)) as again:
            await scene.reply("news")
        assert [name for name, _ in again.events] == ["notification"]
        await scene.client.send("POST", f"{S}/me/notifications/read", {"ids": again.seen}, sub="ann")
        await scene.client.running.resources.pool.execute(
            "delete from notifications where notification_id = $1", UUID(again.seen[0])
        )


async def test_streams_are_bounded_and_end_with_their_token(scene: Scene) -> None:
    brief = scene.client.token("ann", exp=_soon(1))
    follower = Follower([scene.base], LIVE, brief)
    async with following(follower, lambda one: one.ended):
        pass
    assert follower.ended
    followers = [scene.follower() for _ in range(4)]
    done = asyncio.Event()
    tasks = [asyncio.create_task(one.follow(lambda _: done.is_set())) for one in followers]
    async with asyncio.timeout(30):
        for one in followers:
            await one.begun.wait()
        refused = await scene.client.get(LIVE, sub="ann", headers={"Accept": "text/event-stream"})
    assert (refused.status, refused.code) == (503, "overloaded")
    assert (await scene.poll()).status == 200
    done.set()
    await asyncio.gather(*tasks)


def _soon(seconds: int) -> int:
    import time

    return int(time.time()) + seconds


async def test_a_token_in_the_address_is_taken_while_it_is_brief(scene: Scene) -> None:
    token = scene.client.token("ann")
    answer = await scene.client.get(f"{LIVE}?access_token={token}", headers=JSON)
    assert answer.status == 200
    long = scene.client.token("ann", exp=_soon(3600))
    assert (await scene.client.get(f"{LIVE}?access_token={long}", headers=JSON)).code == "token-invalid"
    assert (await scene.client.get(LIVE, headers=JSON)).code == "unauthenticated"


# --- polling -------------------------------------------------------------------------------------------


async def test_polling_goes_on_where_it_was_100_at_a_time(scene: Scene) -> None:
    begun = await scene.poll()
    assert begun.json["items"] == []
    random, ids = Random(2), []
    async with scene.client.running.resources.pool.acquire() as connection:
        for _ in range(250):
            ids.append(new_id(random))
            await enter(connection, SITE, "ann", ids[-1], (STREAM, UUID(scene.root["id"])))
    found, after, sizes = [], begun.json["after"], []
    while True:
        page = (await scene.poll(f"?after={after}")).json
        InboxLiveShape.model_validate(page)
        after = page["after"]
        if not page["items"]:
            break
        sizes.append(len(page["items"]))
        found += [one["data"]["notification"]["id"] for one in page["items"]]
        await scene.reply("meanwhile") if len(sizes) == 1 else None
    assert sizes == [100, 100, 51]
    assert found[:250] == sorted(map(str, ids))
    # Any event's id is a place to go on from, and so is the header.
    page = (await scene.poll(f"?after={begun.json['after']}")).json
    rest = (await scene.poll(**{"Last-Event-ID": page["items"][41]["id"]})).json
    assert [one["data"]["notification"]["id"] for one in rest["items"]] == found[42:142]


async def test_a_transaction_that_began_earlier_and_commits_later_is_not_passed_over(scene: Scene) -> None:
    random, place = Random(3), (STREAM, UUID(scene.root["id"]))
    pool = scene.client.running.resources.pool
    begun = (await scene.poll()).json["after"]
    slow = new_id(random)
    async with pool.acquire() as held:
        transaction = held.transaction()
        await transaction.start()
        await enter(held, SITE, "ann", slow, place)
        quick = [new_id(random) for _ in range(3)]
        for one in quick:
            await enter(pool, SITE, "ann", one, place)
        first = (await scene.poll(f"?after={begun}")).json
        assert [one["data"]["notification"]["id"] for one in first["items"]] == list(map(str, quick))
        partial = first["items"][0]["id"]
        await transaction.commit()
    second = (await scene.poll(f"?after={first['after']}")).json
    assert [one["data"]["notification"]["id"] for one in second["items"]] == [str(slow)]
    third = (await scene.poll(f"?after={partial}")).json
    assert [one["data"]["notification"]["id"] for one in third["items"]] == [
        *map(str, quick[1:]),
        str(slow),
    ]


@pytest.mark.parametrize("given", ["5", "x" * 40, "%00", "%C3%A9", ""])
async def test_a_place_that_this_inbox_never_gave_is_refused(scene: Scene, given: str) -> None:
    assert (await scene.poll(f"?after={given}")).code in ("cursor-invalid", "bad-query")
    assert (await scene.poll(**{"Last-Event-ID": given})).code == "bad-header"


async def test_a_place_is_of_one_person_and_one_list(scene: Scene) -> None:
    after = (await scene.poll()).json["after"]
    assert (await scene.poll(f"?after={after}", sub="bob")).code == "cursor-invalid"
    assert (await scene.client.get(f"{S}/me/notifications?after={after}", sub="ann")).code in (
        "cursor-invalid",
        "bad-query",
    )
