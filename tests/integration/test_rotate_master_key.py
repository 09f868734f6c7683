"""The master key is replaced while clients read and write: `threadlog site rotate-master-key`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from services.errors import ConfigurationError, Unavailable
from services.eventlog.appenders import Appenders
from services.eventlog.endpoints import Endpoints
from services.eventlog.keys import Keyring, MasterKey
from services.eventlog.rotation import CARRIED, PAGE, Rotation, settle
from services.eventlog.sites import Sites
from services.ops.cli import app
from services.ops.exits import Exit
from services.settings import Settings
from services.wiring import resources
from services.workers.run import environment
from tests.faults.writes import api
from tests.processes import ROOT, SECRET, Client, S, Threadlog, threadlog, until
from tests.sites import UNLIMITED, set_site
from tests.writer import MASTER_KEY as OLD
from tests.writer import SITE

NEW = b64encode(bytes(range(32, 64))).decode()
BOTH: dict[str, Any] = {"master_key": SecretStr(NEW), "master_key_previous": SecretStr(OLD)}
WRITERS = 3
NEW_ALONE: dict[str, Any] = {"master_key": SecretStr(NEW), "master_key_previous": None}


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=4) as pool:
        yield pool


async def stored(pool: asyncpg.Pool[Any] | asyncpg.Connection[Any]) -> dict[bytes, bytes]:
    """Everything that a master key wraps, by what it is bound to."""
    rows = [
        *await pool.fetch("select key_id as bound, wrapped from author_keys where wrapped is not null"),
        *await pool.fetch("select secret_id as bound, wrapped from site_secrets"),
        *await pool.fetch("select purpose as bound, wrapped from derived_secrets"),
        *await pool.fetch("select endpoint_id as bound, wrapped from webhook_endpoints"),
    ]
    return {
        row["bound"].bytes if isinstance(row["bound"], UUID) else row["bound"].encode(): row["wrapped"]
        for row in rows
    }


async def opened_by(key: str, pool: asyncpg.Pool[Any] | asyncpg.Connection[Any]) -> int:
    """How much of it a key opens by itself."""
    return sum(MasterKey(key).opens(bound, wrapped) for bound, wrapped in (await stored(pool)).items())


async def authors(pool: asyncpg.Pool[Any], count: int) -> dict[str, bytes]:
    """Store keys of so many authors, wrapped by the old key; their secrets."""
    keyring = Keyring(pool, MasterKey(OLD))
    names = [f"author-{number}" for number in range(count)]
    return {name: (await keyring.for_author(SITE, name)).secret for name in names}


def rotation(pool: asyncpg.Pool[Any]) -> Rotation:
    return Rotation(pool, MasterKey(NEW, OLD), [SITE])


# --- what is stored --------------------------------------------------------------------------------------


async def test_everything_is_wrapped_by_the_new_key_and_the_old_one_opens_nothing(
    pool: asyncpg.Pool[Any],
) -> None:
    await Sites(pool, MasterKey(OLD)).add(SITE, SECRET)
    secrets = await authors(pool, PAGE + 10)
    done = await rotation(pool).run()
    assert (done.author_keys, done.site_secrets, done.derived_secrets, done.already) == (
        PAGE + 10,
        1,
        len(CARRIED) + 1,
        0,
    )
    assert await opened_by(OLD, pool) == 0
    assert await opened_by(NEW, pool) == PAGE + 11 + len(CARRIED) + 1
    ring = Keyring(pool, MasterKey(NEW))
    assert (await ring.for_author(SITE, "author-7")).secret == secrets["author-7"]


async def test_the_secrets_of_endpoints_sign_as_before(pool: asyncpg.Pool[Any]) -> None:
    await Sites(pool, MasterKey(OLD)).add(SITE, SECRET)
    endpoints = Endpoints(pool, MasterKey(OLD))
    one = (await endpoints.add(SITE, "https://a.example/")).id
    other = (await endpoints.add(SITE, "https://b.example/")).id
    await endpoints.rotate_secret(SITE, one)

    async def secrets(key: MasterKey) -> list[tuple[bytes, ...]]:
        targets = [await Endpoints(pool, key).target(id_, one) for id_ in (one, other)]
        return [target.secrets for target in targets if target is not None]

    before = await secrets(MasterKey(OLD))
    assert [len(some) for some in before] == [2, 1]
    assert await rotation(pool).total() == 4
    done = await rotation(pool).run()
    assert (done.endpoint_secrets, done.site_secrets) == (3, 1)
    assert await secrets(MasterKey(NEW)) == before
    done = await rotation(pool).run()
    assert (done.endpoint_secrets, done.already) == (0, 4)
    made = await Endpoints(pool, MasterKey(NEW, OLD)).add(SITE, "https://c.example/")
    assert await Endpoints(pool, MasterKey(NEW)).target(made.id, one) is not None


async def test_a_second_run_changes_nothing(pool: asyncpg.Pool[Any]) -> None:
    await authors(pool, 3)
    await rotation(pool).run()
    before = await stored(pool)
    done = await rotation(pool).run()
    assert (done.author_keys, done.site_secrets, done.derived_secrets, done.already) == (0, 0, 0, 3)
    assert await stored(pool) == before


async def test_both_keys_wrap_by_the_one_that_the_database_is_under(pool: asyncpg.Pool[Any]) -> None:
    both = MasterKey(NEW, OLD)
    await Keyring(pool, both).for_author(SITE, "ann")
    assert await opened_by(OLD, pool) == 1, "a process with the old key alone could not read what ann writes"
    await rotation(pool).run()
    await Keyring(pool, both).for_author(SITE, "bob")
    await Sites(pool, both).add(SITE, SECRET)
    assert await opened_by(OLD, pool) == 0


@asynccontextmanager
async def row_held(url: str, author: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """An author's key that is about to change; the connection is the holder's, in its transaction."""
    holder = await asyncpg.connect(url)
    try:
        async with holder.transaction():
            await holder.execute("select from author_keys where author_id = $1 for update", author)
            yield holder
    finally:
        await holder.close()


async def waiting(pool: asyncpg.Pool[Any]) -> int:
    """How many sessions wait for a lock."""
    return int(
        await pool.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and wait_event_type = 'Lock'"
        )
    )


async def test_a_key_that_is_destroyed_while_it_is_wrapped_again_stays_destroyed(
    database_url: str, pool: asyncpg.Pool[Any]
) -> None:
    await authors(pool, 3)
    async with row_held(database_url, "author-1") as erasing:
        run = asyncio.create_task(rotation(pool).run())
        await until(lambda: waiting(pool), "the page waits for the erasure")
        await erasing.execute(
            "update author_keys set wrapped = null, destroyed_at = now() where author_id = 'author-1'"
        )
    await run
    assert await pool.fetchval("select wrapped from author_keys where author_id = 'author-1'") is None
    assert await opened_by(OLD, pool) == 0
    assert await opened_by(NEW, pool) == 2 + len(CARRIED) + 1


async def test_a_key_that_is_being_stored_as_the_database_turns_is_not_left_under_the_old_one(
    database_url: str, pool: asyncpg.Pool[Any]
) -> None:
    storing = await asyncpg.connect(database_url)
    async with storing.transaction():
        await Keyring(one_connection(storing), MasterKey(NEW, OLD)).for_author(SITE, "late")
        run = asyncio.create_task(rotation(pool).run())
        await until(lambda: waiting(pool), "the turn waits for what is being stored")
        assert await pool.fetchval("select count(*) from database_facts where name = 'master_key'") == 0
    await run
    await storing.close()
    assert await opened_by(OLD, pool) == 0


def one_connection(connection: asyncpg.Connection[Any]) -> Any:
    """A connection in the place of a pool: what is asked of it stays in its transaction."""
    return connection


async def test_two_runs_at_once_are_one(database_url: str, pool: asyncpg.Pool[Any]) -> None:
    await authors(pool, 1)
    async with row_held(database_url, "author-0"):
        run = asyncio.create_task(rotation(pool).run())
        await until(lambda: waiting(pool), "the first one is at work")
        with pytest.raises(Unavailable, match="another run"):
            await rotation(pool).run()
    assert (await run).author_keys == 1


@pytest.mark.parametrize("first", [MasterKey(OLD), MasterKey(NEW, OLD)], ids=["old", "both"])
async def test_what_stands_with_clients_outlives_the_key_that_it_was_derived_from(
    pool: asyncpg.Pool[Any], first: MasterKey
) -> None:
    await settle(pool, first)
    purposes = ("idempotency", "cursor", "mail links", f"import authors of {SITE}")
    before = [first.derived(purpose) for purpose in purposes]
    await rotation(pool).run()
    third = b64encode(bytes(range(64, 96))).decode()
    await Rotation(pool, MasterKey(third, NEW), [SITE]).run()
    last = MasterKey(third)
    await settle(pool, last)
    assert [last.derived(purpose) for purpose in purposes] == before
    assert last.derived(f"guests of {SITE}") != first.derived(f"guests of {SITE}")


async def test_a_key_that_is_not_the_database_s_is_refused_though_it_holds_nothing_to_open(
    pool: asyncpg.Pool[Any],
) -> None:
    await pool.execute("insert into database_facts values ('master_key', $1)", MasterKey(NEW).fingerprint)
    with pytest.raises(ConfigurationError, match="not this database's"):
        await settle(pool, MasterKey(OLD))


def test_a_key_that_replaces_none_cannot_be_rotated_to(
    monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str
) -> None:
    monkeypatch.setenv("THREADLOG_DATABASE_URL", database_url)
    monkeypatch.setenv("THREADLOG_REDIS_URL", redis_url)
    monkeypatch.setenv("THREADLOG_MASTER_KEY", NEW)
    answer = CliRunner().invoke(app, ["site", "rotate-master-key"])
    assert answer.exit_code == Exit.USAGE
    assert "THREADLOG_MASTER_KEY_PREVIOUS" in answer.stderr


async def test_the_doctor_says_what_is_left_to_do(
    monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str, pool: asyncpg.Pool[Any]
) -> None:
    for name, value in {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "MASTER_KEY": NEW,
        "MASTER_KEY_PREVIOUS": OLD,
    }.items():
        monkeypatch.setenv(f"THREADLOG_{name}", value)
    await authors(pool, 1)

    async def keys() -> Any:
        answer = await asyncio.to_thread(CliRunner().invoke, app, ["doctor", "--json"])
        return next(one for one in json.loads(answer.stdout) if one["check"] == "keys")

    before = await keys()
    assert (before["ok"], before["next"]) == (False, "threadlog site rotate-master-key")
    await rotation(pool).run()
    assert (await keys())["ok"]


# --- processes -------------------------------------------------------------------------------------------


def command(settings: Settings) -> dict[str, Any]:
    """What starts a rotation as a process of its own."""
    return {
        "args": [sys.executable, "-m", "services.ops.cli", "site", "rotate-master-key", "--json"],
        "env": {**os.environ, **environment(settings)},
    }


async def test_a_rotation_that_was_killed_is_run_again_and_does_nothing_twice(
    database_url: str, redis_url: str, pool: asyncpg.Pool[Any]
) -> None:
    await authors(pool, 2 * PAGE)
    names = await pool.fetch("select author_id from author_keys order by key_id")
    settings = Settings.load(database_url=database_url, redis_url=redis_url, **BOTH)
    given = command(settings)

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *given["args"], cwd=ROOT, env=given["env"], stdout=asyncio.subprocess.PIPE
        )

    async with row_held(database_url, names[-1]["author_id"]):
        first = await start()
        await until(lambda: waiting(pool), "it has come to the second page")
        first.send_signal(signal.SIGKILL)
        await first.wait()
        assert await opened_by(OLD, pool) == PAGE
    second = await start()
    out, _ = await second.communicate()
    assert second.returncode == Exit.DONE
    # The statement that the first one was killed in may have been done by Postgres nevertheless.
    done = json.loads(out)
    assert done["author_keys"] + done["already"] == 2 * PAGE
    assert done["already"] >= PAGE
    assert await opened_by(OLD, pool) == 0


@dataclass(slots=True)
class Load:
    """Ever new authors who write, and read what they wrote at another API; some have themselves erased."""

    clients: list[Client]
    written: dict[str, str] = field(default_factory=dict)
    """The texts of those who stay, by comment."""
    erased: set[str] = field(default_factory=set)
    rounds: Counter[int] = field(default_factory=Counter)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def writing(self, number: int) -> None:
        thread = f"{S}/threads/talk-{number}"
        while not self.enough.is_set():
            turn = self.rounds[number]
            one, other = self.clients[turn % 2], self.clients[(turn + 1) % 2]
            sub, text = f"p-{number}-{turn}", f"by {number}, the {turn}th"
            posted = await one.post(f"talk-{number}", text, sub=sub)
            comment, upto = posted.json["id"], f"min_version={posted.version}"
            assert (await other.get(f"{thread}/comments/{comment}?{upto}")).json["body"] == text
            page = await other.get(f"{thread}/comments?sort=newest&limit=5&{upto}")
            assert text in [shown["body"] for shown in page.json["comments"]]
            if turn % 4 == 3:
                gone = await one.send("DELETE", f"{S}/me", sub=sub)
                assert gone.status == 202, gone
                self.erased.add(comment)
            else:
                self.written[comment] = text
            self.rounds[number] += 1

    async def more(self) -> None:
        """Wait until everybody has written twice more: the second time, to the clients as they are now."""
        before = self.rounds.copy()

        async def came() -> int:
            return min(self.rounds[number] - before[number] for number in range(WRITERS))

        await until(came, "everybody has written more", lambda least: least >= 2, 60.0)

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(self.writing(number))
            await self.more()
            yield
            self.enough.set()


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    """A site that lets guests in. No session but those of the processes knows any key."""
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as running:
        appenders = Appenders(database_url, 1)
        await appenders.start()
        await set_site(appenders, SITE, {**UNLIMITED, "guests": True})
        await appenders.stop()
        await running.parts.pool.close()
        yield running


async def rotate(running: Threadlog, **given: Any) -> tuple[int, str, str]:
    usual = running.settings
    running.settings = usual.model_copy(update=given)
    try:
        return await running.run("site", "rotate-master-key", "--json")
    finally:
        running.settings = usual


async def test_clients_do_not_notice_that_the_master_key_is_replaced(
    running: Threadlog, database_url: str
) -> None:
    old_api, old = await api(running)
    old_worker = running.worker()
    once = {"Idempotency-Key": "once"}
    first = await old.send("POST", f"{S}/threads/talk/comments", {"body": "1"}, sub="ann", headers=once)
    await old.post("talk", "2", sub="ann")
    cursor = (await old.get(f"{S}/threads/talk/comments?limit=1")).json["after"]
    guest = (await old.send("POST", f"{S}/guests", {"name": "Gil"})).json["token"]

    # A process with both keys, beside those that know the old one alone.
    _, new = await api(running, **BOTH)
    load = Load([old, new])
    async with load.under_way():
        code, _, complaint = await rotate(running, **BOTH)
        assert code == Exit.FOUND
        assert "do not know this THREADLOG_MASTER_KEY" in complaint

        # Now all have both.
        running.start("worker", worker_processes=1, worker_threads=4, **BOTH)
        load.clients[:] = [new, new]
        await load.more()
        assert await old_api.stop() == 0
        await old_worker.stop()
        # The sessions of a process that has ended are there for a moment longer.
        _, out, _ = await until(
            lambda: rotate(running, **BOTH), "it is rotated", lambda answer: answer[0] != Exit.FOUND
        )
        await load.more()
    assert json.loads(out)["author_keys"] > 0
    assert await joined_by(guest, new) == 201

    # The new one alone; what the old one opened, nothing opens any more.
    _, last = await api(running, **NEW_ALONE)
    connection = await asyncpg.connect(database_url)
    try:
        assert await opened_by(OLD, connection) == 0
        assert await opened_by(NEW, connection) == len(await stored(connection))
        await until(
            lambda: connection.fetchval("select count(*) from erasures where done_at is null"),
            "the erasures are carried out",
            lambda left: left == 0,
            60.0,
        )
    finally:
        await connection.close()
    for thread in range(WRITERS):
        page = await last.get(f"{S}/threads/talk-{thread}/comments?limit=100")
        while True:
            for one in page.json["comments"]:
                assert one["body"] == load.written.get(one["id"])
                assert (one["id"] in load.erased) == (one["body"] is None)
            if page.json["after"] is None:
                break
            page = await last.get(f"{S}/threads/talk-{thread}/comments?limit=100&after={page.json['after']}")
    again = await last.send("POST", f"{S}/threads/talk/comments", {"body": "1"}, sub="ann", headers=once)
    assert (again.status, again.json["id"]) == (201, first.json["id"])
    rest = await last.get(f"{S}/threads/talk/comments?limit=1&after={cursor}")
    assert rest.json["comments"][0]["body"] == "2"
    assert await joined_by(guest, last) == 401
    with pytest.raises(ConfigurationError, match="not this database's"):
        await started_with(running, OLD)


async def joined_by(token: str, client: Client) -> int:
    """How a guest's comment is answered."""
    sent = {"Authorization": f"Bearer {token}"}
    answer = await client.send("POST", f"{S}/threads/talk/comments", {"body": "as a guest"}, headers=sent)
    return answer.status


async def started_with(running: Threadlog, key: str) -> None:
    """Start what every process stands on with this key alone."""
    async with resources(running.settings.model_copy(update={"master_key": SecretStr(key)})):
        pass
