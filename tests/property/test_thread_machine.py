"""Any mix of commands, on real servers: the live view, the replayed view and a model written from the
contract agree, at every version on the way."""

from __future__ import annotations

import asyncio
import os
import time
from base64 import b64encode
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.core.addresses import new_event_id, site_stream_id, thread_stream_id
from services.core.commands import (
    Actor,
    ChangeSettings,
    ChangeThread,
    Command,
    DeleteComment,
    EditComment,
    EraseComments,
    Idempotency,
    ModerateComment,
    PostComment,
    ReportComment,
    VoteComment,
)
from services.core.page import FoldIndex, PageRequest, Row
from services.core.pagejson import page_json
from services.errors import Refusal
from services.eventlog.appenders import Appenders
from services.eventlog.batch import Appended, Tally
from services.eventlog.erasures import Erasures
from services.settings import Settings
from services.wiring import Resources, resources
from tests.logcheck import chain
from tests.property.model import THRESHOLD, Model, simplified

SITE = "site"
EVERYTHING = PageRequest(limit=100, replies=20, depth=10)
people = st.sampled_from(["ann", "ben", "cem"])
bodies = st.sampled_from(["one", "two *2*", "three\n\n- 3", "four <b>4</b>"])
T = TypeVar("T")


class World:
    """The servers, and an event loop to talk to them from Hypothesis' synchronous rules."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        given = Settings.load(
            database_url=database_url, redis_url=redis_url, master_key=b64encode(bytes(32)).decode()
        )
        self.parts: Resources = self.run(self._stack.enter_async_context(resources(given)))
        self.appenders = Appenders(database_url, 1)
        self.run(self.appenders.start())
        self.run(self.parts.sites.add(SITE, bytes(32)))
        self.outcome(
            ChangeSettings(
                site=SITE,
                stream_id=site_stream_id(SITE),
                event_id=fresh_id(),
                actor=Actor("admin", moderator=True),
                changes={"report_threshold": THRESHOLD},
            )
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def outcome(self, command: Command) -> Appended | Refusal:
        try:
            return self.run(self.appenders.submit(command))
        except Refusal as refusal:
            return refusal

    def close(self) -> None:
        self.run(self.appenders.stop())
        self.run(self._stack.aclose())
        self.loop.close()


def fresh_id() -> UUID:
    return new_event_id(time.time_ns() // 1_000_000, os.urandom(10))


class ThreadMachine(RuleBasedStateMachine):
    world: ClassVar[World]

    comments: Bundle[UUID] = Bundle("comments")

    @initialize()
    def begin(self) -> None:
        self.key = f"thread-{fresh_id()}"
        self.stream_id = thread_stream_id(SITE, self.key)
        self.model = Model()
        self.version = 0
        self.seen: list[tuple[int, dict[str, Any]]] = []

    def address(self, author: str, *, moderator: bool = False) -> dict[str, Any]:
        return {
            "site": SITE,
            "stream_id": self.stream_id,
            "key": self.key,
            "event_id": fresh_id(),
            "actor": Actor(author, moderator=moderator),
        }

    def sealed(self, author: str, event_id: UUID, **text: str) -> Any:
        key = self.world.run(self.world.parts.keyring.for_author(SITE, author))
        return key.sealed(event_id, self.stream_id, text)

    def check(self, command: Command, expected: str | None) -> Appended | None:
        outcome = self.world.outcome(command)
        if expected is not None:
            assert type(outcome).__name__ == expected
            return None
        assert isinstance(outcome, Appended), outcome
        for event in outcome.events:
            assert event.version == self.version + 1
            self.version = event.version
        assert outcome.version == self.version
        self.seen.append((self.version, self.model.tree()))
        return outcome

    @rule(target=comments, author=people, body=bodies)
    def post(self, author: str, body: str) -> Any:
        return self.posted(author, body, None)

    @rule(target=comments, author=people, body=bodies, parent=comments)
    def reply(self, author: str, body: str, parent: UUID) -> Any:
        return self.posted(author, body, parent)

    def posted(self, author: str, body: str, parent: UUID | None) -> Any:
        address = self.address(author)
        comment_id = address["event_id"]
        expected = self.model.post(comment_id, author, body, parent)
        text = self.sealed(author, comment_id, body=body, name=author)
        self.check(PostComment(**address, text=text, parent_id=parent), expected)
        return comment_id if expected is None else multiple()

    @rule(author=people)
    def reply_to_nothing(self, author: str) -> None:
        address = self.address(author)
        text = self.sealed(author, address["event_id"], body="?", name=author)
        missing = fresh_id()
        expected = self.model.post(address["event_id"], author, "?", missing)
        self.check(PostComment(**address, text=text, parent_id=missing), expected)

    @rule(author=people, body=bodies, comment=comments, stale=st.booleans(), moderator=st.booleans())
    def edit(self, author: str, body: str, comment: UUID, *, stale: bool, moderator: bool) -> None:
        said = self.model.comments[comment]
        revision = said.revision + stale
        address = self.address(author, moderator=moderator)
        text = self.sealed(said.author, address["event_id"], body=body)
        expected = self.model.edit(comment, author, body, revision, moderator=moderator)
        self.check(EditComment(**address, comment_id=comment, revision=revision, text=text), expected)

    @rule(author=people, comment=comments, moderator=st.booleans())
    def delete(self, author: str, comment: UUID, *, moderator: bool) -> None:
        address = self.address(author, moderator=moderator)
        expected = self.model.delete(comment, author, moderator=moderator)
        self.check(DeleteComment(**address, comment_id=comment), expected)

    @rule(reporter=people, comment=comments)
    def report(self, reporter: str, comment: UUID) -> None:
        address = self.address(reporter)
        detail = self.sealed(reporter, address["event_id"], detail="look")
        expected = self.model.report(comment, reporter)
        self.check(ReportComment(**address, comment_id=comment, reason="spam", detail=detail), expected)

    @rule(
        comment=comments,
        action=st.sampled_from(["approve", "hide", "restore", "remove"]),
        reason=st.none() | bodies,
        moderator=st.integers(0, 9).map(bool),
    )
    def moderate(self, comment: UUID, action: Any, reason: str | None, *, moderator: bool) -> None:
        said = self.model.comments[comment]
        before, held = self.version, (said.state, said.approved)
        address = self.address("mod", moderator=moderator)
        sealed = None
        if reason is not None:
            sealed = self.sealed(said.author, address["event_id"], reason=reason)
        expected = self.model.moderate(comment, action, moderator=moderator)
        command = ModerateComment(**address, comment_id=comment, action=action, reason=sealed)
        if self.check(command, expected) is not None:
            assert self.version == before + (held != (said.state, said.approved))

    @rule(voter=people | st.just("guest:1"), comment=comments, value=st.sampled_from([1, -1, 0]))
    def vote(self, voter: str, comment: UUID, value: Any) -> None:
        said = self.model.comments[comment]
        changes = said.votes.get(voter, 0) != value
        before = self.version
        expected = self.model.vote(comment, voter, value)
        outcome = self.check(VoteComment(**self.address(voter), comment_id=comment, value=value), expected)
        if outcome is not None:
            assert outcome.tally == Tally(**self.model.tally(comment), value=value)
            assert self.version == before + changes

    @precondition(lambda self: len(self.model.comments) > 3)
    @rule(author=people)
    def erase(self, author: str) -> None:
        parts = self.world.parts
        erasures = Erasures(parts.pool, settle=0.0)
        erasure = self.world.run(erasures.request(SITE, author, requested_by=author))
        due = self.model.erase(author)
        if erasure is None:
            assert not due
            return
        parts.keyring.forget(erasure.key_id)
        address = self.address(author) | {"actor": Actor(None)}
        command = EraseComments(**address, key_id=erasure.key_id, comment_ids=tuple(due), cause=erasure.id)
        outcome = self.check(command, None)
        assert outcome is not None
        assert [event.type for event in outcome.events] == ["CommentErased"] * len(due)

    @rule(closed=st.booleans())
    def close_or_open(self, *, closed: bool) -> None:
        if self.version:
            self.model.closed = closed
            address = self.address("mod", moderator=True)
            self.check(ChangeThread(**address, describe={}, closed=closed), None)

    @rule(target=comments, author=people, body=bodies, same=st.booleans())
    def post_twice_with_one_key(self, author: str, body: str, *, same: bool) -> Any:
        key = os.urandom(16)
        address = self.address(author) | {"idempotency": Idempotency(key, b"first")}
        comment_id = address["event_id"]
        text = self.sealed(author, comment_id, body=body, name=author)
        expected = self.model.post(comment_id, author, body, None)
        first = self.check(PostComment(**address, text=text), expected)
        if first is None:
            return multiple()
        again = address | {"event_id": fresh_id()}
        if not same:
            again["idempotency"] = Idempotency(key, b"second")
        outcome = self.world.outcome(PostComment(**again, text=text))
        if same:
            assert isinstance(outcome, Appended)
            assert outcome.repeated
            assert (outcome.event_id, outcome.version) == (comment_id, first.version)
        else:
            assert type(outcome).__name__ == "IdempotencyKeyReused"
        return comment_id

    @rule()
    def project(self) -> None:
        self.world.run(self.world.parts.projector.advance(self.stream_id))

    @rule()
    def lose_the_view(self) -> None:
        self.world.run(self.world.parts.views.drop(self.stream_id))

    @rule()
    def read_your_writes(self) -> None:
        if self.version:
            assert self.read() == self.model.tree()

    def read(self) -> dict[str, Any]:
        page = self.world.run(self.world.parts.reader.page(self.stream_id, EVERYTHING, self.version))
        assert page.head is not None
        assert page.head.version == self.version
        return shown(page.selection, page.head)

    def teardown(self) -> None:
        if not getattr(self, "version", 0):
            return
        parts = self.world.parts
        assert self.read() == self.model.tree()
        assert self.world.run(chain(parts.log, self.stream_id)) == self.version
        assert self.world.run(parts.verifier.thread(self.stream_id)) == []
        live = self.world.run(self.dump())
        assert self.world.run(parts.replayer.replay(self.stream_id)).rows == 0
        assert self.world.run(self.dump()) == live
        self.world.run(parts.replayer.replay(self.stream_id))
        assert self.world.run(self.dump()) == live
        assert self.world.run(parts.verifier.thread(self.stream_id)) == []
        for version, tree in self.seen[:: max(1, len(self.seen) // 8)]:
            index: FoldIndex = self.world.run(parts.projector.index(self.stream_id, to=version))
            assert shown(index.page(EVERYTHING), index.thread) == self.model.known_now(tree)

    async def dump(self) -> list[Row]:
        head = await self.world.parts.projector.advance(self.stream_id)
        assert head is not None
        rows = {one.key: one async for one in self.world.parts.views.dump(self.stream_id, head.build)}
        return sorted(rows.values(), key=str)


def shown(selection: Any, thread: Any) -> dict[str, Any]:
    page = page_json(selection, thread, cursor=lambda *_: "cursor", comment_url="{url}#{id}")
    return simplified(orjson.loads(page))


def test_any_mix_of_commands_leaves_log_view_replay_and_model_in_agreement(
    database_url: str, redis_url: str
) -> None:
    world = World(database_url, redis_url)
    try:
        run_state_machine_as_test(
            type("ThreadMachine", (ThreadMachine,), {"world": world}),
            settings=settings(
                max_examples=int(os.environ.get("THREADLOG_TEST_EXAMPLES", "60")),
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        world.close()
