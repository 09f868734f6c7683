"""Signing in over HTTP: keys that take over, server keys, and what a request costs the database."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import asyncpg
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.api.app import create_app, runner
from services.errors import ConfigurationError, CredentialRefused, SiteNotFound
from services.eventlog.credentials import SECRETS, SERVER_KEYS, Credentials
from services.eventlog.keys import MasterKey
from services.eventlog.sites import Sites
from tests.integration.api_client import SECRET, SITE, Answer, Client, S, T, client_of
from tests.processes import until

NEW_SECRET = "the secret that takes over, of 32 bytes or more"


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as running:
        yield running


@pytest.fixture
def credentials(client: Client) -> Credentials:
    return client.running.resources.credentials


def bearer(token: str, acting_as: str | None = None) -> dict[str, str]:
    given = {"Authorization": f"Bearer {token}"}
    return given if acting_as is None else given | {"Threadlog-Act-As": acting_as}


def claims(sub: str = "ann", **more: object) -> dict[str, Any]:
    return {"iss": SITE, "sub": sub, "exp": 4_000_000_000, **more}


def pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


async def settle(client: Client, **changes: object) -> None:
    answer = await client.send("PATCH", f"{S}/settings", changes, sub="root", roles=("admin",))
    assert answer.status == 200, answer.raw


async def becomes(client: Client, status: int, headers: dict[str, str]) -> None:
    """Wait until a site is read with this status: other processes hear of a change within a second."""

    async def ask() -> int:
        return (await client.get(T, headers=headers)).status

    await until(ask, f"a read answered with {status}", lambda found: found == status)


# --- secrets ----------------------------------------------------------------------------------------------


async def test_a_key_takes_over_from_another_without_a_pause(
    client: Client, credentials: Credentials
) -> None:
    old, new = bearer(client.token("ann")), bearer(jwt.encode(claims(), NEW_SECRET, algorithm="HS256"))
    assert (await client.get(T, headers=old)).status == 200
    assert (await client.get(T, headers=new)).code == "token-invalid"
    (before,) = await credentials.secrets(SITE)

    await credentials.add_secret(SITE, "HS256", NEW_SECRET.encode())
    await becomes(client, 200, new)
    assert (await client.get(T, headers=old)).status == 200

    await credentials.retire_secret(SITE, before.id)
    await becomes(client, 401, old)
    assert (await client.get(T, headers=new)).status == 200


@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256"])
async def test_a_site_goes_over_to_a_key_pair(
    client: Client, credentials: Credentials, algorithm: Any
) -> None:
    pair = (
        ed25519.Ed25519PrivateKey.generate()
        if algorithm == "EdDSA"
        else rsa.generate_private_key(65537, 2048)
    )
    await credentials.add_secret(SITE, algorithm, pem(pair))
    await becomes(client, 200, bearer(jwt.encode(claims(), pair, algorithm=algorithm)))
    answer = await client.send(
        "POST", f"{T}/comments", {"body": "x"}, headers=bearer(jwt.encode(claims(), pair, algorithm))
    )
    assert answer.json["author"]["id"] == "ann"
    newest, _ = await credentials.secrets(SITE)
    assert newest.algorithm == algorithm
    assert newest.fingerprint is not None


async def test_a_third_secret_is_refused_with_the_way_out(credentials: Credentials) -> None:
    await credentials.add_secret(SITE, "HS256", NEW_SECRET.encode())
    newest, oldest = await credentials.secrets(SITE)
    for given in ("another secret of thirty-two bytes", "and one more of thirty-two bytes, too"):
        with pytest.raises(CredentialRefused, match=f"threadlog site secret retire {SITE} {oldest.id}"):
            await credentials.add_secret(SITE, "HS256", given.encode())
    await credentials.retire_secret(SITE, oldest.id)
    assert [one.id for one in await credentials.secrets(SITE)] == [newest.id]


async def test_two_who_add_at_once_do_not_add_a_third(
    client: Client, credentials: Credentials, database_url: str
) -> None:
    given = [f"secret number {number}, of 32 bytes or more".encode() for number in range(3)]
    holder = await asyncpg.connect(database_url)
    try:
        async with holder.transaction():
            await holder.execute("select from sites where site = $1 for update", SITE)
            adding = [asyncio.create_task(credentials.add_secret(SITE, "HS256", one)) for one in given]

            async def waiting() -> int:
                # Within a transaction, activity once seen is seen again, unless one says so.
                await holder.execute("select pg_stat_clear_snapshot()")
                return int(
                    await holder.fetchval(
                        "select count(*) from pg_stat_activity"
                        " where datname = current_database() and wait_event_type = 'Lock'"
                    )
                )

            await until(waiting, "all of them at once", lambda found: found == len(given))
    finally:
        await holder.close()
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert sum(isinstance(one, UUID) for one in outcomes) == SECRETS - 1
    assert sum(isinstance(one, CredentialRefused) for one in outcomes) == len(given) - 1
    assert len(await credentials.secrets(SITE)) == SECRETS


async def test_the_last_secret_is_retired_only_on_purpose(client: Client, credentials: Credentials) -> None:
    (only,) = await credentials.secrets(SITE)
    with pytest.raises(CredentialRefused, match="--force"):
        await credentials.retire_secret(SITE, only.id)
    assert len(await credentials.secrets(SITE)) == 1
    await credentials.retire_secret(SITE, only.id, last=True)
    assert await credentials.secrets(SITE) == []
    await becomes(client, 401, bearer(client.token("ann")))
    with pytest.raises(CredentialRefused, match="has no secret"):
        await credentials.retire_secret(SITE, only.id)


async def test_a_secret_of_another_site_is_not_there_to_retire(
    client: Client, credentials: Credentials
) -> None:
    await client.running.api.sites.add("blog", SECRET)
    (theirs,) = await credentials.secrets("blog")
    with pytest.raises(CredentialRefused):
        await credentials.retire_secret(SITE, theirs.id, last=True)
    assert await credentials.secrets("blog") == [theirs]
    with pytest.raises(SiteNotFound):
        await credentials.secrets("nowhere")


PRIVATE = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("algorithm", "given", "reason"),
    [
        ("HS256", b"short", "at least 32 bytes"),
        ("HS256", pem(ed25519.Ed25519PrivateKey.generate()), "not a secret"),
        ("EdDSA", pem(rsa.generate_private_key(65537, 2048)), "takes an Ed25519 key"),
        ("RS256", pem(ed25519.Ed25519PrivateKey.generate()), "takes an RSA key"),
        ("RS256", pem(rsa.generate_private_key(65537, 1024)), "1024 bits; at least 2048"),
        ("EdDSA", PRIVATE, "a private key"),
        ("EdDSA", b"ssh-ed25519 AAAA", "no public key in PEM"),
        ("RS256", b"", "no public key in PEM"),
    ],
    ids=range(8),
)
async def test_a_key_that_is_not_safe_is_refused(
    credentials: Credentials, algorithm: Any, given: bytes, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        await credentials.add_secret(SITE, algorithm, given)
    assert len(await credentials.secrets(SITE)) == 1


async def test_the_same_key_is_not_added_twice(credentials: Credentials) -> None:
    with pytest.raises(CredentialRefused, match="already"):
        await credentials.add_secret(SITE, "HS256", SECRET)


# --- server keys ------------------------------------------------------------------------------------------


async def post_with(client: Client, headers: dict[str, str]) -> Answer:
    return await client.send("POST", f"{T}/comments", {"body": "x"}, headers=headers)


async def test_a_server_key_writes_as_itself_and_as_others(client: Client, credentials: Credentials) -> None:
    made = await credentials.add_key(SITE, ["moderator"], "The desk")
    await becomes(client, 200, bearer(made.key))
    own = await post_with(client, bearer(made.key))
    assert own.json["author"]["id"] == f"key:{made.id}"
    assert own.json["author"]["name"] == "The desk"
    acting = await post_with(client, bearer(made.key, "u-17"))
    assert acting.json["author"]["id"] == acting.json["author"]["name"] == "u-17"
    edited = await client.send(
        "PATCH", f"{T}/comments/{acting.json['id']}", {"body": "y"}, sub="u-17", headers={"If-Match": '"1"'}
    )
    assert edited.json["edited_by"] == "author"
    assert (await client.send("PATCH", T, {"title": "x"}, headers=bearer(made.key, "u-17"))).status == 200


async def test_a_sub_to_act_as_may_be_written_in_any_script(client: Client, credentials: Credentials) -> None:
    made = await credentials.add_key(SITE, [])
    await becomes(client, 200, bearer(made.key))
    answer = await client.raw(
        (
            f"POST {T}/comments HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Authorization: Bearer {made.key}\r\nThreadlog-Act-As: Jürgen 雪\r\n"
            'Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{"body":"x"}'
        ).encode()
    )
    assert answer.startswith(b"HTTP/1.1 201")
    assert '"id":"Jürgen 雪"'.encode() in answer


@pytest.mark.parametrize("sub", ["guest:1", "key:1", "import:1", "x" * 256, ""])
async def test_a_key_acts_as_nobody_who_cannot_be(client: Client, credentials: Credentials, sub: str) -> None:
    made = await credentials.add_key(SITE, [])
    await becomes(client, 200, bearer(made.key))
    assert (await post_with(client, bearer(made.key, sub))).code == "bad-header"


async def test_a_key_is_revoked_within_a_second_and_stays_on_the_list(
    client: Client, credentials: Credentials
) -> None:
    kept, made = await credentials.add_key(SITE, []), await credentials.add_key(SITE, ["operator"])
    await becomes(client, 200, bearer(made.key))
    revoked = await credentials.revoke_key(SITE, made.id)
    await becomes(client, 401, bearer(made.key))
    assert await credentials.revoke_key(SITE, made.id) == revoked
    shown = await credentials.keys(SITE)
    assert [(one.id, one.revoked_at is None) for one in shown] == [(kept.id, True), (made.id, False)]
    assert (await client.get(T, headers=bearer(kept.key))).status == 200
    with pytest.raises(CredentialRefused):
        await credentials.revoke_key(SITE, UUID(int=0))


async def test_a_key_is_stored_as_no_more_than_a_hash(client: Client, credentials: Credentials) -> None:
    made = await credentials.add_key(SITE, ["admin"], "x")
    rows = await client.running.resources.pool.fetch("select t::text as row from server_keys t")
    assert len(rows) == 1
    secret = made.key.removeprefix("tl_")
    assert len(secret) == 43
    assert secret not in rows[0]["row"]
    assert secret.encode().hex() not in rows[0]["row"]
    assert secret not in repr(made)


async def test_a_site_has_only_so_many_living_keys(client: Client, credentials: Credentials) -> None:
    await client.running.resources.pool.execute(
        "insert into server_keys (key_id, site, roles, hash)"
        " select gen_random_uuid(), $1, '{}', sha256(n::text::bytea) from generate_series(1, $2) as n",
        SITE,
        SERVER_KEYS - 1,
    )
    made = await credentials.add_key(SITE, [])
    with pytest.raises(CredentialRefused, match="revoke"):
        await credentials.add_key(SITE, [])
    await credentials.revoke_key(SITE, made.id)
    await credentials.add_key(SITE, [])
    with pytest.raises(ConfigurationError, match="no such role: king"):
        await credentials.add_key(SITE, ["king"])


async def test_browsers_are_not_told_of_acting_as(client: Client) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    await client.send("PATCH", f"{S}/settings", {"origins": ["https://a.example"]}, sub="r", roles=("admin",))
    answer = await client.send("OPTIONS", f"{T}/comments", headers=asked)
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert "act-as" not in answer.headers["Access-Control-Allow-Headers"].lower()


async def test_operators_read_metrics_from_anywhere(client: Client, credentials: Credentials) -> None:
    operator = await credentials.add_key(SITE, ["operator"])
    admin = await credentials.add_key(SITE, ["admin", "moderator"])
    revoked = await credentials.add_key(SITE, ["operator"])
    await credentials.revoke_key(SITE, revoked.id)
    settings = client.running.api.settings.model_copy(update={"metrics_networks": [ip_network("10.0.0.0/8")]})
    running = runner(create_app(dataclasses.replace(client.running.api, settings=settings)))
    await running.setup()
    try:
        await web.TCPSite(running, "127.0.0.1", 0).start()
        elsewhere = Client(dataclasses.replace(client.running, port=running.addresses[0][1]), client.session)
        given = (operator.key, admin.key, revoked.key, "tl_x", "tl_é", client.token("ann", "operator"))
        found = [(await elsewhere.get("/metrics", headers=bearer(one))).status for one in given]
    finally:
        await running.cleanup()
    assert found == [200, 403, 403, 403, 403, 403]


# --- what it costs ----------------------------------------------------------------------------------------


class Counted:
    """A pool that counts what is asked of it."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self.asked = 0

    async def fetchrow(self, query: str, *arguments: object) -> asyncpg.Record | None:
        self.asked += 1
        return await self._pool.fetchrow(query, *arguments)


async def test_all_requests_of_a_second_share_one_query_with_all_keys(client: Client) -> None:
    found = client.running.resources
    for _ in range(3):
        await found.credentials.add_key(SITE, ["operator"])
    pool: Any = Counted(found.pool)
    sites = Sites(pool, found.master, max_age=3600)
    first, *others = await asyncio.gather(*(sites.get(SITE) for _ in range(50)))
    assert pool.asked == 1
    assert first is not None
    assert all(other is first for other in others)
    assert (len(first.secrets), len(first.keys)) == (1, 3)
    assert await sites.get(SITE) is first
    assert pool.asked == 1
    sites.forget(SITE)
    assert await sites.get(SITE) == first
    assert pool.asked == 2


async def test_a_site_that_did_not_change_is_the_same_when_it_is_read_again(
    client: Client, credentials: Credentials
) -> None:
    sites = Sites(client.running.resources.pool, client.running.resources.master, max_age=0)
    first = await sites.get(SITE)
    assert await sites.get(SITE) is first
    made = await credentials.add_key(SITE, [])
    second = await sites.get(SITE)
    assert second is not None
    assert [key.id for key in second.keys.values()] == [made.id]
    assert await sites.get(SITE) is second
    await settle(client, guests=True)
    third = await sites.get(SITE)
    assert third is not None
    assert third.settings.guests


async def test_a_site_that_is_forgotten_while_it_is_read_is_read_again(client: Client) -> None:
    found = client.running.resources
    pool: Any = Counted(found.pool)
    sites = Sites(pool, found.master, max_age=3600)
    reading = asyncio.create_task(sites.get(SITE))
    await asyncio.sleep(0)
    sites.forget(SITE)
    assert await reading is not None
    await sites.get(SITE)
    assert pool.asked == 2


async def test_who_waits_for_a_site_hears_why_it_cannot_be_read(client: Client) -> None:
    class Away:
        async def fetchrow(self, _query: str, *_arguments: object) -> None:
            raise ConnectionRefusedError

    pool: Any = Away()
    sites = Sites(pool, MasterKey(client.running.api.settings.master_key.get_secret_value()))
    outcomes = await asyncio.gather(*(sites.get(SITE) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in outcomes] == [ConnectionRefusedError] * 3
