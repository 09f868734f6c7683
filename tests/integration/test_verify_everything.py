"""`verify` finds one changed element in every kind of key and every derived column that there is.

Nothing is listed here but what is not derived, each with the reason: a table, a column or a kind of key that
is added later is damaged like all others, and fails until `verify` finds it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import asyncpg
import pytest

from services.core.addresses import thread_stream_id
from services.errors import PoisonEvent
from services.eventlog.checkpoints import DeadLetters, LaneCheckpoints, Projection
from services.eventlog.snapshots import Snapshots
from services.eventlog.state import Difference
from services.ops.choosing import Choice
from services.ops.commands.verify import compare
from services.ops.differences import Told
from services.projection import snapshotting
from services.projection.snapshotting import SnapshotWriter
from services.readmodel import keys
from services.wiring import Resources, reading
from services.workers.notifier import Notifier
from tests.integration.api_client import SITE, Client, S
from tests.integration.erasing import erased, erasing_client

KEY = "talk"
T = f"{S}/threads/{KEY}"

NOT_DERIVED_TABLES = {
    "events": "the log itself: --chain checks it",
    "database_facts": "made with the database",
    "derived_secrets": "secrets: the truth about them is in this table",
    "author_keys": "keys: the truth about them is in this table",
    "site_secrets": "secrets: the truth about them is in this table",
    "server_keys": "keys: the truth about them is in this table",
    "idempotency": "MACs of what clients sent, which no event holds; gone after 30 days",
    "discarded_letters": "what operators decided",
    "replays": "what operators asked for",
    "replay_ranges": "how far that is",
    "replay_failures": "what became of it",
    "subscriptions": "what people follow: the truth about it is in this table",
    "preferences": "what people want: the truth about it is in this table",
    "contacts": "where people's mail goes: the truth about it is in this table",
    "untold": "what nobody was to see when the notifier came by, which no event says",
    "fanouts": "who is still to be told: history of what was sent",
    "deliveries": "what was sent, and what is to be",
    "webhook_endpoints": "what sites want to be told of: the truth about it is in this table",
    "site_templates": "a site's own words",
}

NOT_DERIVED_COLUMNS = {
    ("sites", "site"): "a site is added, not recorded",
    ("sites", "created_at"): "as above",
    ("sweeper_checkpoints", "swept_at"): "the time of a look",
    ("notifications", "notification_id"): "drawn when it was told",
    ("notifications", "read_at"): "its reader's",
    ("notifications", "told_in"): "the transaction that told it",
    ("notifications", "mailed_in"): "the mail that it went out with",
    ("dead_letters", "projection"): "who stood before the event, which no event says",
    ("dead_letters", "reason"): "what the release said of it",
    ("dead_letters", "build"): "the release",
    ("dead_letters", "created_at"): "when it was buried",
    ("notifier_checkpoints", "silent"): "what was copied from another log, which told of it",
    ("snapshots", "format"): "those of another format are another release's",
    ("snapshots", "written_at"): "when it was written",
} | {
    ("erasures", column): "what was asked for, and how far it is: the truth about it is in this table"
    for column in (
        *("erasure_id", "number", "site", "author_id", "key_id", "requested_by", "requested_at", "filed_at"),
        *("leased_until", "done_at"),
    )
}

MAY_BE_MISSING = {
    "sites": "it is added, not recorded",
    "erasures": "what was asked for",
    "dead_letters": "the thread is tried again",
    "snapshots": "they may be deleted at any time",
    "sweeper_checkpoints": "the walk begins anew",
}

STRAYS = {
    "streams": "stream_id",
    "comments": "comment_id",
    "reports": "reporter_id",
    "votes": "voter_id",
    "notifier_checkpoints": "stream_id",
    "participants": "stream_id",
    "mentioned": "comment_id",
    "notifications": "recipient_id",
    "lanes": "lane",
    "sweeper_checkpoints": "lane",
    "dead_letters": "stream_id",
    "snapshots": "stream_id",
    "snapshot_segments": "kind",
}
"""What another row of the table differs in."""

NO_STRAYS = {"sites": "added, not recorded", "erasures": "asked for, not recorded"}

NOT_DERIVED_KEYS = {
    "builds": "the register of builds under way",
    "reads": "when views were read",
    "lease": "who builds a view, for seconds",
    "wanted": "that a view is missed",
    "h": "the size of a build that is not yet a view",
}

KIND_OF_LETTER = {
    "head": "view head",
    "n": "view nodes",
    "i": "view ids",
    "d": "view descendants",
    "o": "view overlay",
    "k": "view order",
    "b": "view best",
    "c": "view controversial",
    "r": "view replies",
}

OTHER = {
    "boolean": "not {}",
    "text": "coalesce({}, '') || 'x'",
    "uuid": "gen_random_uuid()",
    "bytea": "case when coalesce(octet_length({0}), 0) = 0 then 'x'::bytea else "
    "set_byte({0}, octet_length({0}) / 2, 255 - get_byte({0}, octet_length({0}) / 2)) end",
    "timestamp with time zone": "coalesce({}, now()) + interval '1 second'",
    "jsonb": "'{{\"guests\": true}}'",
    "ARRAY": "array_append({}, 'x')",
    **dict.fromkeys(("smallint", "integer", "bigint", "double precision"), "coalesce({}, 0) + 1"),
}
"""Another value than the one that is there, by type."""

COLUMNS = """
select c.table_name, c.column_name, c.data_type
from information_schema.columns c join pg_class t on t.oid = to_regclass(quote_ident(c.table_name))
where not t.relispartition and t.relkind in ('r', 'p') and c.table_schema = 'public' and c.table_name !~ '^_'
order by c.table_name, c.ordinal_position
"""


class Found(Told):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(Choice())
        self.found: list[Difference] = []

    def _tell(self, site: str | None, key: str | None, found: list[Difference]) -> None:
        self.found += found

    def _sum_up(self) -> None: ...

    def _identical(self, *, chain: bool) -> None: ...


@dataclass(slots=True)
class Scene:
    """A site on which everything has happened, with all that is derived of it."""

    client: Client
    rows: dict[str, str] = field(default_factory=dict)
    values: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def parts(self) -> Resources:
        return self.client.running.resources

    async def play(self) -> None:
        client, parts = self.client, self.parts
        await erased(client)  # with what was written under the key that was destroyed
        settings = await client.send(
            "PATCH", f"{S}/settings", {"report_threshold": 2}, sub="root", roles=("admin",)
        )
        assert settings.status == 200
        root = (await client.post("the root", sub="bob", at=T))["id"]
        described = await client.send("PATCH", T, {"title": "A talk"}, sub="mod", roles=("moderator",))
        assert described.status == 200
        reply = (await client.post("a reply to @Bob and @[dee]", to=root, sub="cem", at=T))["id"]
        await client.post("below it", to=reply, sub="bob", at=T)
        rude = (await client.post("not nice", sub="cem", at=T))["id"]
        for sub in ("dee", "eve"):
            body = {"reason": "spam"}
            assert (await client.send("POST", f"{T}/comments/{rude}/reports", body, sub=sub)).status == 202
        for sub, value in (("dee", 1), ("cem", -1)):
            vote = await client.send("PUT", f"{T}/comments/{root}/vote", {"value": value}, sub=sub)
            assert vote.status == 200
        stream_id = thread_stream_id(SITE, KEY)
        for name in await parts.log.threads(None):
            await parts.projector.advance(name.stream_id)
            await Notifier(parts.pool, parts.keyring).notify(name.stream_id)
        await SnapshotWriter(parts.log, Snapshots(parts.pool)).bring_up(stream_id)
        # A dead letter, which parks a thread that nothing else is tried on.
        other = next(name for name in await parts.log.threads(None) if name.key == "other")
        [first, *_] = await parts.log.events_after(other.stream_id, 0, 1)
        letters = DeadLetters(parts.pool, "a release")
        await letters.bury(
            Projection.NOTIFICATIONS, PoisonEvent(other.stream_id, 1, first.event_id, "is odd")
        )
        async with parts.pool.acquire() as connection:
            lanes = LaneCheckpoints(cast("asyncpg.Connection[Any]", connection))
            await lanes.move(0, await lanes.head(0))
        await self.keep()

    async def keep(self) -> None:
        """Remember everything, to have it again."""
        for table in {name for name, _, _ in await self.columns()}:
            self.rows[table] = await self.parts.pool.fetchval(f"select json_agg(t) from {table} t") or "[]"
        self.values = await self.stored()

    async def stored(self) -> dict[bytes, bytes]:
        """What Redis holds."""
        names = cast(list[bytes], await self.parts.redis.keys("*"))
        return {name: cast(bytes, await self.parts.redis.dump(name)) for name in names}

    async def columns(self) -> list[tuple[str, str, str]]:
        """Every column of every table: name, and type."""
        return [tuple(row) for row in await self.parts.pool.fetch(COLUMNS)]

    async def restore(self, table: str) -> None:
        """Make a table what it was."""
        async with self.parts.pool.acquire() as connection, connection.transaction():
            await connection.execute("set local session_replication_role = replica")
            await connection.execute(f"delete from {table}")
            await connection.execute(
                f"insert into {table} overriding system value "
                f"select * from json_populate_recordset(null::{table}, $1)",
                self.rows[table],
            )

    async def restore_redis(self) -> None:
        """Make Redis what it was."""
        await self.parts.redis.flushdb()
        for name, value in self.values.items():
            await self.parts.redis.restore(name, 0, value)

    async def sql(self, statement: str) -> None:
        """Change one row behind everybody's back."""
        async with self.parts.pool.acquire() as connection, connection.transaction():
            await connection.execute("set local session_replication_role = replica")
            done = await connection.execute(statement)
        assert done.endswith(" 1"), (statement, done)

    async def verify(self) -> list[Difference]:
        """What `threadlog verify` finds."""
        told = Found()
        async with reading(self.parts) as reads:
            await compare(self.parts, reads, Choice(), told)
        return told.found


@pytest.fixture
async def scene(
    database_url: str, redis_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    monkeypatch.setattr(snapshotting, "LEAST", 4)
    async with erasing_client(database_url, redis_url, broker_url) as client:
        played = Scene(client)
        await played.play()
        yield played


def names_it(found: list[Difference], table: str, column: str = "") -> bool:
    """Whether one of these tells of the table, and of the column where it can."""
    kinds = {"snapshots": {"snapshot", "snapshots"}, "snapshot_segments": {"snapshot", "snapshot_segments"}}
    of_it = [one for one in found if one.kind in kinds.get(table, {table})]
    if "snapshot" in table:
        return bool(of_it)
    rows = ("a row", "no row", "no event")
    return any(column in one.path or one.stored in rows or one.replayed in rows for one in of_it)


async def test_nothing_differs_of_what_nobody_touched(scene: Scene) -> None:
    assert await scene.verify() == []
    for table, rows in scene.rows.items():
        if table not in NOT_DERIVED_TABLES:
            assert rows != "[]", f"{table} holds nothing that could be damaged"
    assert await scene.stored() == scene.values


async def test_a_changed_value_in_every_derived_column_is_found_and_named(scene: Scene) -> None:
    missed: list[str] = []
    for table, column, type_ in await scene.columns():
        if table in NOT_DERIVED_TABLES or (table, column) in NOT_DERIVED_COLUMNS:
            continue
        other = OTHER[type_].format(column)
        where = {"streams": "key = 'talk'", "comments": "state = 'visible'"}.get(table, "true")
        await scene.sql(
            f"update {table} set {column} = {other} where (tableoid, ctid) = "
            f"(select tableoid, ctid from {table} where {where} order by {column} nulls last limit 1)"
        )
        found = await scene.verify()
        if not names_it(found, table, column):
            missed.append(f"{table}.{column}: found {[(one.kind, one.path) for one in found]}")
        await scene.restore(table)
    assert not missed, "\n".join(missed)
    assert await scene.verify() == []


async def test_a_row_too_few_and_a_row_too_many_in_every_derived_table_is_found(scene: Scene) -> None:
    missed: list[str] = []
    for table in sorted(scene.rows.keys() - NOT_DERIVED_TABLES.keys()):
        where = {
            "streams": "where key is not null",
            "notifications": "where reason = 'reply'",  # of the others nobody can say that they must be
        }.get(table, "")
        of_it = f"(tableoid, ctid) = (select tableoid, ctid from {table} {where} limit 1)"
        if table not in MAY_BE_MISSING:
            await scene.sql(f"delete from {table} where {of_it}")
            if not names_it(found := await scene.verify(), table):
                missed.append(f"{table}, a row too few: {found}")
            await scene.restore(table)
        if table not in NO_STRAYS:
            column = STRAYS[table]
            type_ = next(kind for name, one, kind in await scene.columns() if (name, one) == (table, column))
            changed = f"to_jsonb(t) || jsonb_build_object('{column}', {OTHER[type_].format(column)})"
            await scene.sql(
                f"insert into {table} select (jsonb_populate_record(null::{table}, {changed})).* "
                f"from {table} t where {of_it}"
            )
            if not names_it(found := await scene.verify(), table):
                missed.append(f"{table}, a row too many: {found}")
            await scene.restore(table)
    assert not missed, "\n".join(missed)


_KEY = re.compile(
    rb"tl:(?:reads|[^:]+:(?:builds|\{(?P<stream>[0-9a-f]{32})\}:(?:(?P<build>[0-9a-f]{8}):)?(?P<of>[^:]+)(?::.{4})?))",
    re.DOTALL,
)


def kinds_of(names: Iterable[bytes]) -> dict[str, bytes]:
    """A key of each kind that there is, of the talk where it has one."""
    found: dict[str, bytes] = {}
    for name in sorted(names):
        named = _KEY.fullmatch(name)
        assert named is not None, f"a key of no kind: {name!r}"
        kind = named["of"].decode() if named["of"] else name.rpartition(b":")[2].decode()
        if kind not in found or thread_stream_id(SITE, KEY).hex.encode() in name:
            found[kind] = name
    return found


async def test_a_change_in_every_kind_of_key_is_found_and_named(scene: Scene) -> None:
    kinds = kinds_of(scene.values)
    assert kinds.keys() >= KIND_OF_LETTER.keys(), "the scene lacks a kind of key"
    missed: list[str] = []
    for letter, name in kinds.items():
        if letter in NOT_DERIVED_KEYS:
            continue
        named = {"view head", "view size", "view keys"} if letter == "head" else {KIND_OF_LETTER.get(letter)}
        for what, inflict in (await damages(scene, name)).items():
            await inflict()
            before = await scene.stored()
            found = await scene.verify()
            if not {one.kind for one in found} & named:
                missed.append(f"{letter}, {what}: {found}")
            assert await scene.stored() == before, "verify writes nothing"
            await scene.restore_redis()
    assert not missed, "\n".join(missed)
    assert await scene.verify() == []


async def test_a_key_of_no_view_is_found_and_named(scene: Scene) -> None:
    kinds = kinds_of(scene.values)
    for letter in KIND_OF_LETTER.keys() - {"head"}:
        name = kinds[letter]
        named = _KEY.fullmatch(name)
        assert named is not None
        strays = [name.replace(named["build"], b"0123abcd")]
        if letter in keys.LISTS.values():
            strays.append(name[:-4] + keys.posted(9999))
        for stray in strays:
            await scene.parts.redis.restore(stray, 0, scene.values[name])
            assert [(one.kind, one.stored) for one in await scene.verify()] == [("view keys", "a key")], stray
            await scene.parts.redis.delete(stray)
    view = [name for name in scene.values if thread_stream_id(SITE, KEY).hex.encode() in name]
    for name in view:  # a view of a thread that the log does not have
        stray = name.replace(thread_stream_id(SITE, KEY).hex.encode(), bytes(16).hex().encode())
        await scene.parts.redis.restore(stray, 0, scene.values[name])
    assert ("view head", "a view") in {(one.kind, one.stored) for one in await scene.verify()}


async def damages(scene: Scene, name: bytes) -> dict[str, Callable[[], Awaitable[object]]]:
    """What may happen to a key, whatever it holds."""
    redis = scene.parts.redis
    todo: dict[str, Callable[[], Awaitable[object]]] = {
        "lost": partial(redis.delete, name),
        "of another type": partial(redis.set, name, "1"),
    }
    type_ = await redis.type(name)
    if type_ == b"hash":
        values = cast(dict[bytes, bytes], await cast(Awaitable[Any], redis.hgetall(name)))
        for element, value in values.items() if name.endswith(b":head") else list(values.items())[:1]:
            other = value[:-1] + bytes([value[-1] ^ 1]) if value else b"1"
            todo[f"{element!r} changed"] = partial(redis.hset, name, element, other)
            todo[f"{element!r} lost"] = partial(redis.hdel, name, element)
        if not name.endswith(b":head"):
            element, value = next(iter(values.items()))
            todo["one too many"] = partial(redis.hset, name, keys.posted(9999) + element[4:], value)
    else:
        assert type_ == b"zset", f"{name!r} is a {type_!r}"
        [member] = cast(list[bytes], await redis.zrange(name, 0, 0))
        todo["moved"] = partial(redis.zincrby, name, 1, member)
        todo["one lost"] = partial(redis.zrem, name, member)
        todo["one too many"] = partial(redis.zadd, name, {member[:-4] + keys.posted(9999): 5})
    return todo
