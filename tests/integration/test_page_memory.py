"""What a process remembers of threads: how often it asks, what it never gets wrong, how much it holds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest

from services.api.pages.freshness import FRESH_S, GRACE_S
from services.dev.servers import EmbeddedRedis
from tests.integration.api_client import SITE, Client, S, T, client_of
from tests.integration.remembering import COMMENTS, Remembering, Reply, remembering
from tests.processes import until

MOD = ("moderator",)
READERS = 40
LATER = FRESH_S * 2
READING = {"hmget", "hget", "hgetall", "eval", "evalsha", "evalsha_ro", "fcall", "mget", "get"}
"""Commands that a view may be read with."""


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True) as running:
        yield running


@pytest.fixture
async def there(client: Client) -> AsyncIterator[Remembering]:
    async with remembering(client) as running:
        yield running


async def given(there: Remembering, *texts: str) -> None:
    """A thread with these comments, and its view."""
    for text in texts:
        await there.client.post(text)
    await there.advance()


async def crowd(there: Remembering, path: str = COMMENTS) -> list[tuple[int, bytes]]:
    """What many readers get who ask at the same moment, each in words of their own."""
    asked = (there.ask(path, X_Reader=str(number)) for number in range(READERS))
    return [(reply.status, reply.body) for reply in await asyncio.gather(*asked)]


async def test_a_page_is_read_once_however_many_ask(there: Remembering) -> None:
    await there.client.post("one")
    [(status, body)] = set(await crowd(there))
    assert status == 200
    assert b"one" in body
    assert there.api.pages.reads == 1


async def test_while_a_comparison_is_fresh_redis_is_not_asked(
    database_url: str, broker_url: str, start_redis: Callable[[], EmbeddedRedis]
) -> None:
    views = start_redis().url(0)  # where no messages are
    async with client_of(database_url, views, broker_url) as client, remembering(client) as there:
        await given(there, "one")
        await there.ask()
        before = await there.commands()
        await crowd(there)
        there.clock.now += FRESH_S * 0.4
        await crowd(there)
        assert not READING & (Counter(await there.commands()) - Counter(before)).keys()


async def test_then_one_look_for_all_tells_that_nothing_has_changed(there: Remembering) -> None:
    threads = [f"{S}/threads/t{number}" for number in range(5)]
    for thread in threads:
        await there.client.post("one", at=thread)
        await there.advance(thread.rpartition("/")[2])
        await there.ask(f"{thread}/comments")
    reads, looks, before = there.api.pages.reads, there.api.pages.looks.looks, await there.commands()
    there.clock.now += LATER
    # As one request each: the heads are asked for together where they are asked for at once.
    slots = list(there.api.pages)
    told = await asyncio.gather(*(there.api.pages.looks.look(slot.thread) for slot in slots))
    assert told == [True] * len(threads)
    assert there.api.pages.looks.looks == looks + 1
    asked = Counter(await there.commands()) - Counter(before)
    assert asked["hmget"] == len(threads)
    for thread in threads:
        await crowd(there, f"{thread}/comments")
    assert there.api.pages.reads == reads
    assert there.api.pages.looks.looks == looks + 1


async def test_a_crowd_after_a_while_looks_once_and_reads_nothing(there: Remembering) -> None:
    await given(there, "one")
    await there.ask()
    reads, looks = there.api.pages.reads, there.api.pages.looks.looks
    there.clock.now += LATER
    assert len(set(await crowd(there))) == 1
    assert there.api.pages.reads == reads
    # Who comes while a look is under way may need the one behind it, but nobody one of their own.
    assert 1 <= there.api.pages.looks.looks - looks <= 3


async def test_a_changed_page_is_read_again_once(there: Remembering) -> None:
    await given(there, "one")
    await there.ask()
    await there.client.post("two")
    await there.advance()
    reads = there.api.pages.reads
    there.clock.now += LATER
    [(status, body)] = set(await crowd(there))
    assert status == 200
    assert b"two" in body
    assert there.api.pages.reads == reads + 1


async def test_nothing_is_older_than_a_comparison_holds(there: Remembering) -> None:
    await given(there, "one")
    await there.ask()
    await there.client.post("two")
    await there.advance()
    assert b"two" not in (await there.ask()).body
    there.clock.now += LATER
    assert b"two" in (await there.ask()).body


async def test_who_names_a_version_never_gets_an_earlier_one(there: Remembering) -> None:
    await there.client.post("one")
    assert (await there.ask())["Threadlog-Version"] == "1"
    for version, text in enumerate(("two", "three"), start=2):
        await there.client.post(text)
        for path in (COMMENTS, T):
            reply = await there.ask(f"{path}?min_version={version}")
            assert int(reply["Threadlog-Version"]) >= version
    late = await there.ask(f"{COMMENTS}?min_version=9")
    assert late.status == 400
    # What was read for them serves those who name none.
    reads = there.api.pages.reads
    assert (await there.ask())["Threadlog-Version"] == "3"
    assert (await there.ask(f"{COMMENTS}?min_version=2"))["Threadlog-Version"] == "3"
    assert there.api.pages.reads == reads


async def test_an_answer_is_compressed_once_in_each_coding(there: Remembering) -> None:
    await there.client.post("many words " * 500)
    for times in (1, 2):
        for coding in ("gzip", "br", "zstd"):
            path = f"{COMMENTS}?min_version={times}"
            replies = await asyncio.gather(*(there.ask(path, Accept_Encoding=coding) for _ in range(10)))
            assert {reply["Content-Encoding"] for reply in replies} == {coding}
            assert len({reply.body for reply in replies}) == 1
        assert there.api.pages.compressions == 3 * times
        await there.client.post("more words " * 500)


async def test_what_nobody_wants_compressed_is_not(there: Remembering) -> None:
    await there.client.post("many words " * 500)
    for given in ({}, {"Accept_Encoding": "identity"}, {"Accept_Encoding": "gzip;q=0"}):
        assert "Content-Encoding" not in dict((await there.ask(**given)).headers)
    assert there.api.pages.compressions == 0


async def test_the_memory_is_bounded_and_forgets_what_was_used_least(client: Client) -> None:
    limit = 80_000
    async with remembering(client, limit) as there:
        for number in range(10):
            await there.client.post(f"{number} " * 1000, at=f"{S}/threads/t{number}")
            await there.ask(f"{S}/threads/t{number}/comments")
            await there.ask(f"{S}/threads/t0/comments")
            assert 0 < there.api.pages.held <= limit
        reads = there.api.pages.reads
        await there.ask(f"{S}/threads/t0/comments")
        assert there.api.pages.reads == reads
        await there.ask(f"{S}/threads/t1/comments")
        assert there.api.pages.reads == reads + 1


async def test_without_memory_every_page_is_read(client: Client) -> None:
    async with remembering(client, 0) as there:
        await there.client.post("one")
        for times in range(1, 4):
            assert b"one" in (await there.ask()).body
            assert there.api.pages.reads == times
        assert len(there.api.pages) == there.api.pages.held == 0


async def test_an_empty_thread_that_this_process_opens_is_empty_no_more(client: Client) -> None:
    for number in range(20):
        thread = f"{S}/threads/new{number}"
        assert (await client.get(f"{thread}/comments")).version == 0
        await client.post("one", at=thread)
        assert (await client.get(f"{thread}/comments")).version == 1


async def test_what_is_raised_is_raised_to_all_and_not_remembered(there: Remembering) -> None:
    first = await there.client.post("one")
    unknown = f"{COMMENTS}?parent=0199aaaa-0000-7000-8000-000000000000"
    assert {status for status, _ in await crowd(there, unknown)} == {404}
    assert len(there.api.pages) == 0
    assert (await there.ask(f"{COMMENTS}?parent={first['id']}")).status == 200


async def test_while_redis_is_away_the_last_second_goes_on_and_then_the_log(
    database_url: str, broker_url: str, start_redis: Callable[[], EmbeddedRedis]
) -> None:
    views = start_redis()
    async with client_of(database_url, views.url(0), broker_url) as client, remembering(client) as there:
        await there.client.post("one")
        before = await there.ask()
        views.stop()
        there.clock.now += GRACE_S * 0.9
        assert {body for _, body in await crowd(there)} == {before.body}
        reply = await there.ask()
        assert "Threadlog-Stale" not in dict(reply.headers)
        there.clock.now += GRACE_S
        reads = there.api.pages.reads
        assert {body for _, body in await crowd(there)} == {before.body}
        assert there.api.pages.reads == reads + 1
        assert (await there.ask())["Threadlog-Stale"] == "true"
        # Nor is that kept for longer, and where it is there, a later version is read at once.
        await there.client.post("two")
        there.clock.now += GRACE_S * 0.5
        assert (await there.ask())["Threadlog-Version"] == "1"
        assert (await there.ask(f"{COMMENTS}?min_version=2"))["Threadlog-Version"] == "2"
        there.clock.now += GRACE_S * 1.5
        assert (await there.ask())["Threadlog-Version"] == "2"


async def test_once_redis_is_back_nothing_is_marked_stale(
    database_url: str, broker_url: str, start_redis: Callable[[], EmbeddedRedis]
) -> None:
    views = start_redis()
    async with client_of(database_url, views.url(0), broker_url) as client, remembering(client) as there:
        await there.client.post("one")
        views.stop()
        assert (await there.ask())["Threadlog-Stale"] == "true"
        views.start()

        async def later() -> Reply:
            there.clock.now += GRACE_S * 2
            return await there.ask()

        fresh = await until(
            later,
            "the page is read from its view",
            lambda reply: "Threadlog-Stale" not in dict(reply.headers),
        )
        assert b"one" in fresh.body


async def test_who_is_shown_the_same_as_everybody_is_given_the_same(there: Remembering) -> None:
    client = there.client
    changed = await client.send(
        "PATCH", f"{S}/settings", {"report_threshold": 1}, sub="boss", roles=("admin",)
    )
    assert changed.status == 200
    there.api.sites.forget(SITE)
    comment = await client.post("one", sub="ann")
    await client.post("two", sub="bob")
    await there.advance()
    public = await client.get(COMMENTS)
    reads = there.api.pages.reads
    for sub in ("ann", "bob", "eve"):
        own = await client.get(COMMENTS, sub=sub)
        assert (own.raw, own.headers["Etag"]) == (public.raw, public.headers["Etag"])
        assert own.headers["Cache-Control"] == "private, no-cache"
    assert there.api.pages.reads == reads
    await client.send("POST", f"{COMMENTS}/{comment['id']}/reports", {"reason": "spam"}, sub="eve")
    await there.advance()
    there.clock.now += LATER
    public = await client.get(COMMENTS)
    assert b'"one"' not in public.raw
    for sub, same in (("ann", False), ("bob", True), ("eve", True)):
        own = await client.get(COMMENTS, sub=sub)
        assert (own.raw == public.raw) is (own.headers["Etag"] == public.headers["Etag"]) is same
        assert (b'"one"' in own.raw) is not same


async def test_nobody_ever_sees_what_is_not_theirs(there: Remembering) -> None:
    """Two authors, a moderator and strangers read all the while, as one comment after the other is hidden."""
    client, random = there.client, Random(4)
    settings = {"report_threshold": 1}
    changed = await client.send("PATCH", f"{S}/settings", settings, sub="boss", roles=("admin",))
    assert changed.status == 200
    there.api.sites.forget(SITE)
    written: dict[str, str] = {}
    for number in range(12):
        author = ("ann", "bob")[number % 2]
        written[(await client.post(f"secret {number:02} of {author}", sub=author))["id"]] = author
    visible, hidden, version = list(written), set[str](), len(written)
    while visible:
        comment = visible.pop(random.randrange(len(visible)))
        hidden.add(comment)
        report = {"reason": "spam"}
        told = await client.send("POST", f"{COMMENTS}/{comment}/reports", report, sub="eve")
        assert told.status == 202
        assert told.version > version
        version = told.version
        there.clock.now += random.choice((0.0, LATER))
        readers = [None, "ann", "bob", "mod", "eve"] * 4
        random.shuffle(readers)
        # Some ask for what has just been hidden, some for whatever there is.
        asked = [
            (
                reader,
                random.choice(
                    (COMMENTS, f"{COMMENTS}?limit=5", f"{COMMENTS}/{random.choice(list(written))}")
                ),
            )
            for reader in readers
        ]
        sure = random.random() < 0.5
        if not sure:
            await there.advance()
            there.clock.now += LATER
        join = [f"{path}{'&' if '?' in path else '?'}min_version={version}" for _, path in asked]
        replies = await asyncio.gather(
            *(
                client.get(to if sure else path, sub=reader, roles=MOD if reader == "mod" else ())
                for (reader, path), to in zip(asked, join, strict=True)
            )
        )
        for (reader, path), reply in zip(asked, replies, strict=True):
            assert reply.status == 200, (path, reply.raw)
            private = "public" if reader is None else "private"
            assert reply.headers["Cache-Control"].startswith(private)
            page = reply.json
            for shown in page.get("comments", [page]):
                author = written[shown["id"]]
                sees = shown["id"] not in hidden or reader in (author, "mod")
                assert (shown["body"] is not None) is sees, (reader, path, shown)
                assert (shown["author"] is not None) is sees
    assert there.api.pages.reads < 400
