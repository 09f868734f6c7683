"""Live streams (contract, section 9), through a real API, with a projector on the same servers."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from services.api.live.hub import Hub
from services.api.openapi import describe
from services.api.routes import ROUTES
from services.core.addresses import thread_stream_id
from services.eventlog.checkpoints import DeadLetters
from services.readmodel import keys
from services.readmodel.announcements import Announcer
from services.workers.hints import Looked
from services.workers.projector import Following
from tests.imports import import_jsonl, line
from tests.integration.api_client import SITE, Answer, Client, S, client_of
from tests.listening import Event, Stream, listening
from tests.processes import until

STORY = f"{S}/threads/story"
LIVE = f"{STORY}/live"
STREAM = thread_stream_id(SITE, "story")
JSON = {"Accept": "application/json"}


@dataclass(slots=True)
class Scene:
    """An API, and what a worker would do when it is poked."""

    client: Client
    following: Following
    announcer: Announcer

    @property
    def base(self) -> str:
        return f"http://{self.client.running.host}:{self.client.running.port}"

    @property
    def hub(self) -> Hub:
        return self.client.running.api.live

    async def streams(self) -> int:
        """How many are open."""
        return self.hub.streams

    async def project(self) -> None:
        """Do what a worker does for a message."""
        await self.following.project([STREAM], Looked.now())

    async def post(self, text: str, *, to: str | None = None, sub: str = "ann") -> Any:
        """Post a comment, and have it projected."""
        posted = await self.client.post(text, to=to, sub=sub)
        await self.project()
        return posted

    async def send(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        """Any write to the thread, projected."""
        answer = await self.client.send(method, STORY + path, body, **more)
        assert answer.status < 300, answer.raw
        await self.project()
        return answer

    async def poll(self, query: str = "", **more: Any) -> Any:
        """What polling answers."""
        answer = await self.client.get(LIVE + query, headers=JSON, **more)
        assert answer.status == 200, answer.raw
        return answer.json

    def bearer(self, sub: str, *roles: str, **claims: object) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.client.token(sub, *roles, **claims)}"}

    @asynccontextmanager
    async def listen(
        self, query: str = "", *, after: int | None = None, headers: dict[str, str] | None = None
    ) -> AsyncIterator[Stream]:
        """Somebody's stream, which has begun."""
        async with listening(self.base, LIVE + query, after=after, headers=headers) as stream:
            yield stream


@pytest.fixture
async def scene(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Scene]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True, max_streams=12) as client:
        parts = client.running.resources
        announcer = Announcer(parts.redis)
        following = Following(parts.projector, DeadLetters(parts.pool, "1.0"), announce=announcer.moved)
        yield Scene(client, following, announcer)
        await announcer.stop()


def shown(events: list[Event]) -> list[tuple[int, str]]:
    return [(event.id, event.type) for event in events]


# --- what is told --------------------------------------------------------------------------------------


async def test_the_first_comment_of_a_thread_reaches_whoever_waits_for_it(scene: Scene) -> None:
    async with scene.listen() as stream:
        posted = await scene.post("hello")
        event = await stream.event()
    assert (event.id, event.type) == (1, "CommentPosted")
    assert event.data == {"comment": posted, "thread": {"comments": 1, "version": 1}}
    assert stream.retries == [3000]


async def test_a_stream_begins_now(scene: Scene) -> None:
    await scene.post("before")
    async with scene.listen() as stream:
        await scene.post("after")
        assert (await stream.event()).body == "after"


async def test_a_stream_begins_now_though_the_view_is_behind(scene: Scene) -> None:
    await scene.post("projected")
    await scene.client.post("not projected yet")
    async with scene.listen() as stream:
        await scene.post("after")
        assert (await stream.event()).body == "after"


async def test_every_kind_of_event_is_told_as_the_comment_is_now(scene: Scene) -> None:
    async with scene.listen() as stream:
        root = await scene.post("root")
        reply = await scene.post("reply", to=root["id"], sub="bob")
        at = f"/comments/{reply['id']}"
        await scene.send("PATCH", at, {"body": "edited"}, sub="bob", headers={"If-Match": '"1"'})
        await scene.send("DELETE", at, sub="bob")
        await scene.send("PATCH", "", {"title": "A title", "state": "closed"}, sub="m", roles=("moderator",))
        events = await stream.until(6)
    assert shown(events) == [
        (1, "CommentPosted"),
        (2, "ReplyPosted"),
        (3, "CommentEdited"),
        (4, "CommentDeleted"),
        (5, "ThreadDescribed"),
        (6, "ThreadClosed"),
    ]
    assert events[1].data["comment"]["path"] == [root["id"]]
    assert events[2].body == "edited"
    assert events[3].data["comment"]["author"] is None
    assert events[3].data["thread"] == {"comments": 1, "version": 4}
    assert set(events[5].data) == {"thread"}


async def test_a_text_that_was_deleted_since_is_not_told_again(scene: Scene) -> None:
    posted = await scene.post("a secret")
    await scene.send("DELETE", f"/comments/{posted['id']}", sub="ann")
    async with scene.listen(after=0) as stream:
        events = await stream.events(2)
    assert shown(events) == [(1, "CommentPosted"), (2, "CommentDeleted")]
    assert [event.body for event in events] == [None, None]


async def test_a_hidden_text_reaches_its_author_and_moderators_alone(scene: Scene) -> None:
    given = {"report_threshold": 1}
    settled = await scene.client.send("PATCH", f"{S}/settings", given, sub="root", roles=("admin",))
    assert settled.status == 200
    posted = await scene.post("a text", sub="ann")
    async with (
        scene.listen() as everyone,
        scene.listen(headers=scene.bearer("bob")) as other,
        scene.listen(headers=scene.bearer("ann")) as author,
        scene.listen(headers=scene.bearer("mia", "moderator")) as moderator,
    ):
        await scene.send("POST", f"/comments/{posted['id']}/reports", {"reason": "spam"}, sub="bob")
        told = [await stream.event() for stream in (everyone, other, author)]
        reported, hidden = await moderator.events(2)
    assert {(event.id, event.type) for event in told} == {(3, "CommentHidden")}
    assert [event.body for event in told] == [None, None, "a text"]
    assert {event.data["comment"]["state"] for event in told} == {"hidden"}
    assert (reported.id, reported.type) == (2, "CommentReported")
    assert (hidden.type, hidden.body) == ("CommentHidden", "a text")


async def test_what_is_hidden_and_comes_back_reaches_each_as_they_may_see_it(scene: Scene) -> None:
    posted = await scene.post("a text", sub="ann")
    mia: Any = {"sub": "mia", "roles": ("moderator",)}
    async with (
        scene.listen() as everyone,
        scene.listen(headers=scene.bearer("bob")) as other,
        scene.listen(headers=scene.bearer("ann")) as author,
        scene.listen(headers=scene.bearer("mia", "moderator")) as moderator,
    ):
        for version, (action, type_, public) in enumerate(
            [
                ("hide", "CommentHidden", None),
                ("restore", "CommentRestored", "a text"),
                ("hide", "CommentHidden", None),
                ("approve", "CommentApproved", "a text"),
            ],
            start=2,
        ):
            body = {"action": action, "reason": "for good reason"}
            decided = await scene.send("POST", f"/comments/{posted['id']}/decisions", body, **mia)
            assert decided.json["version"] == version
            told = [await stream.event() for stream in (everyone, other, author, moderator)]
            assert {(event.id, event.type) for event in told} == {(version, type_)}
            assert [event.body for event in told] == [public, public, "a text", "a text"]
            counted = {"comments": 0 if public is None else 1, "version": version}
            assert [event.data["thread"] for event in told] == [counted] * 4
            assert all("for good reason" not in str(event.data) for event in told)


async def test_a_report_is_told_to_nobody_and_a_heartbeat_carries_its_version(scene: Scene) -> None:
    posted = await scene.post("a text")
    async with scene.listen() as stream:
        await scene.send("POST", f"/comments/{posted['id']}/reports", {"reason": "spam"}, sub="bob")
        while stream.last_id < 2:
            await stream.beaten()
    async with scene.listen(after=stream.last_id) as resumed:
        await scene.post("another")
        assert shown([await resumed.event()]) == [(3, "CommentPosted")]


async def test_what_is_imported_or_rebuilt_is_told_to_nobody(scene: Scene) -> None:
    parts = scene.client.running.resources
    comments = [line(0), line(1, 0, minute=1), line(2, minute=2)]
    async with scene.listen() as stream:
        report = await import_jsonl(parts, b"".join(comments), SITE, "story")
        assert report.added == len(comments)
        await scene.project()
        await parts.projector.rebuild(STREAM)
        await scene.project()
        await scene.post("written here")
        event = await stream.event()
    assert event.body == "written here"
    assert event.id > len(comments)


async def test_votes_on_a_comment_are_gathered(scene: Scene) -> None:
    voters = 25
    posted = await scene.post("a text")
    began = time.monotonic()
    async with scene.listen() as stream:
        for number in range(voters):
            path = f"/comments/{posted['id']}/vote"
            await scene.send("PUT", path, {"value": 1}, sub=f"u-{number}")
        await scene.post("a word in between")
        events = [await stream.event()]
        while max(e.data["comment"]["votes"]["up"] for e in events) < voters:
            events.append(await stream.event())
        events += await stream.until(voters + 2) if events[-1].id < voters + 2 else []
        seconds = time.monotonic() - began
    votes = [event for event in events if event.type == "CommentVoted"]
    assert 2 <= len(votes) <= seconds + 1
    assert [event.id for event in events] == sorted(event.id for event in events)
    assert [event.body for event in events if event.type == "CommentPosted"] == ["a word in between"]


async def test_a_tally_that_waited_when_the_stream_was_cut_is_told_after_it_resumes(scene: Scene) -> None:
    posted = await scene.post("a text")
    path = f"/comments/{posted['id']}/vote"
    async with scene.listen() as stream:
        await scene.send("PUT", path, {"value": 1}, sub="u-1")
        assert (await stream.event()).data["comment"]["votes"]["up"] == 1
        await scene.client.send("PUT", STORY + path, {"value": 1}, sub="u-2")
        await scene.post("another")
        found = await stream.event()
        while found.type != "CommentPosted":
            found = await stream.event()
    async with scene.listen(after=found.id) as resumed:
        event = await resumed.event()
    assert (event.type, event.id) == ("CommentVoted", found.id)
    assert event.data["comment"]["votes"]["up"] == 2


# --- where it begins -----------------------------------------------------------------------------------


async def test_a_stream_goes_on_after_the_version_in_the_query_and_the_header_goes_first(
    scene: Scene,
) -> None:
    for number in range(5):
        await scene.post(f"text {number}")
    async with scene.listen("?after=3") as stream:
        assert shown(await stream.events(2)) == [(4, "CommentPosted"), (5, "CommentPosted")]
        await scene.post("text 5")
        assert (await stream.event()).id == 6
    async with scene.listen("?after=3", after=5) as stream:
        assert (await stream.event()).id == 6


async def test_a_stream_reads_the_log_where_the_view_is_behind_or_gone(scene: Scene) -> None:
    await scene.post("projected")
    await scene.client.post("not projected")
    async with scene.listen(after=0) as stream:
        assert shown(await stream.events(2)) == [(1, "CommentPosted"), (2, "CommentPosted")]
    await scene.client.running.resources.views.drop(STREAM)
    async with scene.listen(after=1) as stream:
        assert shown([await stream.event()]) == [(2, "CommentPosted")]


@pytest.mark.parametrize(
    ("query", "headers", "code"),
    [
        ("?after=x", {}, "bad-query"),
        ("?after=-1", {}, "bad-query"),
        ("?after=1&after=2", {}, "bad-query"),
        ("?limit=1", {}, "bad-query"),
        ("", {"Last-Event-ID": "x"}, "bad-header"),
        ("", {"Last-Event-ID": "1.5"}, "bad-header"),
        ("", {"Last-Event-ID": ""}, "bad-header"),
    ],
)
async def test_what_is_not_a_number_is_refused(
    scene: Scene, query: str, headers: dict[str, str], code: str
) -> None:
    for accept in ("text/event-stream", "application/json"):
        answer = await scene.client.get(LIVE + query, headers={"Accept": accept, **headers})
        assert (answer.status, answer.code) == (400, code)


async def test_ahead_of_the_log_there_is_one_reset(scene: Scene) -> None:
    await scene.post("a text")
    async with scene.listen(after=2) as stream:
        event = await stream.event()
        assert shown([event]) == [(1, "reset")]
        assert event.data == {"thread": {"comments": 1, "version": 1}}
        await scene.post("another")
        assert shown([await stream.event()]) == [(2, "CommentPosted")]
    assert scene.hub.resets == 1


async def test_a_thousand_events_are_told_and_one_more_is_a_reset(scene: Scene) -> None:
    for first in range(0, 1001, 91):
        await asyncio.gather(*(scene.client.post(f"text {n}") for n in range(first, first + 91)))
    async with scene.listen(after=1) as stream:
        events = await stream.until(1001)
        assert [event.id for event in events] == list(range(2, 1002))
        assert len({event.body for event in events}) == 1000
    async with scene.listen("?after=0") as stream:
        assert shown([await stream.event()]) == [(1001, "reset")]
        await scene.post("one more")
        assert shown([await stream.event()]) == [(1002, "CommentPosted")]


async def test_a_log_that_was_set_back_resets_those_who_listen(scene: Scene) -> None:
    await scene.post("a text")
    async with scene.listen() as stream:
        scene.hub._threads[STREAM].position = 40
        assert shown([await stream.event()]) == [(1, "reset")]
        await scene.post("another")
        assert shown([await stream.event()]) == [(2, "CommentPosted")]


# --- hints ---------------------------------------------------------------------------------------------


async def test_of_the_hints_that_gather_the_latest_version_goes(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis, redis.pubsub() as pubsub:
        await pubsub.subscribe(keys.channel(STREAM))
        announcer = Announcer(redis)
        for versions in ((4, 5, 3), (6, 0), (7,)):
            for version in versions:
                announcer.moved(STREAM, version)
            await announcer.stop()
        heard: list[bytes] = []
        async with asyncio.timeout(30):
            while len(heard) < 3:
                message = await pubsub.get_message(timeout=1)
                if message is not None and message["type"] == "message":
                    heard.append(message["data"])
    assert heard == [b"5", b"0", b"7"]


async def test_a_lost_hint_costs_seconds(scene: Scene) -> None:
    async with scene.listen() as stream:
        await scene.client.post("nobody projects this, nobody says so")
        assert (await stream.event()).id == 1


async def test_a_lost_hint_costs_seconds_however_many_threads_begin_to_be_followed(scene: Scene) -> None:
    async def begin() -> None:
        while True:
            scene.hub._begun(uuid4())  # as somebody's who follows another thread
            await asyncio.sleep(0.1)

    beginning = asyncio.create_task(begin())
    async with scene.listen() as stream:
        await scene.client.post("nobody projects this, nobody says so")
        assert (await stream.event(within=30)).id == 1
    beginning.cancel()


async def test_who_joins_a_thread_that_never_rests_is_told_with_the_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by reading the log for each of them again and again: whenever it is read, there is more to read."""
    teller = type(scene.hub.teller)
    read = teller.read

    async def one_more(self: Any, *given: Any) -> Any:
        await scene.client.post("and one more")
        return await read(self, *given)

    for _ in range(3):
        await scene.post("a text")
    monkeypatch.setattr(teller, "read", one_more)
    async with scene.listen(after=0) as first, scene.listen(after=2) as second:
        [thread] = scene.hub._threads.values()

        async def listeners() -> int:
            return len(thread.listeners)

        await until(listeners, "both are told with the others", lambda count: count == 2)
        monkeypatch.undo()
        last = (await scene.post("the last one"))["version"]
        assert [event.id for event in await first.until(last)] == list(range(1, last + 1))
        assert [event.id for event in await second.until(last)] == list(range(3, last + 1))


async def test_a_thread_is_read_no_further_than_its_view_is_said_to_be(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or this process would bring the view up to the log, as a worker is about to do."""
    brought: list[Any] = []
    projector = type(scene.client.running.resources.projector)
    bring_up = projector.bring_up

    async def counted(self: Any, *given: Any) -> Any:
        brought.append(given)
        return await bring_up(self, *given)

    await scene.post("a text")
    async with scene.listen() as stream:
        [thread] = scene.hub._threads.values()
        await scene.client.post("projected")
        await scene.client.running.resources.projector.advance(STREAM)
        await scene.client.post("not projected yet")
        monkeypatch.setattr(projector, "bring_up", counted)
        thread.wake(2)
        assert shown([await stream.event()]) == [(2, "CommentPosted")]
        assert brought == []
        assert shown([await stream.event()]) == [(3, "CommentPosted")]


async def test_a_thread_is_subscribed_to_once_however_many_listen(scene: Scene, redis_url: str) -> None:
    async def subscribed() -> tuple[int, int]:
        """The thread's subscriptions, and the connections that have any."""
        [(_, count)] = await redis.pubsub_numsub(keys.channel(STREAM))
        return count, len([one for one in await redis.client_list() if int(one["sub"])])

    async with Redis.from_url(redis_url) as redis, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(scene.listen()) for _ in range(6)]
        other = await stack.enter_async_context(listening(scene.base, f"{S}/threads/other/live"))
        await until(subscribed, "one subscription", lambda found: found == (1, 1))
        assert scene.hub.threads == 2
        await scene.post("for all of them")
        assert [(await stream.event()).body for stream in streams] == ["for all of them"] * 6
        await scene.client.post("elsewhere", at=f"{S}/threads/other")
        assert (await other.event()).body == "elsewhere"
        assert await subscribed() == (1, 1)
        await stack.aclose()
        await until(subscribed, "none is left", lambda found: found[0] == 0)
        assert (scene.hub.threads, scene.hub.streams) == (0, 0)


async def test_events_are_read_once_however_many_listen(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.post("a text")
    reads: list[int] = []
    read = scene.hub.teller.read

    async def counted(stream_id: Any, version: int, to: int | None = None) -> Any:
        found = await read(stream_id, version, to)
        if found is not None:
            reads.append(version)
        return found

    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(scene.listen()) for _ in range(8)]
        monkeypatch.setattr(type(scene.hub.teller), "read", lambda _, *given: counted(*given))
        await scene.post("another")
        for stream in streams:
            assert (await stream.event()).id == 2
    assert reads == [1]


# --- its bounds ----------------------------------------------------------------------------------------


async def test_a_stream_ends_when_its_token_does(scene: Scene) -> None:
    await scene.post("a text")
    headers = scene.bearer("ann", exp=int(time.time()) + 2)
    async with scene.listen(headers=headers) as stream:
        assert await stream.end() == []
    assert scene.hub.streams == 0


async def test_a_stream_whose_client_goes_is_forgotten(scene: Scene) -> None:
    async with scene.listen():
        assert scene.hub.streams == 1
    await until(scene.streams, "no stream is left", lambda count: count == 0)


async def test_more_streams_than_there_is_room_for_are_refused(scene: Scene) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(12):
            await stack.enter_async_context(scene.listen())
        answer = await scene.client.get(LIVE, headers={"Accept": "text/event-stream"})
        assert (answer.status, answer.code) == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) > 0
        assert (await scene.poll())["items"] == []
        metrics = (await scene.client.get("/metrics")).raw.decode()
        assert "threadlog_live_streams 12.0" in metrics
        assert "threadlog_live_threads 1.0" in metrics


async def test_a_slow_reader_is_cut_off_and_resumes(scene: Scene) -> None:
    """Neither does this process keep for it what it does not read, nor do others wait for it."""
    text = "word " * 1_900
    count = 0
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect((scene.client.running.host, scene.client.running.port))
    async with scene.listen() as quick:
        slow.sendall(f"GET {LIVE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(scene.streams, "both listen", lambda found: found == 2)
        while scene.hub.dropped == 0:
            count += 1
            assert count < 2_000
            await scene.post(text)
            assert (await quick.event()).id == count
            held = [one._transport.get_write_buffer_size() for one in scene.hub._threads[STREAM].listeners]
            assert max(held) <= 512 * 1024
    assert scene.hub.dropped == 1
    slow.close()
    async with scene.listen(after=count - 1) as stream:
        assert (await stream.event()).id == count


async def test_streams_end_when_the_process_does(database_url: str, redis_url: str, broker_url: str) -> None:
    async with AsyncExitStack() as stack:
        async with client_of(database_url, redis_url, broker_url) as client:
            base = f"http://{client.running.host}:{client.running.port}"
            stream = await stack.enter_async_context(listening(base, LIVE))
        assert await stream.end() == []
        first, again = stream.retries
        assert first == 3000
        assert again >= 1000


# --- who -----------------------------------------------------------------------------------------------


async def test_a_brief_token_in_the_address_signs_in(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    posted = await scene.post("a text")
    await scene.send("DELETE", f"/comments/{posted['id']}", sub="ann")
    token = scene.client.token("mia", "moderator", exp=int(time.time()) + 290)
    async with scene.listen(f"?after=0&access_token={token}") as stream:
        assert (await stream.event()).body == "a text"
    assert (await scene.poll(f"?after=0&access_token={token}"))["items"][0]["data"]["comment"]["body"]
    out, err = capfd.readouterr()
    assert token[-20:] not in out + err


async def test_other_tokens_in_the_address_are_refused(scene: Scene) -> None:
    made = await scene.client.running.resources.credentials.add_key(SITE, ["moderator"])
    scene.client.running.api.sites.forget(SITE)
    brief = scene.client.token("ann", exp=int(time.time()) + 60)
    lasting = scene.client.token("ann", exp=int(time.time()) + 400)
    for query, headers, status, code in (
        (f"access_token={lasting}", {}, 401, "token-invalid"),
        (f"access_token={made.key}", {}, 401, "token-invalid"),
        ("access_token=x", {}, 401, "token-invalid"),
        ("access_token=", {}, 401, "token-invalid"),
        (f"access_token={brief}", scene.bearer("ann"), 400, "bad-query"),
        (f"access_token={brief}&access_token={brief}", {}, 400, "bad-query"),
        (f"access_token={scene.client.token('ann', exp=1_700_000_000)}", {}, 401, "token-expired"),
    ):
        # Known by its header already, it is still not taken from an address.
        await scene.client.get(STORY, headers={"Authorization": f"Bearer {lasting}"})
        answer = await scene.client.get(f"{LIVE}?{query}", headers=headers)
        assert (answer.status, answer.code) == (status, code), query
    for path in (STORY, f"{STORY}/comments"):
        assert (await scene.client.get(f"{path}?access_token={brief}")).code == "bad-query"


async def test_a_stream_has_the_headers_of_every_answer(scene: Scene) -> None:
    given = {"origins": ["https://site.example"]}
    settled = await scene.client.send("PATCH", f"{S}/settings", given, sub="root", roles=("admin",))
    assert settled.status == 200
    await scene.post("a text")
    async with scene.listen(headers={"Origin": "https://elsewhere.example", "X-Request-ID": "r-1"}) as stream:
        headers = stream.answer.headers
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers["X-Request-ID"] == "r-1"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "no-store" in headers["Cache-Control"]
        assert headers["Threadlog-Version"] == "1"
    token = scene.client.token("ann", exp=int(time.time()) + 60)
    for origin, allowed in (
        ("https://elsewhere.example", None),
        ("https://site.example", "https://site.example"),
    ):
        for query, signed in (("", scene.bearer("ann")), (f"?access_token={token}", {})):
            async with scene.listen(query, headers={"Origin": origin, **signed}) as stream:
                assert stream.answer.headers.get("Access-Control-Allow-Origin") == allowed


# --- how it is answered --------------------------------------------------------------------------------


async def test_polling_answers_at_once_with_what_there_is(scene: Scene) -> None:
    assert await scene.poll() == {"items": [], "after": 0}
    first = await scene.client.post("not even projected")
    assert await scene.poll() == {"items": [], "after": 1}
    await scene.post("another")
    polled = await scene.poll("?after=0")
    assert [(one["id"], one["event"]) for one in polled["items"]] == [
        (1, "CommentPosted"),
        (2, "CommentPosted"),
    ]
    assert polled["items"][0]["data"]["comment"]["id"] == first["id"]
    assert polled["after"] == 2
    assert await scene.poll("?after=2") == {"items": [], "after": 2}
    [reset] = (await scene.poll("?after=3"))["items"]
    assert reset == {"id": 2, "event": "reset", "data": {"thread": {"comments": 2, "version": 2}}}


async def test_polling_comes_by_all_events_a_hundred_at_a_time(scene: Scene) -> None:
    await asyncio.gather(*(scene.client.post(f"text {number}") for number in range(230)))
    seen: list[int] = []
    after, asked = 0, 0
    while after < 230:
        polled = await scene.poll(f"?after={after}")
        seen += [one["id"] for one in polled["items"]]
        after, asked = polled["after"], asked + 1
    assert seen == list(range(1, 231))
    assert asked == 3


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, "text/event-stream"),
        ("*/*", "text/event-stream"),
        ("text/event-stream", "text/event-stream"),
        ("text/event-stream, application/json", "text/event-stream"),
        ("application/json", "application/json"),
        ("application/json, text/event-stream;q=0.5", "application/json"),
        ("application/*", "application/json"),
        ("text/html", None),
        ("text/html, */*;q=0", None),
    ],
)
async def test_accept_decides_between_a_stream_and_polling(
    scene: Scene, accept: str | None, media: str | None
) -> None:
    head = f"GET {LIVE} HTTP/1.0\r\nHost: x\r\n" + (f"Accept: {accept}\r\n" if accept else "")
    reader, writer = await asyncio.open_connection(scene.client.running.host, scene.client.running.port)
    writer.write(f"{head}\r\n".encode())
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    if media is None:
        assert " 406 " in answer
    else:
        assert " 200 " in answer
        assert f"Content-Type: {media}" in answer


async def test_head_ends_at_once(scene: Scene) -> None:
    await scene.post("a text")
    answer = await scene.client.send("HEAD", LIVE)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    assert answer.version == 1


async def test_an_old_client_gets_a_stream_without_chunks(scene: Scene) -> None:
    reader, writer = await asyncio.open_connection(scene.client.running.host, scene.client.running.port)
    writer.write(f"GET {LIVE} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert await reader.readuntil(b"\n\n") == b"retry: 3000\n\n"
    await scene.post("a text")
    block = await reader.readuntil(b"\n\n")
    assert block.startswith(b"id: 1\nevent: CommentPosted\ndata: {")
    writer.close()


def test_the_description_names_both_ways_to_be_answered() -> None:
    paths = json.loads(describe(ROUTES))["paths"]
    content = paths["/v1/sites/{site}/threads/{thread}/live"]["get"]["responses"]["200"]["content"]
    assert set(content) == {"text/event-stream", "application/json"}
