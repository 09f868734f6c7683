"""Exactly once, over HTTP: the same key on two API processes, an API that died before its answer, a command
that Postgres refuses in the middle of a batch."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from aiohttp import ClientError

from services.core.commands import Command
from services.core.thread import MAX_DEPTH
from services.errors import (
    AlreadyReported,
    CommentNotFound,
    CommentNotOpen,
    DecisionNotPossible,
    EditWindowClosed,
    FieldInvalid,
    Forbidden,
    IdempotencyKeyReused,
    NotAuthor,
    OwnComment,
    ParentNotFound,
    ParentNotOpen,
    Refusal,
    RevisionMismatch,
    SiteNotFound,
    ThreadNotOpen,
    TooDeep,
)
from services.eventlog.appender import Appender, Committed
from services.eventlog.batch import Appended
from services.eventlog.keys import Keyring, MasterKey
from tests.factories import Place, Writer, fresh_id, imported, once
from tests.faults.cutting import Cutter, appends
from tests.faults.writes import (
    THREAD,
    WRITES,
    api,
    code_of,
    comments,
    events,
    lane_held,
    queued,
    told,
    waiters,
)
from tests.logcheck import violations
from tests.processes import Process, S, Threadlog, threadlog, until
from tests.writer import MASTER_KEY


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as opened:
        yield opened


# --- the same key at the same moment ---------------------------------------------------------------------

KEYS = 8


async def test_one_key_at_the_same_moment_on_two_processes_writes_once_and_is_answered_alike(
    running: Threadlog,
) -> None:
    _, one = await api(running)
    _, other = await api(running)
    about = {name: await comments(one, KEYS) for name in WRITES}
    before = await events(running)

    async with lane_held(running.settings.database_url):
        pairs = {
            (name, n): [
                asyncio.create_task(write.send(client, about[name][n], f"{name}-{n}"))
                for client in (one, other)
            ]
            for name, write in WRITES.items()
            for n in range(KEYS)
        }
        await until(lambda: waiters(running), "both stand at the lane", lambda count: count == 2)

    for (name, _), pair in pairs.items():
        first, second = [told(answer) for answer in await asyncio.gather(*pair)]
        assert first == second
        assert first[0] == WRITES[name].status
    written = await events(running) - before
    assert written == {write.event: KEYS for write in WRITES.values()}
    assert await violations(running.settings.database_url) == []


async def test_one_key_for_two_requests_at_the_same_moment_takes_one_and_refuses_the_other(
    running: Threadlog,
) -> None:
    _, one = await api(running)
    _, other = await api(running)
    about = {name: await comments(one, KEYS) for name in WRITES}
    before = await events(running)

    async with lane_held(running.settings.database_url):
        pairs = {
            (name, n): [
                asyncio.create_task(write.send(client, about[name][n], f"{name}-{n}", body))
                for client, body in ((one, write.body), (other, write.other_body))
            ]
            for name, write in WRITES.items()
            for n in range(KEYS)
        }
        await until(lambda: waiters(running), "both stand at the lane", lambda count: count == 2)

    for (name, _), pair in pairs.items():
        taken, refused = sorted(await asyncio.gather(*pair), key=lambda answer: answer.status)
        assert (taken.status, refused.status) == (WRITES[name].status, 422), (name, taken, refused)
        assert code_of(refused) == "idempotency-key-reused"
    assert await events(running) - before == {write.event: KEYS for write in WRITES.values()}
    assert await violations(running.settings.database_url) == []


# --- the first died between commit and answer ------------------------------------------------------------


class Betrayer(Cutter):
    """Lets appends through; once `armed` says so, waits until one is committed and kills the `victim` instead
    of passing the answer on."""

    victim: Process

    def __init__(self, url: str, armed: Callable[[], bool]) -> None:
        super().__init__(url, lambda: None)
        self._armed = armed

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._postgres)
        down = asyncio.create_task(self._pass(up_reader, writer))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                if appends(data) and self._armed():
                    down.cancel()
                    await asyncio.gather(down, return_exceptions=True)
                    up_writer.write(data)
                    # What Postgres says of a statement that commits by itself, it says after the commit.
                    await up_reader.readexactly(1)
                    self.victim.kill()
                    break
                up_writer.write(data)
                await up_writer.drain()
        down.cancel()
        up_writer.close()
        writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_a_repeat_on_another_process_is_answered_as_the_first_that_died_after_its_commit(
    running: Threadlog,
) -> None:
    _, other = await api(running)
    about = dict(zip(WRITES, await comments(other, len(WRITES)), strict=True))
    before = await events(running)
    appended = 0

    def armed() -> bool:
        nonlocal appended
        appended += 1
        return appended == 2

    async with Betrayer(running.settings.database_url, armed) as betrayer:
        betrayer.victim, client = await api(running, database_url=betrayer.url)
        async with lane_held(running.settings.database_url):
            decoy = asyncio.create_task(client.post("decoy", "a batch by itself", sub="ann"))
            await until(lambda: waiters(running), "it stands at the lane")
            writes = [
                asyncio.create_task(write.send(client, about[name], f"key-of-{name}"))
                for name, write in WRITES.items()
            ]
            await until(lambda: queued(client), "the rest is the next batch", lambda n: n == len(WRITES))
        assert (await decoy).status == 201
        died = await asyncio.gather(*writes, return_exceptions=True)
    assert not betrayer.victim.alive
    assert [isinstance(answer, ClientError) for answer in died] == [True] * len(WRITES), died

    repeated = {
        name: await write.send(other, about[name], f"key-of-{name}") for name, write in WRITES.items()
    }

    assert {name: answer.status for name, answer in repeated.items()} == {
        name: write.status for name, write in WRITES.items()
    }
    written = await events(running) - before
    assert written == Counter({write.event: 1 for write in WRITES.values()}) + Counter(CommentPosted=1)
    for name, write in WRITES.items():
        event = await running.parts.pool.fetchrow(
            "select event_id, version from events where type = $1 and stream_id = $2"
            " order by version desc limit 1",
            *(write.event, running.stream_of("talk")),
        )
        assert event is not None
        assert repeated[name].version == event["version"], name
        if name == "post":
            assert repeated[name].headers["Location"] == f"{THREAD}/comments/{event['event_id']}"
            assert repeated[name].json["id"] == str(event["event_id"])
    assert await violations(running.settings.database_url) == []


# --- a command that Postgres refuses ---------------------------------------------------------------------


async def test_a_command_that_postgres_refuses_is_a_fault_and_the_rest_of_its_batch_is_taken(
    running: Threadlog,
) -> None:
    process, client = await api(running)
    # A value that no check of ours knows of.
    await running.parts.pool.execute(
        "alter table streams add constraint no_misfortune check (title is distinct from 'Misfortune')"
    )
    titles = ["Misfortune" if n in (3, 11) else f"Page {n}" for n in range(16)]

    async with lane_held(running.settings.database_url):
        decoy = asyncio.create_task(client.post("decoy", "a batch by itself", sub="ann"))
        await until(lambda: waiters(running), "it stands at the lane")
        posts = [
            asyncio.create_task(
                client.send(
                    "POST",
                    f"{S}/threads/page-{n}/comments",
                    {"body": "x", "thread": {"title": title, "url": f"https://blog.example/{n}"}},
                    sub="ann",
                    headers={"Idempotency-Key": f"key-{n}"},
                )
            )
            for n, title in enumerate(titles)
        ]
        await until(lambda: queued(client), "the rest is the next batch", lambda n: n == len(titles))
    assert (await decoy).status == 201
    answers = await asyncio.gather(*posts)

    assert [answer.status for answer in answers] == [500 if t == "Misfortune" else 201 for t in titles]
    assert {code_of(answer) for answer in answers if answer.status == 500} == {"internal"}
    assert process.said.count("a command failed: CheckViolationError 23514") == 2
    assert f"a batch of {len(titles)} failed: CheckViolationError 23514" in process.said
    assert "Misfortune" not in process.said
    assert await events(running) == {"CommentPosted": 15, "ThreadDescribed": 14}
    assert await violations(running.settings.database_url) == []
    # Nothing of the two is kept: once the value is taken, the same request is, too.
    await running.parts.pool.execute("alter table streams drop constraint no_misfortune")
    again = await client.send(
        "POST",
        f"{S}/threads/page-3/comments",
        {"body": "x", "thread": {"title": "Misfortune", "url": "https://blog.example/3"}},
        sub="ann",
        headers={"Idempotency-Key": "key-3"},
    )
    assert again.status == 201


# --- a batch with every kind of refusal ------------------------------------------------------------------

Refused = Callable[["Scene"], Awaitable[Command]]


@dataclass(slots=True)
class Scene:
    """What the commands of a batch are about."""

    talk: Writer
    closed: Writer
    posted: UUID
    """By ann."""
    imported: UUID
    """By ann, years ago."""
    deleted: UUID
    deepest: UUID


async def a_guests_vote(scene: Scene) -> Command:
    return scene.talk.vote(scene.posted, by="guest:who")


async def restored_while_visible(scene: Scene) -> Command:
    return scene.talk.moderate(scene.posted, "restore")


async def with_a_used_key(scene: Scene) -> Command:
    return await scene.talk.post(idempotency=once("used"))


REFUSED: dict[type[Refusal], Refused] = {
    ThreadNotOpen: lambda scene: scene.closed.post(),
    ParentNotFound: lambda scene: scene.talk.reply(fresh_id()),
    ParentNotOpen: lambda scene: scene.talk.reply(scene.deleted),
    TooDeep: lambda scene: scene.talk.reply(scene.deepest),
    CommentNotFound: lambda scene: scene.talk.edit(fresh_id(), "of nobody"),
    CommentNotOpen: lambda scene: scene.talk.edit(scene.deleted, "too late"),
    DecisionNotPossible: restored_while_visible,
    NotAuthor: lambda scene: scene.talk.edit(scene.posted, "not mine", by="bob"),
    OwnComment: lambda scene: scene.talk.report(scene.posted, by="ann"),
    EditWindowClosed: lambda scene: scene.talk.edit(scene.imported, "years later"),
    RevisionMismatch: lambda scene: scene.talk.edit(scene.posted, "unseen", revision=7),
    AlreadyReported: lambda scene: scene.talk.report(scene.posted, by="once"),
    Forbidden: a_guests_vote,
    FieldInvalid: lambda scene: scene.talk.report(scene.posted, reason="boring"),
    IdempotencyKeyReused: with_a_used_key,
}
"""A command for each kind of refusal."""
BEFORE_THE_LOG = {SiteNotFound}
"""Refused before a command is made."""


async def good(scene: Scene, n: int) -> Command:
    """One of three that add an event each."""
    match n % 3:
        case 0:
            return await scene.talk.post(by=f"author-{n}")
        case 1:
            return await scene.talk.reply(scene.posted, by=f"author-{n}")
        case _:
            return scene.talk.vote(scene.posted, by=f"author-{n}")


async def test_a_batch_of_200_with_every_refusal_gives_each_command_its_own_answer(
    database_url: str,
) -> None:
    assert REFUSED.keys() | BEFORE_THE_LOG == set(Refusal.__subclasses__())
    batches: list[Committed] = []
    appender = Appender(database_url, 0, on_committed=batches.append, max_batch=1000)
    await appender.start()
    async with asyncpg.create_pool(database_url, min_size=1, max_size=2) as pool:
        keyring = Keyring(pool, MasterKey(MASTER_KEY))
        talk = Writer(keyring)
        chain = [await talk.post("the root")]
        for _ in range(MAX_DEPTH):
            chain.append(await talk.reply(chain[-1].event_id))
        scene = Scene(
            talk,
            Writer(keyring, Place("blog", "closed")),
            chain[0].event_id,
            fresh_id(),
            fresh_id(),
            chain[-1].event_id,
        )
        before: list[Command] = [
            *chain,
            await talk.post("long ago", event=scene.imported, imported=imported()),
            await talk.post("soon gone", event=scene.deleted, idempotency=once("used", "another request")),
            talk.delete(scene.deleted),
            await talk.report(scene.posted, by="once"),
            scene.closed.change(closed=True),
        ]
        for command in before:
            await appender.submit(command)
        batches.clear()
        head = await pool.fetchval("select head from lanes")

        kinds = list(REFUSED)
        commands: list[Command] = []
        expected: list[type] = []
        while len(commands) < 200:
            n = len(commands)
            if n % 2:
                kind = kinds[n // 2 % len(kinds)]
                commands.append(await REFUSED[kind](scene))
                expected.append(kind)
            else:
                commands.append(await good(scene, n))
                expected.append(Appended)
        answers = await asyncio.gather(*(appender.submit(each) for each in commands), return_exceptions=True)
        await appender.stop()

        assert [type(answer) for answer in answers] == expected
        assert [(batch.commands, len(batch.refusals)) for batch in batches] == [(200, 100)]
        taken = [answer for answer in answers if isinstance(answer, Appended)]
        added = await pool.fetch("select event_id from events where position > $1 order by position", head)
        ids = [row["event_id"] for row in added]
        assert [event.event_id for answer in taken for event in answer.events] == ids
        assert {answer.event_id for answer in taken} <= set(ids)
        assert len(taken) == 100
    assert await violations(database_url) == []
