"""`verify` finds whatever is not as the log has it and names where it lies; a replay repairs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

import pytest
from asyncpg import Record

from services.core.page import PageRequest, Row
from services.projection.wholecheck import WholeCheck
from services.readmodel import keys
from services.readmodel.frames import Frames, place
from services.readmodel.records import Head
from services.wiring import Resources, resources
from tests.databases import Databases
from tests.talk import Talk, settings_of, talking


@dataclass(slots=True)
class Scene:
    """A thread with a bit of everything, its view built: a root with a chain of replies below it, one edited,
    one deleted, one hidden by two reports."""

    parts: Resources
    talk: Talk
    build: str = ""
    id_of: dict[str, UUID] = field(default_factory=dict)
    posted_at: dict[str, int] = field(default_factory=dict)

    async def play(self) -> None:
        talk = self.talk
        self.id_of["root"] = await talk.post("ann", "the root", title="A talk")
        self.id_of["reply"] = await talk.post("bob", "a reply", to=self.id_of["root"])
        self.id_of["edited"] = await talk.post("cem", "a leaf", to=self.id_of["reply"])
        self.id_of["deleted"] = await talk.post("ann", "taken back", to=self.id_of["root"])
        self.id_of["hidden"] = await talk.post("ann", "not nice")
        await talk.edit(self.id_of["edited"], "a *leaf*", author="cem")
        await talk.delete(self.id_of["deleted"])
        await talk.vote(self.id_of["root"], 1, author="bob")
        await talk.vote(self.id_of["root"], -1, author="cem")
        await talk.vote(self.id_of["edited"], 1, author="dee")
        await talk.vote(self.id_of["edited"], 0, author="dee")
        await talk.report(self.id_of["hidden"], author="bob")
        await talk.report(self.id_of["hidden"], author="cem")
        await self.parts.projector.advance(talk.stream_id)
        await self.look()
        for name, comment_id in self.id_of.items():
            one = await self.parts.views.comment(talk.stream_id, comment_id)
            assert one is not None
            assert one.picked is not None
            self.posted_at[name] = one.picked.posted

    async def look(self) -> None:
        """Which build the view is, by now."""
        head = await self.parts.views.head(self.talk.stream_id)
        assert head is not None
        self.build = head.build

    @property
    def nodes(self) -> str:
        return keys.nodes(self.talk.stream_id, self.build)

    def place(self, name: str) -> bytes:
        """A comment's posting version, as the view has it."""
        return keys.posted(self.posted_at[name])

    def children(self, name: str, of: Literal["order", "best", "controversial", "replies"]) -> bytes:
        """The list of the replies to a comment, of the roots for ''."""
        posted = self.posted_at[name] if name else 0
        return keys.children(self.talk.stream_id, self.build, posted, of)

    async def node(self, name: str, old: bytes, new: bytes) -> None:
        """Change a comment's node."""
        stored = await self.parts.redis.hget(self.nodes, self.place(name))
        assert isinstance(stored, bytes)
        frames = Frames()
        raw = frames.unpack(stored)
        assert old in raw
        changed = frames.pack(*place(stored), raw.replace(old, new, 1))
        await self.parts.redis.hset(self.nodes, self.place(name), changed)

    async def byte(self, key: str, field: bytes, at: int, value: int) -> None:
        """Change a byte of what a hash holds."""
        found = await self.parts.redis.hget(key, field)
        assert isinstance(found, bytes)
        stored = bytearray(found)
        assert stored[at] != value
        stored[at] = value
        await self.parts.redis.hset(key, field, bytes(stored))

    async def ranked(self, name: str, of: Literal["best", "controversial", "replies"], by: float) -> None:
        """Move the first of a list, or without `by` take it away."""
        key = self.children(name, of)
        [member] = await self.parts.redis.zrange(key, 0, 0)
        assert isinstance(member, bytes)
        await (self.parts.redis.zincrby(key, by, member) if by else self.parts.redis.zrem(key, member))

    async def head(self, name: str, value: bytes | int) -> None:
        await self.parts.redis.hset(keys.head(self.talk.stream_id), name, value)

    async def sql(self, statement: str, *arguments: object) -> None:
        assert await self.parts.pool.execute(statement, *arguments) in ("UPDATE 1", "DELETE 1", "INSERT 0 1")


@pytest.fixture
async def scene(database_url: str, redis_url: str) -> AsyncIterator[Scene]:
    async with resources(settings_of(database_url, redis_url)) as parts, talking(parts) as talk:
        played = Scene(parts, talk)
        await played.play()
        yield played


@pytest.fixture
def recovered_url(databases: Databases) -> Iterator[str]:
    """A second log, for the same Redis."""
    url = databases.create()
    yield url
    databases.drop(url)


Damage = Callable[[Scene], Awaitable[object]]


def _ids(scene: Scene) -> str:
    return keys.ids(scene.talk.stream_id, scene.build)


def _descendants(scene: Scene) -> str:
    return keys.descendants(scene.talk.stream_id, scene.build)


def _overlay(scene: Scene) -> str:
    return keys.overlay(scene.talk.stream_id, scene.build)


THREAD = "update streams set {} where key = 'talk'"
META = b'["blog","talk","A talk",null,"client",false,%d]'

DAMAGES: dict[str, tuple[str, Damage]] = {
    "a node's text": ("view nodes", lambda s: s.node("reply", b"a reply", b"a rebly")),
    "a node's author": ("view nodes", lambda s: s.node("reply", b'"Bob"', b'"Rob"')),
    "a node's state": ("view nodes", lambda s: s.node("reply", b'"visible"', b'"deleted"')),
    "a node's letter": ("view nodes", lambda s: s.node("reply", b'v"id', b'd"id')),
    "a node's depth": ("view nodes", lambda s: s.node("reply", b'"depth":1', b'"depth":2')),
    "a node's parent": ("view nodes", lambda s: s.node("root", b"\0\0\0\0", b"\0\0\0\x01")),
    "a node's times": ("view nodes", lambda s: s.node("root", b'"created_at":"2', b'"created_at":"1')),
    "a node's votes up": ("view nodes", lambda s: s.node("root", b'"up":1', b'"up":2')),
    "a node's votes down": ("view nodes", lambda s: s.node("root", b'"down":1', b'"down":0')),
    "a node's version": ("view nodes", lambda s: s.node("root", b'"version":', b'"version":1')),
    "a node's place": ("view nodes", lambda s: s.byte(s.nodes, s.place("root"), 3, 7)),
    "a node's place in time": ("view nodes", lambda s: s.byte(s.nodes, s.place("root"), 4, 7)),
    "a node in shreds": (
        "view nodes",
        lambda s: s.parts.redis.hset(s.nodes, s.place("reply"), b"\0\0\0\x02no"),
    ),
    "a node lost": ("view nodes", lambda s: s.parts.redis.hdel(s.nodes, s.place("edited"))),
    "a node too many": ("view nodes", lambda s: s.parts.redis.hset(s.nodes, b"1", b"one")),
    "the order of replies": (
        "view order",
        lambda s: s.parts.redis.zincrby(s.children("root", "order"), 1, s.place("reply")),
    ),
    "the order of roots": (
        "view order",
        lambda s: s.parts.redis.zincrby(s.children("", "order"), -1, s.place("root")),
    ),
    "a reply lost from the order": (
        "view order",
        lambda s: s.parts.redis.zrem(s.children("reply", "order"), s.place("edited")),
    ),
    "a stranger in the order": (
        "view order",
        lambda s: s.parts.redis.zadd(s.children("root", "order"), {s.place("hidden"): 5}),
    ),
    "a score by votes": ("view best", lambda s: s.ranked("", "best", 1e-9)),
    "a score by votes lost": ("view best", lambda s: s.ranked("", "best", 0)),
    "a score where nobody voted": (
        "view best",
        lambda s: s.parts.redis.zadd(s.children("root", "best"), {bytes(8) + s.place("reply"): -0.5}),
    ),
    "a score by dispute": ("view controversial", lambda s: s.ranked("", "controversial", 1)),
    "a score by dispute lost": ("view controversial", lambda s: s.ranked("", "controversial", 0)),
    "a score by replies": ("view replies", lambda s: s.ranked("", "replies", -1)),
    "a score by replies lost": ("view replies", lambda s: s.ranked("root", "replies", 0)),
    "an id that leads elsewhere": (
        "view ids",
        lambda s: s.parts.redis.hset(_ids(s), s.id_of["reply"].bytes, s.place("root")),
    ),
    "an id lost": ("view ids", lambda s: s.parts.redis.hdel(_ids(s), s.id_of["reply"].bytes)),
    "an id too many": ("view ids", lambda s: s.parts.redis.hset(_ids(s), bytes(16), s.place("root"))),
    "an id cut short": ("view ids", lambda s: s.parts.redis.hset(_ids(s), b"short", s.place("root"))),
    "a count of descendants": (
        "view descendants",
        lambda s: s.byte(_descendants(s), s.place("root"), 7, 9),
    ),
    "a count of replies": ("view descendants", lambda s: s.byte(_descendants(s), s.place("root"), 3, 9)),
    "the lists that there are": (
        "view descendants",
        lambda s: s.byte(_descendants(s), s.place("root"), 8, 1),
    ),
    "the first replies": ("view descendants", lambda s: s.byte(_descendants(s), s.place("root"), 12, 9)),
    "descendants of a leaf": (
        "view descendants",
        lambda s: s.parts.redis.hset(_descendants(s), s.place("edited"), b"\0\0\0\1\0\0\0\1\0"),
    ),
    "descendants lost": (
        "view descendants",
        lambda s: s.parts.redis.hdel(_descendants(s), s.place("reply")),
    ),
    "another in the overlay": (
        "view overlay",
        lambda s: s.parts.redis.hset(_overlay(s), s.place("hidden"), "eve"),
    ),
    "one more in the overlay": (
        "view overlay",
        lambda s: s.parts.redis.hset(_overlay(s), s.place("root"), "ann"),
    ),
    "the overlay lost": ("view overlay", lambda s: s.parts.redis.delete(_overlay(s))),
    "the head's size": ("view size", lambda s: s.head("size", b"5 5 2 1 2 1 1 2")),
    "the head's counts": ("view head", lambda s: s.head("meta", META % 7)),
    "the head's title": ("view head", lambda s: s.head("meta", META.replace(b"A talk", b"No talk") % 3)),
    "the head's hash": ("view head", lambda s: s.head("hash", bytes(32))),
    "a head ahead of the log": ("view head", lambda s: s.head("version", 99)),
    "the stream's count of visible comments": ("streams", lambda s: s.sql(THREAD.format("visible = 7"))),
    "the stream's title": ("streams", lambda s: s.sql(THREAD.format("title = 'No talk'"))),
    "the stream closed": ("streams", lambda s: s.sql(THREAD.format("closed = true"))),
    "a comment's state": (
        "comments",
        lambda s: s.sql("update comments set state = 'visible' where comment_id = $1", s.id_of["hidden"]),
    ),
    "a comment's author": (
        "comments",
        lambda s: s.sql("update comments set author_id = 'eve' where comment_id = $1", s.id_of["reply"]),
    ),
    "a comment's weight of reports": (
        "comments",
        lambda s: s.sql("update comments set report_weight = 0 where comment_id = $1", s.id_of["hidden"]),
    ),
    "a comment's votes up": (
        "comments",
        lambda s: s.sql("update comments set up = 7 where comment_id = $1", s.id_of["root"]),
    ),
    "a comment's votes down": (
        "comments",
        lambda s: s.sql("update comments set down = down + 1 where comment_id = $1", s.id_of["edited"]),
    ),
    "a comment's path": (
        "comments",
        lambda s: s.sql("update comments set path = '' where comment_id = $1", s.id_of["edited"]),
    ),
    "a comment lost": (
        "comments",
        lambda s: s.sql("delete from comments where comment_id = $1", s.id_of["edited"]),
    ),
    "a report's version": (
        "reports",
        lambda s: s.sql("update reports set version = 1 where reporter_id = 'bob'"),
    ),
    "a report lost": ("reports", lambda s: s.sql("delete from reports where reporter_id = 'bob'")),
    "a vote's value": ("votes", lambda s: s.sql("update votes set value = -1 where voter_id = 'bob'")),
    "a vote's version": ("votes", lambda s: s.sql("update votes set version = 1 where voter_id = 'bob'")),
    "a vote lost": ("votes", lambda s: s.sql("delete from votes where voter_id = 'cem'")),
    "a withdrawn vote lost": ("votes", lambda s: s.sql("delete from votes where voter_id = 'dee'")),
}


async def test_what_nobody_touched_is_as_the_log_has_it(scene: Scene) -> None:
    assert await scene.parts.verifier.thread(scene.talk.stream_id) == []
    assert (await scene.parts.replayer.replay(scene.talk.stream_id)).rows == 0
    assert await scene.parts.verifier.thread(scene.talk.stream_id) == []


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in DAMAGES.values()}))
async def test_any_damage_is_named_by_kind_and_repaired_by_a_replay(scene: Scene, kind: str) -> None:
    stream_id, verifier = scene.talk.stream_id, scene.parts.verifier
    intact = await everything(scene)
    for damage, (kind_of_it, inflict) in DAMAGES.items():
        if kind_of_it != kind:
            continue
        await inflict(scene)
        found = await verifier.thread(stream_id)
        assert kind in {difference.kind for difference in found}, (damage, found)
        place = {difference.kind.partition(" ")[0] for difference in found}
        assert place == {kind.partition(" ")[0]}, (damage, found)
        assert await verifier.thread(stream_id) == found, f"{damage}: verify writes nothing"
        replayed = await scene.parts.replayer.replay(stream_id)
        assert replayed.rows == (0 if kind.startswith("view") else 1), damage
        assert await verifier.thread(stream_id) == [], damage
        assert await everything(scene) == intact, damage
        await scene.look()


async def everything(scene: Scene) -> tuple[Head, list[Row], list[list[Record]]]:
    """All that is derived of the thread, its build's name left out."""
    stream_id = scene.talk.stream_id
    head = await scene.parts.views.head(stream_id)
    assert head is not None
    rows = {row.key: row async for row in scene.parts.views.dump(stream_id, head.build)}
    tables = [
        await scene.parts.pool.fetch(f"select * from {table} where stream_id = $1 order by 1, 2", stream_id)
        for table in ("streams", "comments", "reports", "votes")
    ]
    return replace(head, build=""), sorted(rows.values(), key=str), tables


@pytest.mark.parametrize("column", ["settings", "version"])
async def test_a_sites_own_stream_is_compared_too(scene: Scene, column: str) -> None:
    value = {"settings": "'{}'", "version": "0"}[column]
    site = await scene.parts.sites.get("blog")
    assert site is not None
    assert await scene.parts.verifier.site(site.stream_id) == []
    await scene.sql(f"update streams set {column} = {value} where stream_id = $1", site.stream_id)
    found = await scene.parts.verifier.site(site.stream_id)
    assert {difference.kind for difference in found} == {"streams"}


@pytest.mark.parametrize("more", [-2, 0, 3])
async def test_a_view_of_another_history_is_built_again(
    scene: Scene, recovered_url: str, redis_url: str, more: int
) -> None:
    """As after a recovery to a point in time: the log has other events at the versions that the view has
    seen, or none, or went on from there."""
    before = await scene.parts.views.head(scene.talk.stream_id)
    assert before is not None
    async with (
        resources(settings_of(recovered_url, redis_url)) as recovered,
        talking(recovered) as talk,
    ):
        for number in range(before.version + more):
            await talk.post("eve", f"another history, {number}")
        head = await recovered.projector.advance(talk.stream_id)
        assert head is not None
        assert (head.version, head.hash) == await recovered.log.head(talk.stream_id)
        assert head.version == before.version + more
        assert head.build != before.build
        assert await recovered.verifier.thread(talk.stream_id) == []
        page = await recovered.reader.page(talk.stream_id, PageRequest(), head.version)
        assert len(page.selection.picked) == head.version


async def test_a_view_of_a_thread_that_was_never_written_goes(
    scene: Scene, recovered_url: str, redis_url: str
) -> None:
    async with resources(settings_of(recovered_url, redis_url)) as recovered:
        assert await recovered.projector.advance(scene.talk.stream_id) is None
        assert await recovered.views.head(scene.talk.stream_id) is None


async def test_rows_that_no_event_made_are_found_and_removed(scene: Scene) -> None:
    await scene.sql(
        "insert into comments select gen_random_uuid(), stream_id, 900, 0, 0, 'eve', null, '', 'visible', 1, "
        "now(), null, null, 900, 900, 0, '' from streams where key is not null"
    )
    await scene.sql(
        "insert into reports select gen_random_uuid(), 'eve', stream_id, 901 from streams "
        "where key is not null"
    )
    await scene.sql(
        "insert into votes select gen_random_uuid(), 'eve', stream_id, 1, 902 from streams "
        "where key is not null"
    )
    verifier, replayer = scene.parts.verifier, scene.parts.replayer
    whole = WholeCheck(verifier, scene.parts.views)
    assert {one.kind async for one in whole.differences()} == {"comments", "reports", "votes"}
    assert await replayer.remove_strays() == 3 * 1
    assert [one async for one in whole.differences()] == []
    assert await verifier.thread(scene.talk.stream_id) == []
