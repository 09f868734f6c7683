"""`GET /v1/events`: the whole log, every event once, whoever writes meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.eventlog import following
from tests.faults.test_lane_lock import Racers, is_stopped
from tests.integration.api_client import SITE, Answer, Client, S, T, client_of
from tests.processes import threadlog, until
from tests.writer import SITE as BLOG


@pytest.fixture
async def client(two_lane_database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(two_lane_database_url, redis_url, broker_url, unlimited=True) as made:
        yield made


async def operator(client: Client, site: str = SITE) -> dict[str, str]:
    """The headers of an operator."""
    made = await client.running.resources.credentials.add_key(site, ["operator"])
    client.running.api.sites.forget(site)
    return {"Authorization": f"Bearer {made.key}"}


@dataclass(slots=True)
class Reader:
    """Reads the log to its end, again and again."""

    client: Client
    headers: dict[str, str]
    query: str = "limit=7"
    after: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def ask(self) -> int:
        """One request; how many events it brought."""
        cursor = f"&after={self.after}" if self.after else ""
        answer = await self.client.get(f"/v1/events?{self.query}{cursor}", headers=self.headers)
        assert answer.status == 200, answer.raw
        self.after = answer.json["after"]
        self.seen += answer.json["items"]
        return len(answer.json["items"])

    async def read(self) -> list[dict[str, Any]]:
        """All that there is by now."""
        while await self.ask():
            pass
        return self.seen


async def logged(client: Client) -> list[tuple[str, int]]:
    """Stream and version of every event."""
    rows = await client.running.resources.pool.fetch("select stream_id, version from events")
    return [(str(row["stream_id"]), row["version"]) for row in rows]


def wrong(seen: list[dict[str, Any]], log: list[tuple[str, int]]) -> list[str]:
    """What was skipped, told twice, or out of its stream's order."""
    told = [(event["stream"], event["version"]) for event in seen]
    found = [f"{one} was skipped" for one in set(log) - set(told)]
    found += [f"{one} was told {times} times" for one, times in Counter(told).items() if times > 1]
    last: Counter[str] = Counter()
    for stream, version in told:
        if version != last[stream] + 1:
            found.append(f"{stream}: {version} after {last[stream]}")
        last[stream] = version
    return found


async def test_the_whole_log_is_read_page_by_page_as_recorded(client: Client) -> None:
    for number in range(20):
        await client.post(f"number {number}", at=f"{S}/threads/{number % 5}")
    reader = Reader(client, await operator(client))
    seen = await reader.read()
    assert wrong(seen, await logged(client)) == []
    assert {event["type"] for event in seen} == {"SiteSettingsChanged", "CommentPosted"}
    of_thread = await client.get(f"{S}/threads/0/events?limit=1", sub="mia", roles=("moderator",))
    (one,) = of_thread.json["items"]
    assert one in seen
    named = {(event["lane"], event["position"]) for event in seen}
    assert len(named) == len(seen), "lane and position name one event"
    assert {lane for lane, _ in named} == {0, 1}
    assert "opened" not in one
    assert await reader.read() == seen
    await client.post("one more")
    assert await reader.ask() == 1


async def test_events_come_about_in_the_order_of_their_time(client: Client) -> None:
    for number in range(12):
        await client.post(f"number {number}", at=f"{S}/threads/{number}")
    seen = await Reader(client, await operator(client), "limit=5").read()
    times = [event["recorded_at"] for event in seen]
    assert times == sorted(times)
    assert {event["position"] for event in seen} == set(range(1, max(e["position"] for e in seen) + 1))


async def test_one_sites_events_are_found_among_others(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "WINDOW", 4)
    await client.running.api.sites.add("quiz", client.secret)
    quiz = client.token("ann", iss="quiz")
    for number in range(9):
        await client.post(f"number {number}", at=f"{S}/threads/{number}")
        if number % 4 == 3:
            answer = await client.send(
                "POST",
                "/v1/sites/quiz/threads/t/comments",
                {"body": "of the quiz"},
                headers={"Authorization": f"Bearer {quiz}"},
            )
            assert answer.status == 201
    headers = await operator(client)
    of_quiz = await Reader(client, headers, "limit=2&site=quiz").read()
    assert [event["version"] for event in of_quiz] == [1, 2]
    of_site = await Reader(client, headers, f"limit=2&site={SITE}").read()
    assert len(of_site) + len(of_quiz) == len(await logged(client))
    assert not {event["stream"] for event in of_site} & {event["stream"] for event in of_quiz}
    missing = await client.get("/v1/events?site=none", headers=headers)
    assert (missing.status, missing.code) == (404, "site-not-found")


async def test_a_request_looks_at_so_many_events_of_others_and_the_next_goes_on(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "WINDOW", 2)
    monkeypatch.setattr(following, "LOOKED", 4)
    await client.running.api.sites.add("quiz", client.secret)
    for number in range(30):
        await client.post(f"number {number}", at=f"{S}/threads/{number}")
    posted = await client.send(
        "POST",
        "/v1/sites/quiz/threads/t/comments",
        {"body": "of the quiz"},
        headers={"Authorization": f"Bearer {client.token('ann', iss='quiz')}"},
    )
    assert posted.status == 201
    reader = Reader(client, await operator(client), "site=quiz")
    asked = 1
    while not await reader.ask():
        asked += 1
    assert 1 < asked < 32


# --- what is sealed -----------------------------------------------------------------------------------------


async def test_what_is_sealed_is_opened_on_demand_and_not_once_it_is_erased(client: Client) -> None:
    await client.post("a text of ann", sub="ann")
    await client.post("a text of bob", sub="bob")
    headers = await operator(client)
    raw = (await client.get("/v1/events", headers=headers)).raw
    assert b"a text of" not in raw
    opened = {
        event["actor"]: event["opened"] and event["opened"]["body"]
        for event in await Reader(client, headers, "open=1").read()
    }
    assert (opened["ann"], opened["bob"]) == ("a text of ann", "a text of bob")
    assert (await client.send("DELETE", f"{S}/me", sub="ann")).status == 202
    seen = await Reader(client, headers, "open=1").read()
    posted = [event for event in seen if event["type"] == "CommentPosted"]
    shut = {event["actor"]: (event["opened"], event["shut"]) for event in posted}
    assert shut["ann"] == (None, "no key")
    assert shut["bob"][1] is None


async def test_an_operators_reading_of_texts_is_told_in_the_log(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> None:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as started:
        made = await started.parts.credentials.add_key(BLOG, ["operator"])
        process = await started.api()
        await started.client.post("t", "a text of ann", sub="ann")
        headers = {"Authorization": f"Bearer {made.key}", "X-Request-ID": "why-1"}
        shut = await started.client.send("GET", "/v1/events", headers=headers)
        assert (shut.status, "was opened for an operator" in process.said) == (200, False)
        opened = await started.client.send("GET", "/v1/events?open=1", headers=headers)
        assert "a text of ann" in opened.raw.decode()
        (told,) = [line for line in process.said.splitlines() if "was opened for an operator" in line]
        assert "why-1" in told
        assert f"key:{made.id}" in told
        assert "a text of ann" not in process.said


# --- cursors ------------------------------------------------------------------------------------------------


async def refusal(client: Client, query: str, headers: dict[str, str]) -> tuple[int, str]:
    answer: Answer = await client.get(f"/v1/events?{query}", headers=headers)
    return answer.status, answer.code


async def test_a_cursor_is_of_use_to_the_list_that_made_it(client: Client) -> None:
    await client.post("a text")
    headers = await operator(client)
    reader = Reader(client, headers)
    await reader.read()
    good = reader.after
    invalid = (400, "cursor-invalid")
    changed = ("A" if good[5] != "A" else "B").join((good[:5], good[6:]))
    for cursor in ("x", "", changed, good[:-3], good + "AA", "%C3%A9"):
        assert await refusal(client, f"after={cursor}", headers) == invalid, cursor
    assert await refusal(client, f"after={good}&site={SITE}", headers) == invalid
    page = await client.get(f"{T}/comments?limit=1")
    await client.post("another")
    page = await client.get(f"{T}/comments?limit=1")
    assert await refusal(client, f"after={page.json['after']}", headers) == invalid
    assert await refusal(client, f"after={'A' * 1025}", headers) == (400, "bad-query")
    for query in ("limit=0", "limit=1001", "open=yes", "after=x&after=y", "from=1"):
        assert await refusal(client, query, headers) == (400, "bad-query"), query


async def test_a_cursor_ahead_of_a_log_that_was_set_back_is_refused(client: Client) -> None:
    await client.post("a text")
    headers = await operator(client)
    scope, heads = b"log", await client.running.api.log.lanes()
    ahead = client.running.api.cursors.laned(scope, {lane: head + 1 for lane, head in heads.items()})
    assert await refusal(client, f"after={ahead}", headers) == (400, "cursor-invalid")


# --- beside writers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", ["loaded", "appended"])
async def test_nothing_is_skipped_or_told_twice_while_a_writer_stops_in_mid_batch(
    client: Client, two_lane_database_url: str, pause: str
) -> None:
    log = client.running.api.log
    racers = Racers(two_lane_database_url, "held")
    reader, ended = Reader(client, await operator(client), "limit=50"), asyncio.Event()

    async def follow() -> None:
        while not (ended.is_set() and not await reader.ask()):
            await reader.ask()

    following = asyncio.create_task(follow())
    try:
        await racers.start("awake")
        await until(log.lanes, "both lanes are written to", lambda heads: min(heads.values()) > 2)
        frozen = await racers.start("frozen", pause)
        process = psutil.Process(frozen.pid)
        await until(is_stopped(process), "the writer stopped itself in its batch")
        before = await log.lanes()
        await until(log.lanes, "the other lane goes on", lambda heads: heads[1] > before[1] + 3)
        process.resume()
        after = await log.lanes()
        await until(log.lanes, "both go on", lambda heads: heads[0] > after[0] + 5)
        await racers.finish()
    finally:
        racers.kill()
        ended.set()
        await following
    assert len(reader.seen) > 20
    assert wrong(reader.seen, await logged(client)) == []
