"""Every kind of write as a client sends it with an Idempotency-Key, and the lane that it waits for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
from aiohttp import ClientError

from services.eventlog.locks import LockClass
from tests.processes import Answer, Client, Process, S, Threadlog, until

THREAD = f"{S}/threads/talk"
LANE = (int(LockClass.LANE), 0)
_LANE_WAITERS = (
    "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    " and classid = $1 and objid = $2"
    " and database = (select oid from pg_database where datname = current_database())"
)


@dataclass(frozen=True, slots=True)
class Write:
    """One kind of write: how it is sent about a comment, and what it is answered with and leaves."""

    method: str
    path: str
    body: object
    other_body: object
    """For another request with the same key."""
    status: int
    event: str
    by: str
    if_match: str | None = None
    roles: tuple[str, ...] = ()

    def about(self, comment: str) -> str:
        return self.path.format(comment=comment)

    async def send(self, client: Client, comment: str, key: str, body: object = None) -> Answer:
        headers = {"Idempotency-Key": key} | ({} if self.if_match is None else {"If-Match": self.if_match})
        return await client.send(
            self.method,
            self.about(comment),
            self.body if body is None else body,
            sub=self.by,
            roles=self.roles,
            headers=headers,
        )


WRITES = {
    "post": Write(
        "POST", f"{THREAD}/comments", {"body": "once"}, {"body": "another"}, 201, "CommentPosted", "ann"
    ),
    "edit": Write(
        "PATCH",
        f"{THREAD}/comments/{{comment}}",
        {"body": "edited once"},
        {"body": "edited otherwise"},
        200,
        "CommentEdited",
        "ann",
        '"1"',
    ),
    "delete": Write("DELETE", f"{THREAD}/comments/{{comment}}", None, {}, 204, "CommentDeleted", "ann"),
    "vote": Write(
        "PUT", f"{THREAD}/comments/{{comment}}/vote", {"value": 1}, {"value": -1}, 200, "CommentVoted", "bob"
    ),
    "report": Write(
        "POST",
        f"{THREAD}/comments/{{comment}}/reports",
        {"reason": "spam"},
        {"reason": "abuse"},
        202,
        "CommentReported",
        "bob",
    ),
    "decide": Write(
        "POST",
        f"{THREAD}/comments/{{comment}}/decisions",
        {"action": "hide", "reason": "rude"},
        {"action": "hide", "reason": "very rude"},
        200,
        "CommentHidden",
        "mia",
        roles=("moderator",),
    ),
}


async def api(running: Threadlog, **given: object) -> tuple[Process, Client]:
    """Start another API with settings of its own, and a client of it."""
    usual = running.settings
    running.settings = usual.model_copy(update=given)
    process = await running.api()
    running.settings = usual
    return process, replace(running.client)


@asynccontextmanager
async def lane_held(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold the lane as an appender does. The connection is the holder's; what it is given back with, too."""
    holder = await asyncpg.connect(url)
    try:
        await holder.execute("select pg_advisory_lock($1, $2)", *LANE)
        yield holder
    finally:
        await holder.close()


async def waiters(running: Threadlog) -> int:
    """How many appenders stand at the lane's lock."""
    return int(await running.parts.pool.fetchval(_LANE_WAITERS, *LANE))


async def queued(client: Client) -> float:
    """How many commands wait in an API behind the batch that is under way."""
    text = (await client.get("/metrics")).raw.decode()
    (line,) = [line for line in text.splitlines() if line.startswith("threadlog_append_queue_commands ")]
    return float(line.split()[1])


async def events(running: Threadlog) -> Counter[str]:
    """How many events of each kind the log holds, the site's own left out."""
    rows = await running.parts.pool.fetch("select type from events where type <> 'SiteSettingsChanged'")
    return Counter(row["type"] for row in rows)


async def comments(client: Client, count: int) -> list[str]:
    """Post comments; their ids."""
    answers = await asyncio.gather(*(client.post("talk", f"number {n}", sub="ann") for n in range(count)))
    return [str(answer.json["id"]) for answer in answers]


def code_of(answer: Answer) -> str:
    """Which problem a request is answered with."""
    return str(answer.json["type"]).removeprefix("urn:threadlog:problem:")


def told(answer: Answer) -> tuple[Any, ...]:
    """What must be the same in the answers to a request and to its repeat."""
    return (
        answer.status,
        answer.headers.get("Location"),
        answer.headers.get("Threadlog-Version"),
        answer.json.get("id") if answer.raw else None,
    )


async def taken(write: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat a write that may be repeated until it is answered."""

    async def once() -> Answer | None:
        try:
            answer = await write()
        except (ClientError, TimeoutError):
            return None
        assert answer.status in (201, 503), answer
        assert answer.status == 201 or int(answer.headers["Retry-After"]) >= 1
        return answer if answer.status == 201 else None

    answer = await until(once, "it is taken")
    assert answer is not None
    return answer
