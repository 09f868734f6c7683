"""What is read before it is known who sent it: nothing of it is a fault, whatever it holds."""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, Final
from uuid import UUID

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from services.api.auth import Caller, Verifier, acting_as
from services.api.client_address import ClientAddresses
from services.api.cursors import Cursors
from services.api.problems import Problem
from services.core.addresses import (
    BadAddress,
    check_site,
    decode_thread_key,
    encode_thread_key,
    parse_comment_id,
    site_stream_id,
)
from services.core.page import Place
from services.core.ranking import Sort
from services.core.site import SiteSettings
from services.errors import CursorInvalid
from services.eventlog.sites import KEY_PREFIX, Secret, ServerKey, Site, key_hash
from tests.fuzzing import fuzz

any_text = st.text(st.characters())
headers = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=200)
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

# --- cursors ------------------------------------------------------------------------------------------

CURSORS: Final = Cursors(b"k" * 32)
streams = st.integers(0, 3).map(lambda number: UUID(int=number))
sorts: st.SearchStrategy[Sort] = st.sampled_from(["oldest", "newest", "best", "controversial", "replies"])
versions = st.integers(0, 2**32 - 1)
scores = st.floats(0, 1e9, width=64)
scopes = st.sampled_from([b"inbox ann", b"inbox bob", b"revisions 1", b""])
Read = Callable[[str], object]


@st.composite
def lists(draw: st.DrawFn) -> tuple[str, Read, tuple[object, ...]]:
    """A cursor, what its list reads it with, and the list's name."""
    kind = draw(st.sampled_from(["place", "number", "identity"]))
    if kind == "place":
        stream, sort = draw(streams), draw(sorts)
        cursor = CURSORS.comments(stream, sort, draw(versions), Place(draw(versions), draw(scores)))
        return cursor, lambda given: CURSORS.place(stream, sort, given), (kind, stream, sort)
    scope = draw(scopes)
    if kind == "number":
        cursor = CURSORS.numbered(scope, draw(st.integers(0, 2**64 - 1)))
        return cursor, lambda given: CURSORS.number(scope, given), (kind, scope)
    return (
        CURSORS.identified(scope, draw(st.uuids())),
        lambda given: CURSORS.identity(scope, given),
        (kind, scope),
    )


def read(by: Read, cursor: str) -> object:
    """What a list reads in a cursor, None where it refuses it; fails where anything else happens."""
    try:
        return by(cursor)
    except CursorInvalid:
        return None


@fuzz(300)
@given(lists(), any_text | st.text("ABab01-_+/=. \n", max_size=70) | st.binary(max_size=48))
def test_no_list_reads_a_cursor_that_none_made(made: tuple[str, Read, object], given: str | bytes) -> None:
    cursor = given if isinstance(given, str) else base64.urlsafe_b64encode(given).decode()
    assert read(made[1], cursor) is None


@fuzz(500)
@given(lists(), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 7)), min_size=1, max_size=4))
def test_a_changed_cursor_is_refused(made: tuple[str, Read, object], flips: list[tuple[int, int]]) -> None:
    cursor, by, _ = made
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    before = bytes(raw)
    for place, bit in flips:
        raw[place % len(raw)] ^= 1 << bit
    assume(bytes(raw) != before)
    assert read(by, base64.urlsafe_b64encode(raw).rstrip(b"=").decode()) is None


@fuzz(500)
@given(lists(), st.integers(0, 100), st.sampled_from("ABab01-_+/=. \n\u0660") | st.just(""))
def test_however_a_cursor_is_spelled_it_means_what_it_meant(
    made: tuple[str, Read, object], place: int, letter: str
) -> None:
    cursor, by, _ = made
    place %= len(cursor) + 1
    for spelled in (cursor[:place] + letter + cursor[place + 1 :], cursor[:place] + letter + cursor[place:]):
        assert read(by, spelled) in (None, by(cursor))


@fuzz(300)
@given(lists(), lists())
def test_only_its_own_list_reads_a_cursor(
    one: tuple[str, Read, tuple[object, ...]], other: tuple[str, Read, tuple[object, ...]]
) -> None:
    assert (read(other[1], one[0]) is not None) == (one[2] == other[2])
    assert read(lambda given: Cursors(b"x" * 32).number(b"", given), one[0]) is None


# --- who sends it -------------------------------------------------------------------------------------

RESERVED: Final = ("guest:", "key:", "import:")
SECRET: Final = b"a-secret-of-at-least-thirty-two-bytes"
KEY: Final = KEY_PREFIX + "a" * 43
SITE: Final = Site(
    "news",
    site_stream_id("news"),
    SiteSettings(token_issuer="https://sso.example", token_audience="comments"),
    0,
    (Secret("HS256", SECRET),),
    {key_hash(KEY): ServerKey(UUID(int=1), None, frozenset({"operator"}))},
    Secret("HS256", b"what the tokens of guests are signed with"),
)


def caller_of(header: str) -> Caller | None:
    """Who signs in; fails where anything but a 401 happens."""
    try:
        return Verifier().caller(SITE, header)
    except Problem as problem:
        if problem.code in ("token-invalid", "token-expired") and "WWW-Authenticate" in problem.headers:
            return None
        raise


def signed(head: bytes, payload: bytes) -> str:
    """A JWT of any header and payload with a signature that is right."""
    parts = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, payload))
    mac = base64.urlsafe_b64encode(hmac.digest(SECRET, parts, "sha256")).rstrip(b"=")
    return f"Bearer {(parts + b'.' + mac).decode()}"


segments = st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode())


@fuzz(500)
@given(
    any_text
    | headers
    | st.builds("Bearer {}".format, headers)
    | st.builds("Bearer {}.{}.{}".format, segments, segments, segments)
    | st.builds(f"bearer  {KEY_PREFIX}{{}}".format, headers)
)
@example("Bearer " + "." * 4096)
@example(f"Bearer {KEY}\u0100")
@example("Bearer \ud800")
def test_no_header_that_nobody_signed_names_anybody(header: str) -> None:
    assert caller_of(header) is None


RIGHT: Final = {"iss": "news", "sub": "ann", "aud": "comments", "exp": int(time.time()) + 3600}
changes = st.fixed_dictionaries(
    {},
    optional={
        "iss": st.sampled_from(["https://sso.example", "blog"]) | json,
        "sub": st.sampled_from(["guest:1", "key:1", "import:1"]) | json,
        "aud": st.just(["comments"]) | json,
        "exp": st.just(0) | json,
        "nbf": st.just(0) | json,
        "name": json,
        "avatar": json,
        "email": json,
        "roles": st.lists(st.sampled_from(["moderator", "admin", "operator"])) | json,
    },
)
claims = st.tuples(
    changes, st.sets(st.sampled_from(["iss", "sub", "aud", "exp", "name", "roles"]), max_size=2)
).map(lambda drawn: RIGHT | {name: value for name, value in drawn[0].items() if name in drawn[1]})
heads = st.just({"alg": "HS256", "typ": "JWT"}) | st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256", "none", "HS512", "RS256"]) | json},
    optional={"typ": json, "kid": json, "crit": json, "jwk": json, "b64": json, "zip": json, "cty": json},
)


def dumped(value: object) -> bytes:
    return orjson.dumps(value)


@fuzz(400)
@given(heads.map(dumped) | st.binary(max_size=40), (claims | json).map(dumped) | st.binary(max_size=40))
@example(b'{"alg":"HS256"}', b"[" * 2000)
@example(b"[" * 2000, b"{}")
@example(b'{"alg":"HS256"}', b'{"iss":"news","sub":"a","aud":"comments","exp":1e400}')
@example(b'{"alg":"HS256"}', b'{"iss":"news","sub":"\\ud800","aud":"comments","exp":4000000000}')
def test_whatever_a_site_signs_is_somebody_or_a_401(head: bytes, payload: bytes) -> None:
    caller = caller_of(signed(head, payload))
    if caller is not None:
        given = orjson.loads(payload)
        assert not caller.id.startswith(RESERVED)
        assert given["iss"] in (SITE.name, SITE.settings.token_issuer)
        assert given["exp"] > time.time() - 60
        assert not caller.operator
        assert caller.admin <= caller.moderator
        assert orjson.loads(head)["alg"] == "HS256"


def test_somebody_is_somebody() -> None:
    caller = caller_of(signed(b'{"alg":"HS256"}', dumped(RIGHT)))
    assert caller is not None
    assert caller.id == "ann"


@fuzz(300)
@given(any_text | headers)
def test_a_server_acts_as_nobody_whom_no_token_could_name(sub: str) -> None:
    server = caller_of(f"Bearer {KEY}")
    assert server is not None
    try:
        acting = acting_as(server, sub)
    except Problem as problem:
        if problem.code == "bad-header":
            return
        raise
    assert not acting.id.startswith(RESERVED)
    assert 1 <= len(acting.id) <= 255
    assert (acting.operator, acting.admin) == (True, False)


# --- where it comes from ------------------------------------------------------------------------------

PROXIES: Final = ClientAddresses([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])
hops = (
    st.ip_addresses().map(str)
    | st.sampled_from(
        ["10.0.0.1", "[2001:db8::1]:80", "::ffff:10.1.1.1", "fe80::1%eth0", "unknown", "", "_hidden", '"']
    )
    | headers
)
strangers = st.ip_addresses(v=4).filter(lambda address: address not in ip_network("10.0.0.0/8"))


@fuzz(400)
@given(any_text | hops, st.lists(hops, max_size=20).map(",".join) | any_text)
def test_an_address_is_found_or_none_and_counted_by_what_it_is(peer: str, forwarded: str) -> None:
    address, bucket = PROXIES.of(peer, forwarded)
    assert (address is None) == (bucket is None)
    if address is not None and bucket is not None:
        assert address in ip_network(bucket)


@fuzz(400)
@given(
    strangers,
    st.lists(hops, max_size=20),
    st.lists(st.sampled_from(["10.0.0.2", "2001:db8::7"]), max_size=10),
)
def test_nobody_chooses_their_own_address(client: Any, invented: list[str], proxies: list[str]) -> None:
    # what a client writes itself stands to the left of what the first proxy wrote
    forwarded = ", ".join([*invented, str(client), *proxies])
    assert PROXIES.of("10.0.0.1", forwarded)[0] == client
    # and whoever is no proxy of ours is where they connect from
    assert PROXIES.of(str(client), forwarded)[0] == client


# --- what it names ------------------------------------------------------------------------------------

escaped = st.lists(
    st.binary(max_size=3).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw)) | any_text, max_size=8
)


@fuzz(500)
@given(st.binary(max_size=80) | escaped.map("".join) | segments.map("~{}".format))
@example(b"%2e%2E")
@example("~")
@example("%7eYQ")
@example("~YR")
@example("%C0%AF")
def test_a_segment_names_one_thread_in_one_way_or_none(segment: str | bytes) -> None:
    try:
        key = decode_thread_key(segment)
    except BadAddress:
        return
    assert key not in (".", "..")
    assert 1 <= len(key.encode()) <= 512
    assert key.isprintable() or not any(letter < " " or "\x7f" <= letter <= "\x9f" for letter in key)
    assert decode_thread_key(encode_thread_key(key)) == key


@fuzz(300)
@given(any_text | st.uuids().map(str))
def test_what_names_no_comment_and_no_site_is_told_so(name: str) -> None:
    found = parse_comment_id(name)
    assert found is None or (found.version == 7 and str(found) == name.lower())
    try:
        assert check_site(name).isascii()
    except BadAddress:
        assert name == "" or not (name.isascii() and name.isalnum() and name.islower() and len(name) < 64)


@pytest.mark.parametrize("alias", ["A", "\uff41", "a\n", "a/", "a%2f", "\u0430"])
def test_a_site_has_one_name(alias: str) -> None:
    with pytest.raises(BadAddress):
        check_site(alias)
