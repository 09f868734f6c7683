"""`threadlog replay` as an operator has it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from aiohttp import ClientTimeout
from typer.testing import CliRunner

from services.ops.cli import app
from services.ops.commands.replay import more_processes
from services.ops.exits import Exit
from services.wiring import Resources
from services.workers.run import environment
from tests.processes import Threadlog, threadlog, until
from tests.replaying import builds, damage, differences, dump, fill, writing
from tests.writer import stream_of

THREADS = 70


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path_factory.mktemp("replay")) as started:
        yield started


Ended = tuple[int, str, str]
"""Exit code, standard output and standard error."""


async def asked(running: Threadlog, *arguments: str, code: Exit = Exit.DONE) -> Any:
    """What the verb, run in a process of its own, says with --json when it ends with `code`."""
    return parsed(await running.run("replay", *arguments, "--json"), code)


async def invoked(running: Threadlog, *arguments: str) -> Ended:
    """The verb run in this process, for what only looks, and costs no process."""
    runner, variables = CliRunner(), environment(running.settings)
    ended = await asyncio.to_thread(runner.invoke, app, ["replay", *arguments], env=variables)
    return ended.exit_code, ended.stdout, ended.stderr


def parsed(ended: Ended, code: Exit = Exit.DONE) -> Any:
    """What was said with --json."""
    assert ended[0] == code, ended
    return json.loads(ended[1])


async def everybody_is_told(running: Threadlog) -> None:
    """Wait until the notifier has come to the end of the log, and the sweeper has seen it there."""

    async def behind() -> int:
        return int(
            await running.parts.pool.fetchval(
                """select count(*) from streams s
                left join notifier_checkpoints n on n.stream_id = s.stream_id
                left join lanes l on l.lane = s.lane left join sweeper_checkpoints c on c.lane = s.lane
                where s.key is not null and (n.version is distinct from s.version or c.position < l.head)"""
            )
        )

    await until(behind, "everybody is told of everything", lambda threads: not threads, within=60)


async def test_a_dry_run_shows_what_would_change_and_writes_nothing(running: Threadlog) -> None:
    parts: Resources = running.parts
    async with writing(parts) as writer:
        streams = await fill(writer, 6)
    await asked(running, "--all")
    await parts.pool.execute("update streams set visible = 9 where stream_id = $1", streams[0])
    await parts.pool.execute("delete from streams where stream_id = $1", streams[1])
    await parts.pool.execute("insert into notifier_checkpoints values (gen_random_uuid(), 1)")
    [node] = [key async for key in parts.redis.scan_iter(match=f"tl:*{streams[2].hex}*:n")]
    await parts.redis.hdel(node, b"\0\0\0\2")
    before = await dump(parts)

    found = await asked(running, "--all", "--dry-run", code=Exit.FOUND)
    _, out, _ = await running.run("replay", "--all", "--dry-run")

    assert await dump(parts) == before
    assert (found["threads"], found["events"]) == (6, 30)
    assert found["kinds"].keys() >= {"streams", "notifier_checkpoints", "view nodes"}
    assert found["failed"] == []
    change = next(one for one in found["changes"] if one["thread"] == "thread-0")
    assert (change["path"], change["stored"], change["replayed"]) == ("visible", 9, 3)
    assert "streams visible: 9 would be 3" in out
    assert "6 threads, 30 events; nothing was changed" in out
    await asked(running, "--all", "--differing")
    assert await differences(parts) == []
    assert (await asked(running, "--all", "--dry-run"))["kinds"] == {}


async def test_several_processes_share_one_replay(running: Threadlog) -> None:
    async with writing(running.parts) as writer:
        streams = await fill(writer, THREADS)
    await damage(running.parts, streams, Random(6), 20)
    done = await asked(running, "--all", "--processes", "2")
    assert (done["state"], done["threads"], done["failed"]) == ("done", THREADS, 0)
    assert await differences(running.parts) == []


async def test_status_pause_cancel_and_resume_tell_what_they_did(running: Threadlog) -> None:
    async with writing(running.parts) as writer:
        await fill(writer, 3)

    async def here(*arguments: str) -> Any:
        return parsed(await invoked(running, *arguments, "--json"))

    assert await here("status") == {"replays": []}
    begun = await here("--all", "--workers", "--max-rate", "1000")  # no worker is there
    number = str(begun["replay"])
    status = await here("status", number)
    assert (status["state"], status["workers"], status["max_rate"]) == ("running", True, 1000)
    assert (status["threads"], status["of_threads"], status["of_events"]) == (0, 3, 15)
    assert (await invoked(running, "status", number))[1].endswith(
        "\nno worker is at it: they are busy, or none runs (threadlog worker)\n"
    )
    assert (await invoked(running, "pause", number))[1] == f"replay {number} is paused\n"
    ended, _, err = await invoked(running, "pause", number)
    assert (ended, err) == (Exit.USAGE, f"threadlog: replay {number} is paused\n")
    paused = (await invoked(running, "status", number))[1]
    assert paused.endswith(f"\nnext: threadlog replay resume {number}\n")
    assert (await invoked(running, "resume", number))[0] == Exit.DONE
    assert (await invoked(running, "cancel", number))[1] == f"replay {number} is cancelled\n"
    ended, _, err = await invoked(running, "resume", number)
    assert (ended, err) == (Exit.USAGE, f"threadlog: replay {number} is cancelled\n")
    ended, _, err = await invoked(running, "status", "77")
    assert (ended, err) == (Exit.USAGE, "threadlog: there is no replay 77\n")
    [listed] = (await here("status"))["replays"]
    assert listed["state"] == "cancelled"
    out = (await invoked(running, "status"))[1]
    assert "cancelled" in out


async def test_who_watches_a_replay_that_nobody_works_on_is_told_and_may_leave(running: Threadlog) -> None:
    async with writing(running.parts) as writer:
        await fill(writer, 1)
    number = str(parsed(await invoked(running, "--all", "--workers", "--json"))["replay"])
    watching = running.start("replay", "status", number, "--watch")

    async def said() -> str:
        return watching.said

    await until(said, "it says what is missing", lambda text: "threadlog worker" in text, within=90)
    assert watching.alive
    watching.popen.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(watching.popen.wait, 60) != 0
    assert "Traceback" not in watching.said


async def test_a_process_that_does_not_end_holds_up_no_replay() -> None:
    with more_processes(1, 1, grace=0.1) as [frozen]:
        frozen.send_signal(signal.SIGSTOP)
        os.waitpid(frozen.pid, os.WUNTRACED)  # until it stands still
    assert frozen.returncode == -signal.SIGKILL


async def test_the_workers_do_a_replay_and_status_watches_it(running: Threadlog) -> None:
    async with writing(running.parts) as writer:
        streams = await fill(writer, THREADS)
    running.worker()
    await everybody_is_told(running)
    await damage(running.parts, streams, Random(7), 20)
    begun = await asked(running, "--all", "--workers")
    watched = await asked(running, "status", str(begun["replay"]), "--watch")
    assert (watched["state"], watched["threads"], watched["failed"]) == ("done", THREADS, 0)
    assert set(await builds(running.parts, streams)) == set(streams)
    assert await differences(running.parts) == []


async def test_a_thread_that_cannot_be_replayed_is_told_of(running: Threadlog) -> None:
    async with writing(running.parts) as writer:
        await fill(writer, 2)
        version = await writer.poison("thread-1")
    done = await asked(running, "--site", "blog", code=Exit.FAILED)
    [failure] = done["failures"]
    assert (failure["site"], failure["thread"]) == ("blog", "thread-1")
    assert failure["reason"].startswith(f"version {version}: ")
    ended, out, _ = await running.run("verify")
    assert (ended, out.splitlines()[-1]) == (Exit.FOUND, "next: threadlog dead-letters list")
    one = await asked(running, "--site", "blog", "--thread", "thread-0")
    assert (one["threads"], one["events"]) == (1, 5)
    ended, _, err = await running.run("replay", "--site", "blog", "--thread", "nothing")
    assert ended == Exit.USAGE
    assert "has no events" in err


async def test_a_full_replay_is_silent(running: Threadlog) -> None:
    parts = running.parts
    await running.api()
    async with writing(parts) as writer:
        await fill(writer, 20)
    worker = running.worker()

    async def told() -> list[int]:
        tables = ("notifications", "deliveries", "fanouts", "untold")
        return [int(await parts.pool.fetchval(f"select count(*) from {table}")) for table in tables]

    await everybody_is_told(running)
    # Whoever told of it now would tell these, too.
    await parts.pool.execute(
        "insert into subscriptions (stream_id, author_id, site, level) "
        "select $1, 'f-' || number, 'blog', 'all' from generate_series(1, 200) as number",
        stream_of("thread-1"),
    )
    await parts.pool.execute(
        "insert into webhook_endpoints (endpoint_id, site, url, wrapped) "
        "values (gen_random_uuid(), 'blog', 'https://127.0.0.1:1/hook', '')"
    )
    before = await told()
    assert before[0] > 0
    assert before[1:] == [0, 0, 0]
    token = running.client.token("ann")
    answer = await running.client.session.get(
        f"{running.client.base}/v1/sites/blog/threads/thread-0/live",
        headers={"Authorization": f"Bearer {token}"},
        timeout=ClientTimeout(total=None),
    )
    pubsub = parts.redis.pubsub()
    await pubsub.psubscribe("*")
    assert (await pubsub.get_message(timeout=30) or {})["type"] == "psubscribe"
    try:
        for how in ((), ("--workers",), ("--differing",)):
            await parts.pool.execute("update comments set up = 5")
            done = await asked(running, "--all", *how)
            await asked(running, "status", str(done["replay"]), "--watch")
        # The replays have ended: what is sent now comes behind all that they would have sent.
        posted = await running.client.post("thread-0", "and now somebody speaks", sub="dee")
        event = b""
        while b"data:" not in event:
            event = await asyncio.wait_for(answer.content.readuntil(b"\n\n"), 60)
        assert posted.json["id"].encode() in event
        message = await until(lambda: pubsub.get_message(timeout=0.1), "somebody is told")
        assert message["channel"] == f"tl:live:{{{stream_of('thread-0').hex}}}".encode()
        assert message["data"] == str(posted.version).encode(), "and of nothing before it"
        assert await told() == before
    finally:
        answer.close()
        await pubsub.aclose()  # type: ignore[no-untyped-call]
    assert worker.alive
    assert await differences(parts) == []
