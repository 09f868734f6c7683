"""The notifier's transactions: many threads at once, followers, names, and who hears of what was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from services.core.addresses import site_stream_id
from services.core.commands import Action, Actor, ChangeSettings, EditComment, ModerateComment, PostComment
from services.errors import PoisonEvent
from services.eventlog.batch import Appended
from services.workers.notifier import Notifier
from services.workers.telling import FEW
from tests.writer import SITE, Writer, new_id, stream_of, writer

THREAD = stream_of("t")


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Writer]:
    async with writer(database_url) as opened:
        yield opened


async def say(log: Writer, author: str, body: str, to: UUID | None = None, key: str = "t") -> UUID:
    """Post a comment; the author's name is their id."""
    author_key = await log.keyring.for_author(SITE, author)
    event_id, stream_id = new_id(), stream_of(key)
    text = author_key.sealed(event_id, stream_id, {"body": body, "name": author})
    await log.submit(PostComment(**_at(key, author, event_id), text=text, parent_id=to))
    return event_id


def _at(key: str, actor: str, event_id: UUID, *, moderator: bool = False) -> dict[str, Any]:
    return {
        "site": SITE,
        "stream_id": stream_of(key),
        "key": key,
        "event_id": event_id,
        "actor": Actor(actor, moderator),
    }


async def edit(log: Writer, author: str, comment_id: UUID, body: str, revision: int = 1) -> UUID:
    author_key = await log.keyring.for_author(SITE, author)
    event_id = new_id()
    text = author_key.sealed(event_id, THREAD, {"body": body})
    await log.submit(
        EditComment(**_at("t", author, event_id), comment_id=comment_id, revision=revision, text=text)
    )
    return event_id


async def decide(log: Writer, comment_id: UUID, action: Action) -> Appended:
    at = _at("t", "mod", new_id(), moderator=True)
    return await log.submit(ModerateComment(**at, comment_id=comment_id, action=action))


async def follow(log: Writer, *people: str, level: str = "all") -> None:
    await log.pool.executemany(
        "insert into subscriptions (stream_id, author_id, site, level) values ($1, $2, $3, $4)",
        [(THREAD, person, SITE, level) for person in people],
    )


async def told(log: Writer) -> list[tuple[str, str, UUID]]:
    rows = await log.pool.fetch(
        "select recipient_id, reason, event_id from notifications order by notification_id"
    )
    return [(row["recipient_id"], row["reason"], row["event_id"]) for row in rows]


async def test_statements_do_not_grow_with_threads_and_replies(log: Writer) -> None:
    await log.pool.execute(
        "insert into webhook_endpoints (endpoint_id, site, url, wrapped) "
        "values (gen_random_uuid(), $1, 'https://blog.example/hook', '')",
        SITE,
    )
    counted: list[int] = []
    statements: list[str] = []
    async with log.pool.acquire() as connection:
        notifier = Notifier(_Only(connection), log.keyring, mails=True)  # type: ignore[arg-type]
        for threads, replies in ((1, 1), (2, 1), (40, 3)):  # the first has the driver look up its types
            keys = [f"{threads}-{number}" for number in range(threads)]
            for key in keys:
                root = await say(log, "ann", "hear, hear", key=key)
                for _ in range(replies):
                    await say(log, "bob", "a reply to @ann and @[cem]", root, key=key)
            statements.clear()
            with connection.query_logger(lambda query: statements.append(query.query)):
                outcome = await notifier.notify_all(stream_of(key) for key in keys)
            assert outcome.told == threads * replies * 2
            counted.append(len(statements))
    assert counted[1] == counted[2] <= 16


class _Only:
    """A pool of one connection that is held already, so that what goes over it can be counted."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def acquire(self) -> _Only:
        return self

    async def __aenter__(self) -> Any:
        return self._connection

    async def __aexit__(self, *_: object) -> None: ...

    async def fetch(self, *arguments: Any) -> Any:
        return await self._connection.fetch(*arguments)


async def test_a_thread_with_an_event_that_cannot_be_read_stops_only_itself(log: Writer) -> None:
    for key in ("a", "b", "c"):
        root = await say(log, "ann", "first", key=key)
        await say(log, "bob", "second", root, key=key)
        if key == "b":
            await log.put("b", "ReplyPosted", {"parent_id": "nobody"})
            await say(log, "bob", "third", root, key="b")
    outcome = await Notifier(log.pool, log.keyring).notify_all(stream_of(key) for key in "abc")
    assert outcome.told == 3
    assert list(outcome.failed) == [stream_of("b")]
    assert isinstance(outcome.failed[stream_of("b")], PoisonEvent)


async def test_a_thread_whose_rows_cannot_be_written_stops_only_itself(log: Writer) -> None:
    for key in ("a", "b", "c"):
        root = await say(log, "ann", "first", key=key)
        await say(log, "bob", "second", root, key=key)
    await log.pool.execute(
        f"alter table notifications add constraint fails check (stream_id <> '{stream_of('b')}') not valid"
    )
    outcome = await Notifier(log.pool, log.keyring).notify_all(stream_of(key) for key in "abc")
    assert outcome.told == 2
    assert list(outcome.failed) == [stream_of("b")]
    await log.pool.execute("alter table notifications drop constraint fails")
    assert await Notifier(log.pool, log.keyring).notify(stream_of("b")) == 1


async def test_notifiers_that_share_many_threads_tell_everything_once(log: Writer) -> None:
    keys = [str(number) for number in range(30)]
    for key in keys:
        root = await say(log, "ann", "first", key=key)
        for _ in range(3):
            await say(log, "bob", "to you", root, key=key)
    streams = [stream_of(key) for key in keys]
    async with asyncpg.create_pool(log.url, min_size=4, max_size=8) as pool:
        outcomes = await asyncio.gather(
            *(
                Notifier(pool, log.keyring, page=page).notify_all(some)
                for page, some in (
                    (2, streams),
                    (2, streams[::-1]),
                    (3, streams[10:] + streams[:10]),
                    (500, streams),
                )
            )
        )
    assert not [error for outcome in outcomes for error in outcome.failed.values()]
    assert sum(outcome.told for outcome in outcomes) == 90
    assert len(await told(log)) == 90


async def test_few_followers_are_told_at_once_and_many_are_left_to_the_fan_out(log: Writer) -> None:
    fanned: list[Collection[UUID]] = []
    notifier = Notifier(log.pool, log.keyring, fanned=fanned.append)
    await follow(log, *(f"f-{number}" for number in range(FEW)))
    root = await say(log, "ann", "first")
    assert await notifier.notify(THREAD) == FEW
    assert (await log.pool.fetchval("select count(*) from fanouts"), fanned) == (0, [])
    await follow(log, "one-more")
    reply = await say(log, "bob", "second", root)
    assert await notifier.notify(THREAD) == 1  # the one replied to does not wait
    rows = await log.pool.fetch("select distinct event_id, comment_id, version, actor_id from fanouts")
    assert [tuple(row) for row in rows] == [(reply, reply, 2, "bob")]
    assert await log.pool.fetchval("select count(*) from fanouts") == 16
    assert fanned == [[THREAD]]


async def test_authors_follow_where_they_post_if_that_is_the_sites_way(log: Writer) -> None:
    await log.pool.execute("insert into sites (site, stream_id) values ($1, $2)", SITE, site_stream_id(SITE))
    await log.submit(
        ChangeSettings(
            site=SITE,
            stream_id=site_stream_id(SITE),
            event_id=new_id(),
            actor=Actor("admin", moderator=True),
            changes={"follow_on_post": True},
        )
    )
    await follow(log, "cem", level="muted")
    await say(log, "dee", "before ann follows")
    await say(log, "ann", "first")
    await say(log, "guest:1", "a guest's")
    await say(log, "cem", "who has muted it")
    await log.post("t", "import:1", imported=True)
    await Notifier(log.pool, log.keyring).notify(THREAD)
    rows = await log.pool.fetch("select author_id, level from subscriptions order by author_id")
    assert [tuple(row) for row in rows] == [("ann", "all"), ("cem", "muted"), ("dee", "all")]
    follows = [(who, reason) for who, reason, _ in await told(log)]
    assert sorted(follows) == [("ann", "follow")] * 2 + [("dee", "follow")] * 3


async def test_an_edit_tells_only_those_whom_no_text_named_before(log: Writer) -> None:
    notifier = Notifier(log.pool, log.keyring)
    first = await say(log, "ann", "@[bob]")
    await notifier.notify(THREAD)
    second = await edit(log, "ann", first, "@[bob] and @[cem]")
    await notifier.notify(THREAD)
    await edit(log, "ann", first, "@[cem]", revision=2)
    await edit(log, "ann", first, "@[bob] again", revision=3)
    await notifier.notify(THREAD)
    assert await told(log) == [("bob", "mention", first), ("cem", "mention", second)]


async def test_a_hidden_text_is_told_when_it_is_approved_and_once(log: Writer) -> None:
    notifier = Notifier(log.pool, log.keyring)
    root = await say(log, "ann", "first")
    reply = await say(log, "bob", "for @[cem]", root)
    hidden = await decide(log, reply, "hide")
    await notifier.notify(THREAD)
    assert await told(log) == [("bob", "moderation", hidden.event_id)]
    await decide(log, reply, "approve")
    await notifier.notify(THREAD)
    await decide(log, reply, "hide")
    await decide(log, reply, "restore")
    await notifier.notify(THREAD)
    assert (await told(log))[1:] == [("ann", "reply", reply), ("cem", "mention", reply)]
    assert await log.pool.fetchval("select count(*) from untold") == 0


async def test_a_hidden_text_that_is_removed_is_never_told(log: Writer) -> None:
    notifier = Notifier(log.pool, log.keyring)
    root = await say(log, "ann", "first")
    reply = await say(log, "bob", "second", root)
    await decide(log, reply, "hide")
    await notifier.notify(THREAD)
    assert await log.pool.fetchval("select count(*) from untold") == 1
    await decide(log, reply, "remove")
    await notifier.notify(THREAD)
    assert [who for who, _, _ in await told(log)] == ["bob", "bob"]
    assert await log.pool.fetchval("select count(*) from untold") == 0


async def test_names_from_before_there_were_any_are_folded_in_silence(log: Writer) -> None:
    notifier = Notifier(log.pool, log.keyring, page=2)
    for author in ("ann", "bob", "cem"):
        await say(log, author, "@[dee]")
    await notifier.notify(THREAD)
    before = await told(log)
    kept = await log.pool.fetch("select * from participants order by version")
    assert len(kept) == 3
    await log.pool.execute("delete from participants; delete from mentioned")
    await log.pool.execute("update notifier_checkpoints set named = 0")
    said = await say(log, "eve", "for @bob")
    await notifier.notify(THREAD)
    assert await told(log) == [*before, ("bob", "mention", said)]
    assert (await log.pool.fetch("select * from participants order by version"))[:3] == kept


async def test_names_lie_in_the_database_as_digests_bound_to_their_thread(log: Writer) -> None:
    notifier = Notifier(log.pool, log.keyring)
    for key in ("t", "u"):
        await say(log, "ann", "first", key=key)
        await notifier.notify(stream_of(key))
    digests = [row["name_mac"] for row in await log.pool.fetch("select name_mac from participants")]
    assert len(set(digests)) == 2
    assert not [digest for digest in digests if b"ann" in digest]


async def test_of_two_with_the_same_name_the_latest_is_meant(log: Writer) -> None:
    notifier = Notifier(log.pool, log.keyring)
    await say(log, "ann", "first")
    await notifier.notify(THREAD)
    [row] = await log.pool.fetch("select * from participants")
    await log.pool.execute(
        "insert into participants (stream_id, name_mac, author_id, version) values ($1, $2, 'ann-2', 2)",
        *(THREAD, row["name_mac"]),
    )
    said = await say(log, "bob", "@ann")
    await notifier.notify(THREAD)
    assert await told(log) == [("ann-2", "mention", said)]


async def test_who_was_told_is_said_after_the_commit(log: Writer, database_url: str) -> None:
    heard: list[Collection[tuple[str, str]]] = []
    notifier = Notifier(log.pool, log.keyring, told=heard.append)
    root = await say(log, "ann", "first")
    await notifier.notify(THREAD)
    await say(log, "bob", "for @[cem]", root)
    await say(log, "bob", "and for you", root)
    await notifier.notify(THREAD)
    assert heard == [[(SITE, "ann"), (SITE, "cem")]]


async def test_mails_and_webhooks_are_entered_with_what_was_told(log: Writer) -> None:
    await log.pool.execute("insert into sites (site, stream_id) values ($1, $2)", SITE, site_stream_id(SITE))
    await log.pool.execute(
        "insert into webhook_endpoints (endpoint_id, site, url, wrapped) "
        "values (gen_random_uuid(), $1, 'https://example.org/', 'x')",
        SITE,
    )
    await log.pool.execute(
        "insert into contacts (site, author_id, source, key_id, sealed, address_mac) "
        "values ($1, 'ann', 'token', gen_random_uuid(), '', '')",
        SITE,
    )
    root = await say(log, "ann", "first")
    reply = await say(log, "bob", "for @[cem]", root)
    notifier = Notifier(log.pool, log.keyring, mails=True)
    for _ in range(2):
        await notifier.notify(THREAD)
        await log.pool.execute("update notifier_checkpoints set version = 0, named = 0")  # once more
    rows = await log.pool.fetch(
        "select channel, recipient_id, event_id, about from deliveries order by channel"
    )
    assert [(row["channel"], row["recipient_id"], row["event_id"]) for row in rows] == [
        ("mail", "ann", None),
        ("webhook", None, reply),
    ]
    assert orjson.loads(rows[1]["about"]) == {
        "comment_id": str(reply),
        "recipients": [["ann", "reply"], ["cem", "mention"]],
    }


async def test_an_erased_author_bears_no_name_any_more_and_their_texts_name_nobody(log: Writer) -> None:
    notifier = Notifier(log.pool, log.keyring)
    said = await say(log, "ann", "@[bob]")
    await say(log, "cem", "@[bob]")
    await notifier.notify(THREAD)
    await log.put("t", "CommentErased", {"comment_id": str(said), "posted": 1})
    await notifier.notify(THREAD)
    assert [row["author_id"] for row in await log.pool.fetch("select author_id from participants")] == ["cem"]
    assert said not in {row["comment_id"] for row in await log.pool.fetch("select comment_id from mentioned")}


async def test_an_edit_tells_nobody_who_was_told_of_the_comment(log: Writer) -> None:
    await follow(log, "cem")
    root = await say(log, "bob", "a question")
    answer = await say(log, "ann", "an answer", root)
    notifier = Notifier(log.pool, log.keyring)
    await notifier.notify(THREAD)
    edited = await edit(log, "ann", answer, "an answer, @[bob] and @[cem] and @[dan]")
    await notifier.notify(THREAD)
    of_it = [one for one in await told(log) if one[2] in (answer, edited)]
    assert sorted(of_it) == [("bob", "reply", answer), ("cem", "follow", answer), ("dan", "mention", edited)]


async def test_of_a_comment_with_two_texts_that_waited_each_is_told_once(log: Writer) -> None:
    root = await say(log, "bob", "a question")
    await Notifier(log.pool, log.keyring).notify(THREAD)
    answer = await say(log, "ann", "an answer", root)
    edited = await edit(log, "ann", answer, "an answer, @[bob] and @[dan]")
    await decide(log, answer, "hide")
    await Notifier(log.pool, log.keyring).notify(THREAD)
    await decide(log, answer, "approve")
    await Notifier(log.pool, log.keyring).notify(THREAD)
    of_it = [one for one in await told(log) if one[1] != "moderation" and one[2] in (answer, edited)]
    assert sorted(of_it) == [("bob", "reply", answer), ("dan", "mention", edited)]


async def test_a_transaction_tells_a_bounded_number_of_followers(
    log: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.workers.telling.ROWS", 100)
    await follow(log, *(f"f-{number:02}" for number in range(20)))
    posts = [await say(log, "ann", f"number {number}") for number in range(30)]
    elsewhere = await say(log, "ann", "a question", key="u")
    reply = await say(log, "bob", "an answer", elsewhere, key="u")
    outcome = await Notifier(log.pool, log.keyring).notify_all([THREAD, stream_of("u")])
    assert (outcome.told, outcome.failed) == (20 * len(posts) + 1, {})
    rows = await log.pool.fetch("select count(*) as told from notifications group by told_in")
    assert max(row["told"] for row in rows) <= 100
    assert ("ann", "reply", reply) in await told(log)


async def test_webhooks_hear_of_everybody_whom_an_event_was_told_in_two_goes(log: Writer) -> None:
    await log.pool.execute(
        "insert into webhook_endpoints (endpoint_id, site, url, wrapped) "
        "values (gen_random_uuid(), $1, 'https://blog.example/hook', '')",
        SITE,
    )
    root = await say(log, "ann", "a question")
    answer = await say(log, "bob", "an answer", root)
    await Notifier(log.pool, log.keyring).notify(THREAD)
    # It went out of sight before all were told, who follow, and came back.
    await log.pool.execute(
        "insert into untold (stream_id, comment_id, version, event_id) values ($1, $2, 2, $2)", THREAD, answer
    )
    await follow(log, "cem")
    await decide(log, answer, "hide")
    await decide(log, answer, "approve")
    await Notifier(log.pool, log.keyring).notify(THREAD)
    rows = await log.pool.fetch("select about from deliveries where event_id = $1", answer)
    hooked = [tuple(one) for row in rows for one in orjson.loads(row["about"])["recipients"]]
    assert sorted(hooked) == [("ann", "reply"), ("cem", "follow")]
