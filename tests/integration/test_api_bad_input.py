"""Bad input is a clear 4xx: nothing is written, nothing secret is logged."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import jwt
import pytest

from tests.integration.api_client import SITE, Client, S, T, client_of

MARK = "hush-hush"
"""What every body and token here holds, and no log may."""


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as running:
        yield running


async def events_of(client: Client) -> int:
    return int(await client.running.resources.pool.fetchval("select count(*) from events"))


def body(text: object = MARK, **more: object) -> bytes:
    return json.dumps({"body": text, **more}).encode()


BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, "malformed-json"),
    (b"{", 400, "malformed-json"),
    (b'{"body": "' + MARK.encode(), 400, "malformed-json"),
    (b'{"body": "\xff\xfe"}', 400, "malformed-json"),
    (b'{"body": "\xed\xa0\x80"}', 400, "malformed-json"),
    (b'{"body": "a\x00b"}', 400, "malformed-json"),
    (b'{"body": NaN}', 400, "malformed-json"),
    (b'{"body": "\\ud800", "x": NaN}', 400, "malformed-json"),
    (b'{"body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "malformed-json"),
    (b'{"body": "\\ud800", "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "malformed-json"),
    (b"[" * 5000, 400, "malformed-json"),
    (b"null", 422, "invalid"),
    (b"[]", 422, "invalid"),
    (b'"text"', 422, "invalid"),
    (b"{}", 422, "invalid"),
    (body(7), 422, "invalid"),
    (body(None), 422, "invalid"),
    (body([MARK]), 422, "invalid"),
    (body({"body": MARK}), 422, "invalid"),
    (body(""), 422, "invalid"),
    (body(" \u200b\u2060\n"), 422, "invalid"),
    (body("\u202e\u202c"), 422, "invalid"),
    (body("a\u0000b"), 422, "invalid"),
    (body("a\u001bb"), 422, "invalid"),
    (b'{"body": "a\\ud800b"}', 422, "invalid"),
    (b'{"body": "a\\udc00\\ud800b"}', 422, "invalid"),
    (body("x" * 10_001), 422, "invalid"),
    (body("\U0001f4a9" * 10_000 + "x"), 422, "invalid"),
    (body(extra=1), 422, "invalid"),
    (body(id="7"), 422, "invalid"),
    (body(parent_id=7), 422, "invalid"),
    (body(parent_id="7"), 404, "parent-not-found"),
    (body(parent_id="0199c0de-0000-7000-8000-000000000000"), 404, "parent-not-found"),
    (body(thread="story"), 422, "invalid"),
    (body(thread={"key": "other"}), 422, "invalid"),
    (body(thread={"title": "x" * 301}), 422, "invalid"),
    (body(thread={"title": "a\nb"}), 422, "invalid"),
    (body(thread={"url": "javascript:alert(1)"}), 422, "invalid"),
    (body(thread={"url": "https://a.example/" + "x" * 2048}), 422, "invalid"),
]


@pytest.mark.parametrize("roles", [(), ("admin",)])
async def test_no_bad_body_is_posted(
    client: Client, roles: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    for place, (data, status, code) in enumerate(BODIES):
        answer = await client.send("POST", f"{T}/comments", data=data, sub=f"u-{place}", roles=roles)
        assert (answer.status, answer.code) == (status, code), data[:60]
        assert MARK not in answer.raw.decode()
    assert await events_of(client) == 0
    assert_silent(capfd)


async def test_wrong_fields_are_named(client: Client) -> None:
    answer = await client.send("POST", f"{T}/comments", {"parent_id": 7, "colour": "red"}, sub="ann")
    assert {one["field"] for one in answer.json["errors"]} == {"body", "parent_id", "colour"}
    answer = await client.send("POST", f"{T}/comments", data=b'{"body":"\\ud800"}', sub="ann")
    assert answer.json["errors"][0]["field"] == "body"
    many = {f"field {number}": 1 for number in range(5000)}
    answer = await client.send("POST", f"{T}/comments", many, sub="ann")
    assert len(answer.json["errors"]) == 20


@pytest.mark.parametrize(
    "text", ["\u202eevil\u202c", "a\u200bb", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "e\u0301"]
)
async def test_bidi_and_zero_width_characters_stay(client: Client, text: str) -> None:
    posted = await client.post(text)
    assert posted["body"] == ("é" if text == "e\u0301" else text)


@pytest.mark.parametrize("size", [256 * 1024 + 1, 1_000_000])
async def test_a_body_that_is_too_large_is_refused(client: Client, size: int) -> None:
    data = b'{"body": "' + b"x" * (size - 12) + b'"}'
    answer = await client.send("POST", f"{T}/comments", data=data, sub="ann")
    assert (answer.status, answer.code) == (413, "too-large")
    assert await events_of(client) == 0


async def test_a_body_in_chunks_is_measured_too(client: Client) -> None:
    head = (
        f"POST {T}/comments HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {client.token('ann')}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = await client.raw(head.encode() + chunk * 5 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"urn:threadlog:problem:too-large" in answer


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
    ids=lambda headers: "; ".join(headers.values()),
)
async def test_only_plain_json_is_read(client: Client, headers: dict[str, str]) -> None:
    answer = await client.send("POST", f"{T}/comments", data=body(), sub="ann", headers=headers)
    assert (answer.status, answer.code) == (415, "not-json")


KEYS: list[tuple[str, str | None]] = [
    ("%FF", None),
    ("%25FF", "%FF"),
    ("%2525FF", "%25FF"),
    ("a%2Fb", "a/b"),
    ("a%252Fb", "a%2Fb"),
    ("%C3%A9", "é"),
    ("%7Ba%7D", "{a}"),
    ("a%20b", "a b"),
    ("a+b", "a+b"),
    ("a%3Fb%23c", "a?b#c"),
    ("~YS9i", "a/b"),
    ("%7EYS9i", "a/b"),
    ("~YS9i=", None),
    ("~!", None),
    ("~", None),
    (".", None),
    ("..", None),
    ("%2E", None),
    ("%2e%2E", None),
    ("~Li4", None),
    ("...", "..."),
    ("%00", None),
    ("a%0Ab", None),
    ("a%C2%85b", None),
    ("%ED%A0%80", None),
    ("%C0%AF", None),
    ("%zz", None),
    ("%", None),
    ("x" * 512, "x" * 512),
    ("x" * 513, None),
    ("%C3%A9" * 256, "é" * 256),
    ("%C3%A9" * 257, None),
]


async def test_thread_keys_are_read_from_the_raw_path(client: Client) -> None:
    for segment, key in KEYS:
        for path in (f"{S}/threads/{segment}", f"{S}/threads/{segment}/comments"):
            answer = await client.get(path)
            if key is None:
                assert (answer.status, answer.code) == (400, "bad-path"), segment
            else:
                assert answer.status == 200, segment
                found = answer.json["thread"] if path.endswith("/comments") else answer.json
                assert found["key"] == key


async def test_two_spellings_of_a_key_are_one_thread_and_two_keys_are_two(client: Client) -> None:
    posted = await client.post("here", at=f"{S}/threads/a%2Fb")
    same = await client.get(f"{S}/threads/~YS9i/comments/{posted['id']}?min_version=1")
    assert same.json["id"] == posted["id"]
    other = await client.get(f"{S}/threads/a%252Fb/comments/{posted['id']}")
    assert (other.status, other.code) == (404, "comment-not-found")


async def test_a_location_leads_back_to_the_comment(client: Client) -> None:
    for segment in ("%25FF", "a%2Fb", "~fnRpbGRl", "%7Ba%7D"):
        answer = await client.send("POST", f"{S}/threads/{segment}/comments", {"body": "x"}, sub="ann")
        assert answer.status == 201
        found = await client.get(answer.headers["Location"] + "?min_version=1")
        assert found.json["id"] == answer.json["id"]


QUERIES = [
    "limit=0",
    "limit=101",
    "limit=-1",
    "limit=1.0",
    "limit=+5",
    "limit=5_0",
    "limit=%205",
    "limit=%D9%A3",
    "limit=",
    "limit=5&limit=6",
    "replies=21",
    "depth=11",
    "sort=hot",
    "sort=OLDEST",
    "focus=x&parent=y",
    "focus=x&after=y",
    "as_of=x",
    "as_of=-1",
    "as_of=2026-11-23T05:00:00",
    "as_of=1&min_version=1",
    "colour=red",
    "min_version=-1",
    "min_version=x",
    "min_version=9999999999999999999",
]


async def test_a_bad_query_is_refused_never_clamped(client: Client) -> None:
    for query in QUERIES:
        answer = await client.get(f"{T}/comments?{query}")
        assert (answer.status, answer.code) == (400, "bad-query"), query
    for path in (T, f"{T}/comments/x", f"{S}/me/notifications", f"{T}/events"):
        answer = await client.get(f"{path}?colour=red", sub="mod", roles=("admin",))
        assert answer.status in (400, 404), path


async def test_a_cursor_of_another_list_is_refused(client: Client) -> None:
    first = await client.post("one")
    for number in range(3):
        await client.post(f"root {number}")
        await client.post(f"reply {number}", to=first["id"])
    at = f"{T}/comments?min_version=7&limit=1"
    roots = (await client.get(f"{at}&replies=1")).json
    newest = (await client.get(f"{at}&sort=newest")).json["after"]
    cursor, below = roots["after"], roots["comments"][0]["replies"]["after"]
    assert (await client.get(f"{at}&after={cursor}")).status == 200
    assert (await client.get(f"{at}&after={below}&parent={first['id']}")).status == 200
    for query in (
        f"after={newest}",
        f"after={cursor}&sort=newest",
        f"after={below}",
        f"after={cursor}&parent={first['id']}",
        f"after={cursor[:-1]}",
        f"after={cursor}A",
        "after=x",
        "after=%00",
    ):
        answer = await client.get(f"{at}&{query}")
        assert (answer.status, answer.code) == (400, "cursor-invalid"), query
    answer = await client.get(f"{S}/threads/other/comments?after={cursor}")
    assert answer.code == "cursor-invalid"


async def test_a_parent_in_another_thread_is_no_parent(client: Client) -> None:
    other = await client.post("elsewhere", at=f"{S}/threads/other")
    answer = await client.send("POST", f"{T}/comments", {"body": "x", "parent_id": other["id"]}, sub="ann")
    assert (answer.status, answer.code) == (404, "parent-not-found")
    for path in (f"{T}/comments?parent={other['id']}", f"{T}/comments?parent=x"):
        answer = await client.get(path)
        assert (answer.status, answer.code) == (404, "parent-not-found")


@pytest.mark.parametrize("raw", ["x", "7", "%00", "0199c0de-0000-7000-8000-000000000000", "%C3%A9"])
async def test_a_path_id_that_is_no_comment_is_404(client: Client, raw: str) -> None:
    await client.post("one")
    path = f"{T}/comments/{raw}"
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "", {}),
        ("GET", "/revisions", {}),
        ("PATCH", "", {"body": {"body": "x"}, "headers": {"If-Match": '"1"'}}),
        ("DELETE", "", {}),
        ("POST", "/reports", {"body": {"reason": "spam"}}),
    ]
    for method, rest, more in asked:
        answer = await client.send(method, path + rest, sub="bob", **more)
        assert (answer.status, answer.code) == (404, "comment-not-found"), method
    assert await events_of(client) == 1


def tokens(client: Client) -> list[tuple[str, str]]:
    def unsigned(algorithm: str, signature: str = "") -> str:
        parts = [{"alg": algorithm}, {"iss": SITE, "sub": MARK, "exp": 4e9, "roles": ["admin"]}]
        encoded = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=") for one in parts]
        return ".".join((*encoded, signature))

    forged = jwt.encode({"iss": SITE, "sub": MARK, "exp": 4_000_000_000}, MARK * 8, algorithm="HS256")
    good = client.token("ann").rpartition(".")[2]
    return [
        (MARK, "token-invalid"),
        (f"tl_{MARK}", "token-invalid"),
        (unsigned("none"), "token-invalid"),
        (unsigned("None", good), "token-invalid"),
        (unsigned("HS256", good), "token-invalid"),
        (unsigned("RS256", good), "token-invalid"),
        (forged, "token-invalid"),
        (client.token("guest:7"), "token-invalid"),
        (client.token("ann", padding=MARK * 500), "token-invalid"),
        (client.token("ann", exp=1), "token-expired"),
        (client.token("ann", nbf=4_000_000_000), "token-invalid"),
        (client.token("ann", iss="blog"), "token-invalid"),
    ]


async def test_a_bad_token_is_401_everywhere(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    for token, code in tokens(client):
        headers = {"Authorization": f"Bearer {token}"}
        answers = [
            await client.get(f"{T}/comments", headers=headers),
            await client.get(T, headers=headers),
            await client.get(f"{S}/settings", headers=headers),
            await client.send("POST", f"{T}/comments", data=body(), headers=headers),
            await client.send("PATCH", f"{S}/settings", {"report_threshold": 1}, headers=headers),
        ]
        for answer in answers:
            assert (answer.status, answer.code) == (401, code)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert token not in answer.raw.decode()
    assert await events_of(client) == 0
    assert_silent(capfd)


async def test_writes_and_inboxes_need_a_token(client: Client) -> None:
    asked = [
        ("POST", f"{T}/comments"),
        ("PATCH", f"{T}/comments/x"),
        ("DELETE", f"{T}/comments/x"),
        ("POST", f"{T}/comments/x/reports"),
        ("PATCH", T),
        ("GET", f"{T}/events"),
        ("GET", f"{S}/settings"),
        ("GET", f"{S}/me/notifications"),
        ("POST", f"{S}/me/notifications/read"),
    ]
    for method, path in asked:
        answer = await client.send(method, path, data=b"{}")
        assert (answer.status, answer.code) == (401, "unauthenticated"), (method, path)
    for method, path in asked[4:7]:
        answer = await client.send(method, path, data=b"{}", sub="ann")
        assert (answer.status, answer.code) == (403, "forbidden"), (method, path)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Idempotency-Key": ""}, "bad-header"),
        ({"Idempotency-Key": "a b"}, "bad-header"),
        ({"Idempotency-Key": "x" * 256}, "bad-header"),
        ({"Authorization": "Basic YTpi"}, "token-invalid"),
        ({"Authorization": "x" * 9000}, "token-invalid"),
        ({"X-Long": "x" * 17_000}, "headers-too-large"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_bad_header_is_refused(client: Client, headers: dict[str, str], code: str) -> None:
    answer = await client.send("POST", f"{T}/comments", data=body(), sub="ann", headers=headers)
    assert answer.code == code
    assert await events_of(client) == 0


@pytest.mark.parametrize("given", ["1", '"0"', '"x"', 'W/"1"', "*", '"1", "2"', '"99999999999"'])
async def test_if_match_takes_one_revision(client: Client, given: str) -> None:
    posted = await client.post("one")
    path = f"{T}/comments/{posted['id']}"
    answer = await client.send("PATCH", path, {"body": "x"}, sub="ann", headers={"If-Match": given})
    assert (answer.status, answer.code) == (400, "bad-header")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"colour": 1}, "colour"),
        ({"votes": True}, "votes"),
        ({"report_threshold": 0}, "report_threshold"),
        ({"report_threshold": "5"}, "report_threshold"),
        ({"report_threshold": True}, "report_threshold"),
        ({"edit_window_seconds": -1}, "edit_window_seconds"),
        ({"report_reasons": []}, "report_reasons"),
        ({"origins": ["https://a.example/path"]}, "origins"),
        ({"comment_url": "no id"}, "comment_url"),
    ],
    ids=str,
)
async def test_settings_that_do_not_exist_or_fit_are_422(
    client: Client, change: dict[str, object], field: str
) -> None:
    answer = await client.send("PATCH", f"{S}/settings", change, sub="boss", roles=("admin",))
    assert (answer.status, answer.code) == (422, "invalid")
    assert answer.json["errors"][0]["field"].startswith(field)
    assert await events_of(client) == 0


@pytest.mark.parametrize("data", [b"[]", b"null", b'"x"', b"7"])
async def test_settings_are_an_object(client: Client, data: bytes) -> None:
    answer = await client.send("PATCH", f"{S}/settings", data=data, sub="boss", roles=("admin",))
    assert (answer.status, answer.code) == (422, "invalid")


@pytest.mark.parametrize(
    "change", [{"pinned": []}, {"state": "shut"}, {"state": None}, {"title": ""}, {"url": "ftp://a"}], ids=str
)
async def test_a_thread_takes_only_what_it_has(client: Client, change: dict[str, object]) -> None:
    answer = await client.send("PATCH", T, change, sub="mod", roles=("moderator",))
    assert (answer.status, answer.code) == (422, "invalid")
    assert await events_of(client) == 0


@pytest.mark.parametrize("site", ["nowhere", "NEWS", "a b", "%FF", "x" * 100, "%00"])
async def test_a_site_that_is_not_there_is_404(client: Client, site: str) -> None:
    path = f"/v1/sites/{site.replace(' ', '%20')}/threads/story"
    answer = await client.get(path)
    assert (answer.status, answer.code) == (404, "site-not-found")


async def test_what_the_parser_refuses_is_not_quoted_in_the_log(
    client: Client, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = MARK.encode()
    for request in (
        b"GET /healthz?" + secret + b"\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + secret + b"\x00\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuth orization: Bearer " + secret + b"\r\n\r\n",
        secret + b"\r\n\r\n",
    ):
        answer = await client.raw(request)
        assert b" 400 " in answer.split(b"\r\n")[0]
    assert MARK not in caplog.text
    assert_silent(capfd)


async def test_an_error_that_nobody_foresaw_is_500_and_quotes_nothing(
    client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    await client.running.resources.pool.execute(
        "insert into author_keys (key_id, site, author_id, wrapped) values ($1, $2, 'ann', $3)",
        uuid4(),
        SITE,
        bytes(60),
    )
    answer = await client.send("POST", f"{T}/comments", data=body(), sub="ann")
    assert (answer.status, answer.code) == (500, "internal")
    assert MARK not in answer.raw.decode()
    out, err = capfd.readouterr()
    assert "SealBroken" in out + err
    assert MARK not in out + err
    assert await events_of(client) == 0


async def test_a_query_is_never_logged(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    assert (await client.get(f"{T}/comments?access_token={MARK}")).code == "bad-query"
    assert_silent(capfd)


def assert_silent(capfd: pytest.CaptureFixture[str]) -> None:
    out, err = capfd.readouterr()
    assert MARK not in out + err
