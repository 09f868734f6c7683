"""Rate limits: per author, address and site, the same in all processes, and held without Redis."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from services.api.limits.limiter import Limiter
from services.api.limits.policy import Charge, policy_of
from services.api.limits.shared import SharedLimits
from services.dev.servers import EmbeddedRedis
from tests.integration.api_client import SECRET, SITE, Answer, Client, S, T, client_of
from tests.processes import until
from tests.sites import set_site

COMMENTS = f"{T}/comments"
BLOG = "/v1/sites/blog"


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url, trusted_proxies="127.0.0.0/8") as opened:
        yield opened


async def limits(client: Client, site: str = SITE, **changes: int | None) -> None:
    await set_site(client.running.api.appenders, site, dict(changes))
    client.running.api.sites.forget(site)


async def write(client: Client, sub: str | None = "ann", *, at: str = COMMENTS, **more: Any) -> Answer:
    return await client.send("POST", at, {"body": "said"}, sub=sub, **more)


def from_(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


def refusal(answer: Answer) -> str:
    """The limit that refused; fails where it was none."""
    assert answer.status == 429, answer
    assert answer.code == "rate-limited"
    assert int(answer.headers["Retry-After"]) > 0
    return str(re.findall(r'"(\w+)";r=0', answer.headers["RateLimit"])[0])


async def test_an_author_is_limited_and_others_are_not(client: Client) -> None:
    await limits(client, author_writes_per_minute=2)
    for _ in range(2):
        assert (await write(client)).status == 201
    assert refusal(await write(client)) == "author"
    assert (await write(client, "bob")).status == 201


async def test_the_default_is_thirty_writes_a_minute(client: Client) -> None:
    answers = [await write(client) for _ in range(31)]
    assert [answer.status for answer in answers] == [201] * 30 + [429]


async def test_every_write_counts_and_no_read_does(client: Client) -> None:
    comment = (await write(client)).json
    one = f"{COMMENTS}/{comment['id']}"
    await limits(client, author_writes_per_minute=1)
    writes: tuple[tuple[str, str, object, dict[str, str]], ...] = (
        ("PATCH", one, {"body": "again"}, {"If-Match": '"1"'}),
        ("POST", COMMENTS, {"body": "more"}, {}),
        ("DELETE", one, None, {}),
        ("POST", f"{one}/reports", {"reason": "spam"}, {}),
        ("PUT", f"{one}/vote", {"value": 1}, {}),
        ("POST", f"{S}/me/notifications/read", {"ids": []}, {}),
        ("PATCH", f"{S}/settings", {}, {}),
    )
    for method, path, body, headers in writes:
        answer = await client.send(method, path, body, sub="ann", headers=headers)
        assert refusal(answer) == "author", (method, path)
    for path in (COMMENTS, one, T, f"{S}/me/notifications"):
        answer = await client.get(path, sub="ann")
        assert answer.status == 200
        assert "RateLimit" not in answer.headers


async def test_a_refused_write_writes_nothing_and_is_read_no_further(client: Client) -> None:
    await limits(client, author_writes_per_minute=1)
    assert (await write(client)).status == 201
    assert refusal(await client.send("POST", COMMENTS, data=b"{", sub="ann")) == "author"
    assert (await client.get(T)).json["comments"] == 1


async def test_answers_say_what_is_left(client: Client) -> None:
    await limits(client, author_writes_per_minute=3, site_writes_per_second=100)
    answers = [await write(client) for _ in range(4)]
    policy = '"author";q=3;w=60, "address";q=120;w=60, "site";q=100;w=1'
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {policy}
    left = [re.findall(r'"author";r=(\d+);t=(\d+)', answer.headers["RateLimit"])[0] for answer in answers]
    assert [int(remaining) for remaining, _ in left] == [2, 1, 0, 0]
    # in as many seconds there is one more, as Retry-After says too
    assert left[3][1] == answers[3].headers["Retry-After"]
    assert 0 < int(left[3][1]) <= 20


async def test_an_address_is_limited_whoever_writes(client: Client) -> None:
    await limits(client, address_writes_per_minute=2)
    for sub in ("ann", "bob"):
        assert (await write(client, sub, headers=from_("198.51.100.1"))).status == 201
    assert refusal(await write(client, "cem", headers=from_("198.51.100.1"))) == "address"
    assert (await write(client, "cem", headers=from_("198.51.100.2"))).status == 201


async def test_an_ipv6_subscriber_is_one_address(client: Client) -> None:
    await limits(client, address_writes_per_minute=1)
    assert (await write(client, "ann", headers=from_("2001:db8:1:2::1"))).status == 201
    assert refusal(await write(client, "bob", headers=from_("2001:db8:1:2:3::4"))) == "address"
    assert (await write(client, "bob", headers=from_("2001:db8:1:3::1"))).status == 201


async def test_what_a_stranger_says_of_their_address_is_not_believed(
    database_url: str, redis_url: str, broker_url: str
) -> None:
    async with client_of(database_url, redis_url, broker_url) as client:
        await limits(client, address_writes_per_minute=1)
        assert (await write(client, "ann", headers=from_("198.51.100.1"))).status == 201
        assert refusal(await write(client, "bob", headers=from_("198.51.100.2"))) == "address"


async def test_a_site_is_limited_and_other_sites_are_not(client: Client) -> None:
    await client.running.api.sites.add("blog", SECRET)
    for site in (SITE, "blog"):
        await limits(client, site, site_writes_per_second=1, author_writes_per_minute=None)
    answers = await asyncio.gather(
        *(write(client, f"u-{n}", headers=from_(f"10.9.9.{n}")) for n in range(20))
    )
    assert 201 in {answer.status for answer in answers}
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert {refusal(answer) for answer in refused} == {"site"}
    token = client.token("ann", iss="blog")
    at = f"{BLOG}/threads/story/comments"
    assert (await write(client, None, at=at, headers={"Authorization": f"Bearer {token}"})).status == 201


async def test_an_author_of_the_same_name_elsewhere_is_somebody_else(client: Client) -> None:
    await client.running.api.sites.add("blog", SECRET)
    for site in (SITE, "blog"):
        await limits(client, site, author_writes_per_minute=1, address_writes_per_minute=1)
    assert (await write(client)).status == 201
    assert (await write(client)).status == 429
    token = client.token("ann", iss="blog")
    at = f"{BLOG}/threads/story/comments"
    assert (await write(client, None, at=at, headers={"Authorization": f"Bearer {token}"})).status == 201


async def test_moderators_and_admins_are_not_limited(client: Client) -> None:
    await limits(client, author_writes_per_minute=1, address_writes_per_minute=1, site_writes_per_second=1)
    for _ in range(3):
        answer = await write(client, "mod", roles=("moderator",))
        assert answer.status == 201
        assert "RateLimit" not in answer.headers
    # so that an admin can undo a limit that is too low
    for limit in (2, None):
        change = {"author_writes_per_minute": limit}
        answer = await client.send("PATCH", f"{S}/settings", change, sub="boss", roles=("admin",))
        assert answer.status == 200


async def test_a_server_key_is_limited_as_those_it_acts_for(client: Client) -> None:
    await limits(client, author_writes_per_minute=1, address_writes_per_minute=1)
    key = (await client.running.resources.credentials.add_key(SITE, [])).key
    client.running.api.sites.forget(SITE)
    signed = {"Authorization": f"Bearer {key}"}
    for _ in range(3):
        assert (await write(client, None, headers=signed)).status == 201
    assert (await write(client, None, headers={**signed, "Threadlog-Act-As": "ann"})).status == 201
    assert refusal(await write(client, None, headers={**signed, "Threadlog-Act-As": "ann"})) == "author"
    assert (await write(client, None, headers={**signed, "Threadlog-Act-As": "bob"})).status == 201


async def test_those_not_signed_in_are_counted_by_address_and_use_up_no_site(client: Client) -> None:
    await limits(client, address_writes_per_minute=2, site_writes_per_second=1)
    for _ in range(2):
        answer = await write(client, None, headers=from_("198.51.100.1"))
        assert answer.code == "unauthenticated"
        assert answer.headers["RateLimit-Policy"] == '"address";q=2;w=60'
    assert refusal(await write(client, None, headers=from_("198.51.100.1"))) == "address"
    assert (await write(client, "ann", headers=from_("198.51.100.2"))).status == 201


async def test_without_limits_nothing_is_asked(client: Client) -> None:
    await limits(client, author_writes_per_minute=None, address_writes_per_minute=None)
    answer = await write(client)
    assert answer.status == 201
    assert "RateLimit-Policy" not in answer.headers
    assert client.running.api.limiter.shared.calls == 0


async def test_a_repeat_counts_as_a_write(client: Client) -> None:
    await limits(client, author_writes_per_minute=2)
    keyed = {"Idempotency-Key": "k-1"}
    first, again, third = [await write(client, headers=keyed) for _ in range(3)]
    assert (first.status, again.status) == (201, 201)
    assert first.json["id"] == again.json["id"]
    assert refusal(third) == "author"


async def test_all_processes_share_one_limit(database_url: str, redis_url: str, broker_url: str) -> None:
    async with (
        client_of(database_url, redis_url, broker_url) as one,
        client_of(database_url, redis_url, broker_url) as other,
    ):
        await limits(one, author_writes_per_minute=2)
        other.running.api.sites.forget(SITE)
        assert (await write(one)).status == 201
        assert (await write(other)).status == 201
        assert refusal(await write(one)) == "author"
        assert refusal(await write(other)) == "author"


async def test_redis_holds_no_name_and_forgets(client: Client, broker_url: str) -> None:
    await limits(client, site_writes_per_second=10)
    await write(client, "ann@news.example", headers=from_("198.51.100.1"))
    with redis.Redis.from_url(broker_url) as looking:
        keys = [key for key in looking.keys("*") if b":limit:" in key]
        assert len(keys) == 3
        for key in keys:
            assert key.startswith(b"tl:limit:1:{news}:")
            assert b"ann" not in key
            assert b"198" not in key
            assert 0 < looking.pttl(key) <= 60_000
            assert looking.get(key).isdigit()


# --- one call for many ----------------------------------------------------------------------------------


@pytest.fixture
async def shared(broker_url: str) -> AsyncIterator[SharedLimits]:
    opened = SharedLimits(broker_url)
    await opened.start()
    yield opened
    await opened.stop()


def charge(*keys: str, author: int | None = 100, address: int | None = None) -> Charge:
    return Charge(tuple(key.encode() for key in keys), policy_of(author, address, None))


async def asked(shared: SharedLimits, one: Charge) -> list[int]:
    answer = shared.ask(one)
    assert answer is not None
    used = await answer
    assert used is not None
    return list(used)


async def test_writes_that_come_together_are_one_call(shared: SharedLimits) -> None:
    used = await asyncio.gather(*(asked(shared, charge(f"u-{n}")) for n in range(200)))
    assert shared.calls == 1
    assert {tuple(one) for one in used} == {(600_000,)}
    await asyncio.gather(*(asked(shared, charge(f"u-{n}")) for n in range(600)))
    assert shared.calls == 4  # a call has a bound


async def test_writes_of_one_call_see_each_other(shared: SharedLimits) -> None:
    one, other = charge("ann", "here", author=3, address=5), charge("bob", "here", author=3, address=5)
    used = await asyncio.gather(
        *(asked(shared, one) for _ in range(5)), *(asked(shared, other) for _ in range(5))
    )
    assert shared.calls == 1
    taken = [both[0] >= 0 for both in used]
    # three of ann's, and of bob's the two that the address has left: what ann was refused costs it nothing
    assert taken == [True] * 3 + [False] * 2 + [True] * 2 + [False] * 3


async def test_more_than_may_wait_are_judged_in_the_process(shared: SharedLimits) -> None:
    answers = [shared.ask(charge(f"u-{n}")) for n in range(1100)]
    assert [answer is None for answer in answers] == [False] * 1024 + [True] * 76
    await asyncio.gather(*(answer for answer in answers if answer is not None))


async def test_a_forgotten_script_is_sent_again(shared: SharedLimits, broker_url: str) -> None:
    await asked(shared, charge("ann"))
    with redis.Redis.from_url(broker_url) as looking:
        looking.script_flush()
    assert (await asked(shared, charge("ann")))[0] > 600_000
    assert not shared.away


async def test_one_who_gave_up_disturbs_nobody(shared: SharedLimits) -> None:
    first, second = shared.ask(charge("ann")), shared.ask(charge("bob"))
    assert first is not None
    assert second is not None
    first.cancel()
    assert await second == [600_000]


async def test_a_clock_that_was_set_back_refuses_for_a_window_at_most(
    shared: SharedLimits, broker_url: str
) -> None:
    with redis.Redis.from_url(broker_url) as looking:
        looking.set("ann", 4_000_000_000_000_000)
    (used,) = await asked(shared, charge("ann"))
    assert used == -1 - 60_000_000


@pytest.mark.parametrize("where", ["redis", "process"])
async def test_redis_and_the_process_judge_alike(shared: SharedLimits, where: str) -> None:
    limiter = Limiter(shared, b"secret")
    if where == "process":
        await shared.stop()
    wide = charge("ann", "here", author=4, address=6), charge("bob", "here", author=4, address=6)
    taken = []
    for number in range(10):
        used = await limiter.decide(wide[number % 2])
        taken.append(used[0] >= 0)
        assert len(used) == 2
        assert all((one >= 0) == taken[-1] for one in used)
    assert taken == [True] * 6 + [False] * 4
    assert (limiter.decided_shared, limiter.decided_local) == ((10, 0) if where == "redis" else (0, 10))


# --- without Redis --------------------------------------------------------------------------------------


@pytest.fixture
def own_redis(start_redis: Callable[..., EmbeddedRedis]) -> EmbeddedRedis:
    return start_redis()


@pytest.fixture
async def apart(database_url: str, redis_url: str, own_redis: EmbeddedRedis) -> AsyncIterator[Client]:
    """An API whose limits are on a server of the test's own."""
    async with client_of(database_url, redis_url, own_redis.url(1)) as opened:
        yield opened


async def metric(client: Client, name: str) -> float:
    answer = await client.get("/metrics")
    found = re.search(rf"^{name} (\S+)$", answer.raw.decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


async def test_without_redis_the_process_holds_the_limits(apart: Client, own_redis: EmbeddedRedis) -> None:
    await limits(apart, author_writes_per_minute=2)
    assert (await write(apart, "bob")).status == 201
    assert await metric(apart, "threadlog_rate_limited_in_redis_total") == 1
    own_redis.stop()
    for _ in range(2):
        assert (await write(apart)).status == 201
    assert refusal(await write(apart)) == "author"
    assert await metric(apart, "threadlog_rate_limited_in_process_total") == 3
    assert await metric(apart, "threadlog_rate_limits_local") == 1
    assert await metric(apart, "threadlog_rate_refused_author_total") == 1


async def test_a_redis_that_hangs_is_left_alone_and_comes_back(
    apart: Client, own_redis: EmbeddedRedis
) -> None:
    limiter = apart.running.api.limiter
    await limits(apart, author_writes_per_minute=2)
    assert (await write(apart)).status == 201
    os.kill(own_redis.pid, signal.SIGSTOP)
    try:
        answers = await asyncio.gather(*(write(apart, "bob") for _ in range(8)))
        assert sorted(answer.status for answer in answers) == [201] * 2 + [429] * 6
        assert limiter.decided_local == 8
    finally:
        os.kill(own_redis.pid, signal.SIGCONT)

    async def away() -> bool:
        return limiter.shared.away

    await until(away, "Redis is asked again", lambda now: not now)
    # it kept what it had counted: ann's first write
    assert (await write(apart)).status == 201
    assert refusal(await write(apart)) == "author"
    assert limiter.decided_local == 8


async def test_an_api_starts_without_redis(
    database_url: str, redis_url: str, own_redis: EmbeddedRedis
) -> None:
    url = own_redis.url(1)
    own_redis.stop()
    async with client_of(database_url, redis_url, url) as client:
        await limits(client, author_writes_per_minute=1)
        assert (await write(client)).status == 201
        assert refusal(await write(client)) == "author"


async def test_a_limiter_that_ends_leaves_nobody_waiting(broker_url: str) -> None:
    ending = SharedLimits(broker_url)
    await ending.start()
    answer = ending.ask(charge("ann"))
    assert answer is not None
    await ending.stop()
    assert await answer is None
    assert ending.ask(charge("ann")) is None
