"""What caches are told, and what a conditional or compressed read is answered (RFC 9110, RFC 9111)."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable

import brotli
import pytest
import zstandard

from tests.integration.api_client import T, client_of
from tests.integration.remembering import COMMENTS, Remembering, remembering

OPENED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": zstandard.ZstdDecompressor().decompress,
}
CODINGS = ["gzip", "br", "zstd"]


@pytest.fixture
async def there(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Remembering]:
    async with client_of(database_url, redis_url, broker_url) as client, remembering(client) as running:
        await running.client.post("many words " * 300)
        yield running


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("sub", [None, "ann", "eve"])
async def test_a_page_is_compressed_as_the_client_takes_it(
    there: Remembering, coding: str, sub: str | None
) -> None:
    given = {} if sub is None else {"Authorization": f"Bearer {there.client.token(sub)}"}
    plain = await there.ask(**given)
    assert "Content-Encoding" not in dict(plain.headers)
    packed = await there.ask(Accept_Encoding=coding, **given)
    if "Content-Encoding" not in dict(packed.headers):
        assert sub is not None  # what is not everybody's is sent as it is
        assert packed.body == plain.body
        return
    assert packed["Content-Encoding"] == coding
    assert OPENED[coding](packed.body) == plain.body
    assert int(packed["Content-Length"]) == len(packed.body) < len(plain.body)


async def test_the_best_coding_is_taken_and_several_lines_are_one(there: Remembering) -> None:
    assert (await there.ask(Accept_Encoding="gzip, deflate, br, zstd"))["Content-Encoding"] == "zstd"
    assert (await there.ask(Accept_Encoding="gzip;q=1, zstd;q=0.1"))["Content-Encoding"] == "gzip"
    assert (await there.ask(Accept_Encoding="gzip;q=0.1\r\nAccept-Encoding: br"))["Content-Encoding"] == "br"
    assert "Content-Encoding" not in dict((await there.ask(Accept_Encoding="deflate")).headers)


async def test_a_small_answer_is_sent_as_it_is(there: Remembering) -> None:
    small = await there.ask(T, Accept_Encoding="zstd")
    assert (small.status, "Content-Encoding" in dict(small.headers)) == (200, False)
    assert (await there.ask(T, Accept_Encoding="zstd, identity;q=0"))["Content-Encoding"] == "zstd"


async def test_each_coding_has_a_strong_tag_of_its_own(there: Remembering) -> None:
    """One that is named for another coding is none of this one: what stands for it cannot be read."""
    tags = {coding: (await there.ask(Accept_Encoding=coding))["Etag"] for coding in ["identity", *CODINGS]}
    assert len(set(tags.values())) == len(tags)
    assert all(tag.startswith('"') for tag in tags.values())
    for has in tags.values():
        for wants, tag in tags.items():
            for given in (has, f'"x", W/{has}'):
                for _ in range(3):  # the shortcut, too
                    reply = await there.ask(If_None_Match=given, Accept_Encoding=wants)
                    assert (reply.status, reply["Etag"]) == (304 if has == tag else 200, tag)
                    assert bool(reply.body) is (has != tag)
    assert (await there.ask(If_None_Match="*")).status == 304
    for other in ('"x"', tags["identity"].strip('"'), f"{tags['identity'][:-1]}x", ""):
        assert (await there.ask(If_None_Match=other)).status == 200


async def test_a_304_tells_what_the_200_would_but_for_the_body(there: Remembering) -> None:
    full = await there.ask()
    same = await there.ask(If_None_Match=full["Etag"])
    left_out = {"Content-Length", "Content-Type"}
    assert dict(same.lasting) == {name: value for name, value in full.lasting if name not in left_out}


async def test_a_change_is_another_tag(there: Remembering) -> None:
    before = await there.ask()
    await there.client.post("two")
    after = await there.ask(f"{COMMENTS}?min_version=2", If_None_Match=before["Etag"])
    assert after.status == 200
    assert after["Etag"] != before["Etag"]


async def test_what_everybody_sees_may_be_kept_for_a_second_by_any_cache(there: Remembering) -> None:
    comment = (await there.client.get(COMMENTS)).json["comments"][0]
    for path in (COMMENTS, T, f"{COMMENTS}/{comment['id']}"):
        for given in ({}, {"Accept_Encoding": "zstd"}, {"Origin": "https://a.example"}):
            reply = await there.ask(path, **given)
            assert reply["Cache-Control"] == "public, max-age=1, stale-while-revalidate=10"
            assert reply["Vary"] == "Authorization, Accept-Encoding, Origin"


@pytest.mark.parametrize(("sub", "roles"), [("ann", ()), ("eve", ()), ("mod", ("moderator",))])
async def test_what_somebody_signed_in_is_shown_is_theirs_alone(
    there: Remembering, sub: str, roles: tuple[str, ...]
) -> None:
    comment = (await there.client.get(COMMENTS)).json["comments"][0]
    for path in (COMMENTS, T, f"{COMMENTS}/{comment['id']}"):
        reply = await there.client.get(path, sub=sub, roles=roles)
        assert reply.headers["Cache-Control"] == "private, no-cache"
        assert reply.headers["Vary"] == "Authorization, Accept-Encoding, Origin"
        again = {"If-None-Match": reply.headers["Etag"]}
        assert (await there.client.get(path, sub=sub, roles=roles, headers=again)).status == 304


@pytest.mark.parametrize("coding", ["identity", *CODINGS])
async def test_head_is_a_get_without_the_body(there: Remembering, coding: str) -> None:
    get = await there.ask(Accept_Encoding=coding)
    for _ in range(2):
        head = await there.ask(COMMENTS, "HEAD", Accept_Encoding=coding)
        assert (head.status, head.lasting, head.body) == (200, get.lasting, b"")


async def test_a_refusal_is_kept_by_nobody(there: Remembering) -> None:
    for path in (f"{COMMENTS}?limit=0", f"{COMMENTS}/nothing", f"{T}?min_version=9"):
        reply = await there.ask(path, If_None_Match="*")
        assert reply.status in (400, 404)
        assert reply["Cache-Control"] == "private, no-store"
