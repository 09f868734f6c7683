"""A backup is restored to a point in time, as docs/operations.md says: the log is shorter then than what the
views, the clients and the file of erased keys have seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis

from services.dev.servers import EmbeddedPostgres
from services.eventlog.migrate import migrate
from services.ops.exits import Exit
from services.pokes import PROJECT_QUEUE, queue_key
from tests.faults.test_failover import base_backup
from tests.logcheck import violations
from tests.processes import Answer, Client, S, Threadlog, threadlog, until

StartPostgres = Callable[..., EmbeddedPostgres]


@asynccontextmanager
async def connected(server: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(server.dsn())
    try:
        yield connection
    finally:
        await connection.close()


async def everything_archived(primary: EmbeddedPostgres) -> None:
    """Wait until the archive holds all that was committed until now."""
    async with connected(primary) as admin:
        segment = await admin.fetchval("select pg_walfile_name(pg_switch_wal())")
        await until(
            lambda: admin.fetchval("select last_archived_wal from pg_stat_archiver"),
            f"{segment} is archived",
            lambda last: last is not None and last >= segment,
        )


async def restored(
    start_postgres: StartPostgres, home: Path, archive: Path, target: datetime
) -> EmbeddedPostgres:
    """The backup in `home`, brought up to `target` from the archive."""
    (home / "postgres" / "data" / "recovery.signal").touch()
    server = start_postgres(
        home,
        {
            "restore_command": f'cp "{archive}/%f" "%p"',
            "recovery_target_time": target.isoformat(),
            "recovery_target_action": "promote",
        },
    )
    async with connected(server) as admin:
        await until(
            lambda: admin.fetchval("select pg_is_in_recovery()"), "it is recovered", lambda still: not still
        )
    return server


async def write(client: Client, thread: str, text: str, sub: str, key: str) -> Answer:
    """Post with an Idempotency-Key."""
    answer = await client.send(
        "POST", f"{S}/threads/{thread}/comments", {"body": text}, sub=sub, headers={"Idempotency-Key": key}
    )
    assert answer.status == 201, answer
    return answer


def bodies(page: Answer) -> list[str | None]:
    return [comment["body"] for comment in page.json["comments"]]


async def test_a_backup_is_restored_to_a_point_in_time(
    start_postgres: StartPostgres, redis_url: str, broker_url: str, tmp_path: Path
) -> None:
    archive, erased_keys = tmp_path / "archive", tmp_path / "erased-keys"
    archive.mkdir(mode=0o777)
    primary = start_postgres(
        tmp_path / "primary", {"archive_mode": "on", "archive_command": f'cp "%p" "{archive}/%f"'}
    )
    await migrate(primary.dsn())
    async with before_the_fall(primary, redis_url, broker_url, tmp_path, erased_keys) as running:
        client = running.client
        first = await write(client, "talk", "by ann", "ann", "talk-1")
        await asyncio.to_thread(base_backup, primary, tmp_path / "restored" / "postgres" / "data")
        await write(client, "talk", "by eve", "eve", "talk-2")
        await write(client, "even", "by ann", "ann", "even-1")
        async with connected(primary) as admin:
            target = await admin.fetchval("select clock_timestamp()")
        await write(client, "talk", "lost, by bob", "bob", "talk-3")
        lost = await write(client, "even", "lost, by bob", "bob", "even-2")
        late = await write(client, "late", "lost, by cem", "cem", "late-1")
        assert (await client.send("DELETE", f"{S}/me", sub="eve")).status == 202
        await running.shows("talk", 4)  # eve's comment is erased
        await running.shows("even", lost.version)
        await running.shows("late", late.version)
        await until(running.parts.views.recency.told, "the workers know which log the views are of")
        await everything_archived(primary)
    primary.stop()
    assert len(erased_keys.read_text().splitlines()) == 1

    server = await restored(start_postgres, tmp_path / "restored", archive, target)
    async with before_the_api(server, redis_url, broker_url, tmp_path, erased_keys) as running:
        await what_stands_in_postgres_went_back_together(server)
        assert await head(running, "talk") == 4
        found = await findings(running)
        assert found["erasures"] == "threadlog erase reapply"
        assert "restore" in found
        code, out, _ = await running.run("erase", "reapply", "--json")
        assert code == Exit.DONE
        assert [one["author_id"] for one in json.loads(out)["erased_again"]] == ["eve"]

        await running.api()
        client = running.client
        again = await write(client, "talk", "by ann", "ann", "talk-1")
        assert again.json["id"] == first.json["id"], "it is in the log, and known by its key"
        other = await write(client, "even", "another, by bob", "bob", "even-2")
        assert (other.version, other.json["id"] != lost.json["id"]) == (lost.version, True)
        assert bodies(await running.page("even"))[-1] == "lost, by bob", "nobody has looked yet"
        # Not by the message about it, which would hide what is tested here.
        async with Redis.from_url(broker_url) as broker:
            await until(lambda: broker.exists(queue_key(PROJECT_QUEUE)), "the message is sent")
            await broker.flushdb()

        running.worker()
        await until(
            lambda: running.page("even"),
            "the view is that of the log, though its version is the same",
            lambda page: bodies(page)[-1] == "another, by bob",
            60.0,
        )
        page = await until(
            lambda: running.page("talk"),
            "what was erased stays erased, and what was lost is gone",
            lambda page: page.version == 3 and page.json["comments"][-1]["state"] == "erased",
            60.0,
        )
        assert bodies(page) == ["by ann", None]
        await until(lambda: running.page("late"), "it was never begun", lambda page: page.version == 0)
        await until(
            lambda: running.run("erase", "--list", "--json"),
            "the erasure is carried out",
            lambda answer: all(one["done_at"] for one in json.loads(answer[1])),
        )
        code, out, complaint = await running.run("verify", "--all", "--chain")
        assert code == Exit.DONE, out + complaint
        assert not {"erasures", "restore", "lag"} & (await findings(running)).keys()
    assert await violations(server.dsn()) == []


@asynccontextmanager
async def before_the_fall(
    primary: EmbeddedPostgres, redis_url: str, broker_url: str, tmp_path: Path, erased_keys: Path
) -> AsyncIterator[Threadlog]:
    """The API and the workers on the server that will be lost."""
    async with threadlog(primary.dsn(), redis_url, broker_url, tmp_path) as running:
        running.settings = running.settings.model_copy(update={"erased_keys_file": erased_keys})
        running.worker()
        await running.api()
        yield running


@asynccontextmanager
async def before_the_api(
    server: EmbeddedPostgres, redis_url: str, broker_url: str, tmp_path: Path, erased_keys: Path
) -> AsyncIterator[Threadlog]:
    """The restored server, with nothing that serves it."""
    folder = tmp_path / "processes"
    folder.mkdir()
    async with threadlog(server.dsn(), redis_url, broker_url, folder) as running:
        running.settings = running.settings.model_copy(update={"erased_keys_file": erased_keys})
        yield running


async def findings(running: Threadlog) -> dict[str, str]:
    """What the doctor finds, and the command that it names for each."""
    _, out, _ = await running.run("doctor", "--json")
    return {one["check"]: one["next"] for one in json.loads(out) if not one["ok"]}


async def head(running: Threadlog, thread: str) -> int:
    """The version of the thread's view; 0 where there is none."""
    head = await running.parts.views.head(running.stream_of(thread))
    return 0 if head is None else head.version


async def what_stands_in_postgres_went_back_together(server: EmbeddedPostgres) -> None:
    """What follows the log in the same database is not ahead of it: there is nothing to set back by hand."""
    async with connected(server) as admin:
        for table in ("notifier_checkpoints", "snapshots", "idempotency"):
            ahead = await admin.fetchval(
                f"select count(*) from {table} t left join streams s using (stream_id)"
                " where t.version > coalesce(s.version, 0)"
            )
            assert ahead == 0, table
        assert await admin.fetchval(
            "select bool_and(c.position <= l.head) from sweeper_checkpoints c join lanes l using (lane)"
        ) in (True, None)
        assert await admin.fetchval("select count(*) from erasures") == 0
