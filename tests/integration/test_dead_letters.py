"""`threadlog dead-letters`, and what parks a thread: on a real log, real views and real workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.core import thread
from services.core.node import said_in_prose
from services.errors import LetterMoved, PoisonEvent
from services.eventlog.checkpoints import Projection
from services.eventlog.keys import MasterKey
from services.eventlog.sites import Sites
from services.ops.cli import app
from services.ops.exits import Exit
from services.workers.hints import Looked
from services.workers.notifier import Notifier
from services.workers.release import release
from services.workers.run import environment
from tests.following import World, world_of
from tests.planting import planted
from tests.processes import threadlog, until
from tests.writer import MASTER_KEY, SITE, new_id, stream_of

SECRET = b"a-secret-of-at-least-thirty-two-bytes"


@pytest.fixture
async def world(
    database_url: str, redis_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, broker_url) as opened:
        for name, value in environment(opened.settings).items():
            monkeypatch.setenv(name, value)
        sites = Sites(opened.log.pool, MasterKey(MASTER_KEY))
        await sites.add(SITE, SECRET)
        await sites.add("other", SECRET)
        yield opened


async def verb(*arguments: str, code: Exit = Exit.DONE) -> Result:
    """Run `threadlog dead-letters …` to its end, in a loop of its own."""
    result = await asyncio.to_thread(CliRunner().invoke, app, ["dead-letters", *arguments])
    assert result.exit_code == code, result.output
    return result


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


async def parked(world: World, key: str = "t") -> int:
    """Park the view of a thread before its second event, with one more behind it; that event's version."""
    await world.log.post(key, "ann")
    await world.following.project([stream_of(key)], Looked.now())
    version = await world.log.poison(key)
    await world.log.post(key, "bob")
    await world.following.project([stream_of(key)], Looked.now())
    return version


async def unheard(world: World, key: str = "t") -> int:
    """Park the notifications of a thread before a reply that nobody can read; its version."""
    root = await world.log.post(key, "ann")
    version = await world.log.put(key, "ReplyPosted", {"parent_id": "no id", "parent": 1, "depth": 1})
    await world.log.post(key, "bob", root.event_id)
    with pytest.raises(PoisonEvent) as caught:
        await Notifier(world.log.pool, world.log.keyring).notify(stream_of(key))
    await world.letters.bury(Projection.NOTIFICATIONS, caught.value)
    return version


async def letters(world: World) -> list[tuple[str, int, str]]:
    return [(one.projection, one.version, one.build) for one in await world.letters.page()]


async def told(world: World) -> list[str]:
    rows = await world.log.pool.fetch("select recipient_id from notifications order by notification_id")
    return [row["recipient_id"] for row in rows]


async def stands(world: World, key: str = "t") -> tuple[int, bool]:
    """The version of the thread's view, and whether it is marked stale."""
    head = await world.head(key)
    return head.version, head.stale


# --- list and show ----------------------------------------------------------------------------------------


async def test_letters_are_listed_by_site_and_projection(world: World) -> None:
    assert (await verb("list")).stdout == "no dead letters\n"
    assert (await verb("list", "--json")).stdout == ""
    version = await parked(world)
    await unheard(world, "u")
    view, notifications = sorted(
        lines(await verb("list", "--json", code=Exit.FOUND)), key=lambda one: one["thread"]
    )
    assert (view["projection"], view["site"], view["thread"]) == ("view", SITE, "t")
    assert (view["version"], view["type"], view["behind"], view["build"]) == (
        version,
        "CommentDeleted",
        1,
        "1.0",
    )
    assert "no comment" in view["error"]
    assert (notifications["projection"], notifications["thread"], notifications["behind"]) == (
        "notifications",
        "u",
        1,
    )
    for filtered in (["--projection", "view"], ["--projection", "view", "--site", SITE]):
        assert lines(await verb("list", "--json", *filtered, code=Exit.FOUND)) == [view]
    assert (await verb("list", "--site", "other")).stdout == "no dead letters\n"
    await verb("list", "--site", "nobody", code=Exit.USAGE)
    table = (await verb("list", code=Exit.FOUND)).stdout
    assert "CommentDeleted" in table
    assert "ReplyPosted" in table


async def test_a_letter_is_shown_with_its_event_and_what_to_do(world: World) -> None:
    version = await parked(world)
    for _ in range(4):
        await world.log.post("t", "cleo")
    shown = (await verb("show", SITE, "t")).stdout
    event = (await world.letters.page())[0].event_id
    assert f"version {version:,}, event {event}" in shown
    assert "no comment" in shown
    assert "1.0" in shown
    assert f"{version:>6}" in shown
    assert "CommentDeleted" in shown
    assert "behind it wait 5 events" in shown
    assert shown.count("CommentPosted") == 3
    assert "and 2 more" in shown
    assert f"threadlog dead-letters retry {SITE} t" in shown
    assert "discard" not in shown
    (told_,) = lines(await verb("show", SITE, "t", "--json"))
    assert (told_["event"]["version"], told_["event"]["type"]) == (version, "CommentDeleted")
    assert "by *cleo*" in (await verb("show", SITE, "t", "--open")).stdout


async def test_a_letter_of_notifications_shows_the_way_past_it(world: World) -> None:
    await unheard(world, "a thread's key")
    shown = (await verb("show", SITE, "a thread's key")).stdout
    assert """threadlog dead-letters discard blog 'a thread'"'"'s key' --reason WHY""" in shown


async def test_an_event_that_is_no_json_is_shown(world: World) -> None:
    await parked(world)
    await garble(world, "t", 2)
    assert "no JSON" in (await verb("show", SITE, "t")).stdout
    (told_,) = lines(await verb("show", SITE, "t", "--json"))
    assert told_["event"]["data"] is None


async def test_a_thread_without_a_letter_is_none_to_show(world: World) -> None:
    await parked(world)
    await world.log.post("u", "ann")
    for arguments in (["u"], ["t", "--projection", "notifications"], ["nowhere"]):
        for what in ("show", "retry", "discard"):
            why = ["--reason", "because"] if what == "discard" else []
            await verb(what, SITE, *arguments, *why, code=Exit.USAGE)
    assert len(await letters(world)) == 1


# --- retry ------------------------------------------------------------------------------------------------


async def test_what_still_cannot_be_applied_is_parked_again(world: World) -> None:
    version = await parked(world)
    (again,) = lines(await verb("retry", SITE, "t", "--json", code=Exit.FOUND))
    assert (again["became"], again["at"]) == ("parked again", version)
    assert await letters(world) == [("view", version, release())]
    assert await stands(world) == (1, True)
    assert "parked again before version 2: " in (await verb("retry", "--all", code=Exit.FOUND)).stdout


async def test_after_the_fix_a_retry_brings_the_view_up(world: World) -> None:
    version = await parked(world)
    await world.heal("t", version)
    await world.letters.bury(  # the very release of this command has parked it: it is tried all the same
        Projection.VIEW, PoisonEvent(stream_of("t"), version, new_id(), "poison")
    )
    assert "caught up, at version 3" in (await verb("retry", SITE, "t")).stdout
    assert await stands(world) == (3, False)
    assert await letters(world) == []
    assert (await verb("retry", "--all")).stdout == "no dead letters\n"


async def test_a_whole_site_is_tried_again(world: World) -> None:
    healed = [await parked(world, key) for key in ("a", "b")]
    await parked(world, "c")
    for key, version in zip("ab", healed, strict=True):
        await world.heal(key, version)
    became = lines(await verb("retry", SITE, "--json", code=Exit.FOUND))
    assert {one["thread"]: one["became"] for one in became} == {
        "a": "caught up",
        "b": "caught up",
        "c": "parked again",
    }
    assert [await stands(world, key) for key in "abc"] == [(3, False), (3, False), (1, True)]
    for wrong in ([], [SITE, "--all"], ["nobody"]):
        await verb("retry", *wrong, code=Exit.USAGE)


async def test_a_retry_builds_the_view_that_redis_lost(world: World) -> None:
    version = await parked(world)
    await world.redis.flushdb()
    await verb("retry", SITE, "t", code=Exit.FOUND)
    assert await stands(world) == (1, True)
    await world.redis.flushdb()
    await world.heal("t", version)
    await verb("retry", SITE, "t")
    assert await stands(world) == (3, False)


async def test_an_event_of_a_newer_release_is_no_dead_letter_after_a_retry(world: World) -> None:
    version = await parked(world)
    await world.heal("t", version)
    later = await world.log.put("t", "CommentApplauded", {})
    (waits,) = lines(await verb("retry", SITE, "t", "--json", code=Exit.FOUND))
    assert (waits["became"], waits["at"]) == ("waits for a newer release", later)
    assert await stands(world) == (later - 1, True)
    assert await letters(world) == []


async def test_after_the_fix_a_retry_tells_people_once(world: World) -> None:
    version = await unheard(world)
    await verb("retry", SITE, "t", code=Exit.FOUND)
    assert (await letters(world), await told(world)) == ([("notifications", version, release())], [])
    await world.heal("t", version)
    assert "caught up, at version 3" in (await verb("retry", SITE, "t")).stdout
    assert (await letters(world), await told(world)) == ([], ["ann"])


# --- discard ----------------------------------------------------------------------------------------------


async def test_notifications_pass_over_what_is_discarded_and_go_on(world: World) -> None:
    version = await unheard(world)
    await verb("discard", SITE, "t", code=Exit.USAGE)
    await verb("discard", SITE, "t", "--reason", " ", code=Exit.USAGE)
    assert await told(world) == []
    done = await verb("discard", SITE, "t", "--reason", "written by a test")
    assert "caught up, at version 3" in done.stdout
    assert f"discarded: notifications of blog t, version {version}: written by a test" in done.stderr
    assert (await letters(world), await told(world)) == ([], ["ann"])
    (kept,) = lines(await verb("list", "--discarded", "--json"))
    assert (kept["version"], kept["reason"], kept["build"]) == (version, "written by a test", "1.0")
    assert "written by a test" in (await verb("list", "--discarded")).stdout
    assert (await verb("list", "--discarded", "--projection", "view")).stdout == "nothing was discarded\n"


async def test_behind_what_is_discarded_there_may_be_another(world: World) -> None:
    await unheard(world)
    later = await world.log.put("t", "ReplyPosted", {"parent_id": "no id either"})
    (again,) = lines(await verb("discard", SITE, "t", "--reason", "x", "--json", code=Exit.FOUND))
    assert (again["became"], again["at"]) == ("parked again", later)
    assert (await letters(world), await told(world)) == ([("notifications", later, release())], ["ann"])


async def test_a_view_passes_over_nothing(world: World) -> None:
    await parked(world)
    refused = await verb("discard", SITE, "t", "--reason", "it is in the way", code=Exit.USAGE)
    assert f"threadlog dead-letters retry {SITE} t" in refused.stderr
    assert (len(await letters(world)), await stands(world)) == (1, (1, True))
    assert (await verb("list", "--discarded")).stdout == "nothing was discarded\n"


async def test_a_letter_that_has_moved_is_not_discarded(world: World) -> None:
    version = await unheard(world)
    (letter,) = await world.letters.page()
    await world.heal("t", version)
    await Notifier(world.log.pool, world.log.keyring).notify(
        stream_of("t")
    )  # a release that could read it was quicker
    with pytest.raises(LetterMoved):
        await world.letters.discard(letter, "too late")
    assert await world.letters.discarded() == []
    assert (len(await letters(world)), await told(world)) == (1, ["ann"])


# --- what parks a thread ----------------------------------------------------------------------------------


async def garble(world: World, key: str, version: int) -> None:
    """Make an event's payload what no release has written."""
    async with world.log.pool.acquire() as connection, connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute(
            "update events set data = '{' where stream_id = $1 and version = $2", stream_of(key), version
        )


async def test_a_payload_that_cannot_be_decoded_is_poison_and_a_later_version_is_not(world: World) -> None:
    for key in ("garbled", "later"):
        await world.log.post(key, "ann")
        await world.following.project([stream_of(key)], Looked.now())
    version = await world.log.put("garbled", "ThreadClosed", {})
    await garble(world, "garbled", version)
    await world.log.put("later", "ThreadClosed", {}, schema_version=2)
    await world.following.project([stream_of("garbled"), stream_of("later")], Looked.now())
    assert [await stands(world, key) for key in ("garbled", "later")] == [(1, True), (1, True)]
    (letter,) = await world.letters.page()
    assert (letter.stream_id, letter.version) == (stream_of("garbled"), version)
    assert letter.reason.startswith("PayloadInvalid")


async def test_whatever_a_fold_fails_of_it_is_the_event_that_parks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.log.post("t", "ann")
    await world.following.project([stream_of("t")], Looked.now())
    await world.log.put("t", "ThreadClosed", {})
    await world.log.post("u", "ann")

    def fails(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as bug:
        bug.setitem(thread._APPLY, "ThreadClosed", fails)
        await world.following.project([stream_of("t"), stream_of("u")], Looked.now())
        assert (await world.letters.page())[0].reason == "ZeroDivisionError: a bug"
        assert (await stands(world), await world.version("u")) == ((1, True), 1)
    await verb("retry", SITE, "t")
    assert await stands(world) == (2, False)


@pytest.mark.parametrize("first", [True, False], ids=["a new view", "a view that is there"])
async def test_a_text_that_cannot_be_rendered_parks_and_is_quoted_nowhere(
    world: World, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    await world.log.post("t", "ann")
    if not first:
        await world.following.project([stream_of("t")], Looked.now())
    await world.log.post("t", "bob")
    await world.log.post("t", "ann")

    def fails(author_id: str, sealed: bytes) -> tuple[bytes, bytes] | None:
        if b"bob" in sealed:
            raise IndexError(f"a bug with {sealed!r}")
        return said_in_prose(author_id, sealed)

    with monkeypatch.context() as bug:
        bug.setattr("services.projection.fold.said_in_prose", fails)
        await world.following.project([stream_of("t")], Looked.now())
        (letter,) = await world.letters.page()
        assert letter.version == 2
        assert letter.reason.startswith("IndexError at test_dead_letters.py:")
        assert await stands(world) == (1, True)
    await verb("retry", SITE, "t")
    assert (await stands(world), await letters(world)) == ((3, False), [])


# --- with real workers ------------------------------------------------------------------------------------

BUG = """
from services.core import markup
from services.workers import release
real = markup.render
def fails(body):
    if "poison" in body:
        raise RuntimeError("a bug")
    return real(body)
markup.render = fails
release.release = lambda: "0+planted"
"""


async def test_a_bug_parks_its_threads_until_the_next_release(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> None:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as started:
        await started.api()
        with planted(BUG, tmp_path):
            worker = started.worker()
        for name in ("bad", "good"):
            await started.client.post(name, "one", sub="ann")
            await started.shows(name, 1)
            stream_id = started.stream_of(name)
            await until(lambda stream_id=stream_id: started.parts.views.head(stream_id), "a view")  # type: ignore[misc]
        await started.client.post("bad", "# poison", sub="bob")
        fine = await started.client.post("good", "two", sub="bob")
        await started.shows("good", fine.version)
        page = await until(lambda: started.page("bad"), "the page is stale", lambda answer: answer.stale)
        assert (page.version, [one["body"] for one in page.json["comments"]]) == (1, ["one"])
        last = await started.client.post("bad", "three", sub="ann")
        code, out, _ = await started.run("dead-letters", "list", "--json")
        (letter,) = [json.loads(one) for one in out.splitlines()]
        assert (code, letter["thread"], letter["version"], letter["build"]) == (1, "bad", 2, "0+planted")
        assert "poison" not in letter["error"]

        await worker.stop()
        started.worker()
        page = await started.shows("bad", last.version)
        assert [one["html"] for one in page.json["comments"]][1] == "<p><strong>poison</strong></p>"
        await until(
            lambda: started.parts.pool.fetchval("select count(*) from dead_letters"),
            "the letter is gone",
            lambda count: count == 0,
        )
        assert (await started.run("dead-letters", "list"))[0] == 0
