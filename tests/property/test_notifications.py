"""Whatever is said, decided and wished, and wherever the notifier's pages are cut: everybody's inbox is
what a plain reference says it must be."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any, Literal
from uuid import UUID

import asyncpg
import orjson
import pytest

from services.core.addresses import site_stream_id, thread_stream_id
from services.core.commands import (
    Action,
    Actor,
    ChangeSettings,
    DeleteComment,
    EditComment,
    Import,
    ModerateComment,
    PostComment,
    VoteComment,
)
from services.errors import Refusal
from services.eventlog.appenders import Appenders
from services.eventlog.keys import Keyring, MasterKey
from services.workers.notifier import Notifier
from tests.hearsay import Comment, Event, Level, Reference, World
from tests.writer import MASTER_KEY, SITE, new_id

PEOPLE = {
    "u-1": ("Ann", "Ann"),
    "u-2": ("Ann Lee", "Bob"),
    "u-3": ("bob",),
    "u-4": ("Cem", "ANN"),
    "u-5": ("Dée",),
    "guest:1": ("Gast",),
    "guest:2": ("Gast",),
    "import:1": ("Ann",),
}
NAMES = ("Ann", "ann lee", "BOB", "Cem", "dée", "Gast", "nobody")
IDS = ("u-1", "u-3", "u-5", "u-77", "guest:1", "import:1")
THREADS = ("one", "two", "three")
REASONS = ("reply", "mention", "follow", "ancestor", "moderation")
STEPS = 120

_VOTES: tuple[Literal[1, -1], ...] = (1, -1)
_LEVELS: tuple[Level | None, ...] = ("all", "mentions", "muted", None)
_LONG_AGO = datetime(2015, 9, 1, tzinfo=UTC)
_DECISIONS: dict[Action, tuple[Literal["show", "hide", "remove"], str]] = {
    "approve": ("show", "visible"),
    "restore": ("show", "visible"),
    "hide": ("hide", "hidden"),
    "remove": ("remove", "removed"),
}


class Killed(BaseException):
    """The process is gone, right after a commit."""


@dataclass(slots=True)
class Play:
    """People who do what comes to their minds, in the log and in the reference alike."""

    pool: asyncpg.Pool[Any]
    appenders: Appenders
    keyring: Keyring
    chance: Random
    world: World
    reference: Reference
    where: dict[UUID, str] = field(default_factory=dict)

    async def step(self) -> None:
        """One thing happens."""
        weighed: list[tuple[int, Callable[[], Any]]] = [
            (10, self.post),
            (4, self.edit),
            (4, self.decide),
            (1, self.delete),
            (1, self.vote),
            (2, self.subscribe),
            (2, self.prefer),
            (1, self.confirm),
            (1, self.set_site),
            (3, self.come_by),
        ]
        [what] = self.chance.choices([do for _, do in weighed], [weight for weight, _ in weighed])
        try:
            await what()
        except Refusal:
            return

    # --- the log ----------------------------------------------------------------------------------------

    def _at(self, thread: str, actor: str, *, moderator: bool = False) -> dict[str, Any]:
        return {
            "site": SITE,
            "stream_id": thread_stream_id(SITE, thread),
            "key": thread,
            "event_id": new_id(),
            "actor": Actor(actor, moderator),
        }

    def _text(self) -> tuple[str, tuple[Any, ...]]:
        """A body and whom it names."""
        body, names = ["so"], []
        for _ in range(self.chance.choice((0, 0, 1, 1, 2, 3))):
            if self.chance.random() < 0.7:
                name = self.chance.choice(NAMES)
                body.append(f"@{name},")
                names.append(("name", name))
            else:
                id_ = self.chance.choice(IDS)
                body.append(f"@[{id_}]")
                names.append(("id", id_))
        return " ".join([*body, f"{self.chance.random()}"]), tuple(names)

    async def post(self) -> None:
        thread, author = self.chance.choice(THREADS), self.chance.choice(list(PEOPLE))
        there = [comment for comment, where in self.where.items() if where == thread]
        parent = self.chance.choice(there) if there and self.chance.random() < 0.8 else None
        imported = author.startswith("import:") or self.chance.random() < 0.05
        name, (body, names) = self.chance.choice(PEOPLE[author]), self._text()
        at = self._at(thread, author)
        key = await self.keyring.for_author(SITE, author)
        id_ = at["event_id"]
        await self.appenders.submit(
            PostComment(
                **at,
                text=key.sealed(id_, at["stream_id"], {"body": body, "name": name}),
                parent_id=parent,
                imported=Import(_LONG_AGO, str(id_)) if imported else None,
            )
        )
        self.where[id_] = thread
        self.world.comments[id_] = Comment(author, parent)
        self.world.logs[thread].append(Event(id_, "post", id_, author, name, names, imported))

    def _some(self) -> tuple[UUID, Comment, str]:
        if not self.where:
            raise Refusal("there is nothing yet")
        comment = self.chance.choice(list(self.where))
        return comment, self.world.comments[comment], self.where[comment]

    async def edit(self) -> None:
        id_, comment, thread = self._some()
        actor = self.chance.choice((comment.author, comment.author, "mod"))
        body, names = self._text()
        at = self._at(thread, actor, moderator=actor == "mod")
        key = await self.keyring.for_author(SITE, comment.author)
        text = key.sealed(at["event_id"], at["stream_id"], {"body": body})
        revision = await self.pool.fetchval("select revision from comments where comment_id = $1", id_)
        await self.appenders.submit(EditComment(**at, comment_id=id_, revision=revision, text=text))
        self.world.logs[thread].append(Event(at["event_id"], "edit", id_, actor, names=names))

    async def decide(self) -> None:
        id_, comment, thread = self._some()
        action: Action = self.chance.choice(
            ("approve", "hide", "hide", "hide", "restore", "restore", "remove")
        )
        actor = self.chance.choice(("mod", "mod", "u-1"))
        at = self._at(thread, actor, moderator=True)
        done = await self.appenders.submit(ModerateComment(**at, comment_id=id_, action=action))
        if done.events:
            kind, comment.state = _DECISIONS[action]
            self.world.logs[thread].append(Event(at["event_id"], kind, id_, actor))

    async def delete(self) -> None:
        id_, comment, thread = self._some()
        at = self._at(thread, comment.author)
        done = await self.appenders.submit(DeleteComment(**at, comment_id=id_))
        if done.events:
            comment.state = "deleted"
            self.world.logs[thread].append(Event(at["event_id"], "delete", id_, comment.author))

    async def vote(self) -> None:
        id_, _, thread = self._some()
        at = self._at(thread, "mod")
        done = await self.appenders.submit(
            VoteComment(**at, comment_id=id_, value=self.chance.choice((1, -1)))
        )
        if done.events:
            self.world.logs[thread].append(Event(at["event_id"], "other", id_, "mod"))

    # --- what people want -------------------------------------------------------------------------------

    async def subscribe(self) -> None:
        person, thread = self.chance.choice(("u-1", "u-2", "u-3", "u-5")), self.chance.choice(THREADS)
        stream_id, level = thread_stream_id(SITE, thread), self.chance.choice(_LEVELS)
        if level is None:
            self.world.levels.pop((thread, person), None)
            await self.pool.execute(
                "delete from subscriptions where stream_id = $1 and author_id = $2", stream_id, person
            )
            return
        self.world.levels[thread, person] = level
        await self.pool.execute(
            "insert into subscriptions (stream_id, author_id, site, level) values ($1, $2, $3, $4) "
            "on conflict (stream_id, author_id) do update set level = excluded.level",
            *(stream_id, person, SITE, level),
        )

    async def prefer(self) -> None:
        person = self.chance.choice(("u-1", "u-2", "u-3", "u-4", "u-5"))
        wanted = self.world.wanted[person]
        wanted.off = {reason for reason in REASONS if self.chance.random() < 0.2}
        wanted.on = {reason for reason in REASONS if reason not in wanted.off and self.chance.random() < 0.3}
        wanted.blocked = {each for each in ("u-1", "u-2", "mod", "guest:1") if self.chance.random() < 0.15}
        reasons = dict.fromkeys(wanted.on, True) | dict.fromkeys(wanted.off, False)
        await self.pool.execute(
            "insert into preferences (site, author_id, reasons, blocked) values ($1, $2, $3, $4) "
            "on conflict (site, author_id) do update "
            "set reasons = excluded.reasons, blocked = excluded.blocked",
            *(SITE, person, orjson.dumps(reasons).decode(), list(wanted.blocked)),
        )

    async def confirm(self) -> None:
        self.world.reachable ^= {"guest:1"}
        await self.pool.execute(
            "insert into contacts (site, author_id, source, key_id, sealed, address_mac, confirmed_at) "
            "values ($1, 'guest:1', 'given', gen_random_uuid(), '', '', case when $2 then now() end) "
            "on conflict (site, author_id, source) do update set confirmed_at = excluded.confirmed_at",
            *(SITE, "guest:1" in self.world.reachable),
        )

    async def set_site(self) -> None:
        self.world.follows_on_post = not self.world.follows_on_post
        await self.appenders.submit(
            ChangeSettings(
                site=SITE,
                stream_id=site_stream_id(SITE),
                event_id=new_id(),
                actor=Actor("admin", moderator=True),
                changes={"follow_on_post": self.world.follows_on_post},
            )
        )

    # --- the notifier -----------------------------------------------------------------------------------

    async def come_by(self) -> None:
        """A notifier comes by some threads, with pages of some size; it may be killed behind one."""
        page = self.chance.choice((1, 2, 3, 5, 500))
        if self.chance.random() < 0.4:
            await self.come_by_and_die(page)
            return
        some = self.chance.sample(THREADS, self.chance.randint(1, len(THREADS)))
        await Notifier(self.pool, self.keyring, page=page).notify_all(
            thread_stream_id(SITE, thread) for thread in some
        )
        for thread in some:
            while self.reference.come_by(thread, page):
                pass

    async def come_by_and_die(self, page: int) -> None:
        """As `come_by` one thread, and killed right behind the first page by which somebody is told."""

        def die(_people: Collection[tuple[str, str]]) -> None:
            raise Killed

        thread = self.chance.choice(THREADS)
        notifier = Notifier(self.pool, self.keyring, page=page, told=die)
        with suppress(Killed):
            await notifier.notify(thread_stream_id(SITE, thread))
        before = self._count()
        while self.reference.come_by(thread, page) and self._count() == before:
            pass

    def _count(self) -> int:
        return sum(len(told) for told in self.reference.inbox.values())

    async def compare(self) -> None:
        """Every inbox, at the end."""
        for thread in THREADS:
            await Notifier(self.pool, self.keyring).notify(thread_stream_id(SITE, thread))
            while self.reference.come_by(thread, 500):
                pass
        rows = await self.pool.fetch("select recipient_id, event_id, reason, comment_id from notifications")
        inbox: dict[str, dict[UUID, str]] = {}
        comment_of = {event.id: event.comment for log in self.world.logs.values() for event in log}
        for person, event_id, reason, comment_id in rows:
            inbox.setdefault(person, {})[event_id] = reason
            assert comment_id == comment_of[event_id]
        assert inbox == {person: told for person, told in self.reference.inbox.items() if told}


async def play(database_url: str, seed: int, steps: int = STEPS) -> int:
    """A random history; how many notifications it came to."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=3) as pool:
        appenders = Appenders(database_url, 1)
        await appenders.start()
        try:
            await pool.execute(
                "insert into sites (site, stream_id) values ($1, $2) on conflict do nothing",
                *(SITE, site_stream_id(SITE)),
            )
            world, keyring = World(), Keyring(pool, MasterKey(MASTER_KEY))
            playing = Play(pool, appenders, keyring, Random(seed), world, Reference(world))
            for _ in range(steps):
                await playing.step()
            await playing.compare()
            return sum(len(told) for told in playing.reference.inbox.values())
        finally:
            await appenders.stop()


@pytest.mark.parametrize("seed", range(4))
async def test_every_inbox_is_what_the_reference_says(database_url: str, seed: int) -> None:
    assert await play(database_url, seed) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
async def test_every_inbox_is_what_the_reference_says_of_long_histories(database_url: str, seed: int) -> None:
    assert await play(database_url, seed, 400) > 0
