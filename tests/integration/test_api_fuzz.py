"""Whatever bytes come over a real socket, as a body, a header or a path: an answer, and never a fault."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from tests.fuzzing import fuzz
from tests.processes import S, threadlog

COMMENTS: Final = f"{S}/threads/story/comments".encode()
# Bytes that may stand in a header's value; the others end it, or the request.
values = st.binary(max_size=60).map(lambda raw: bytes(byte for byte in raw if byte >= 32 or byte == 9))
targets = (
    st.binary(max_size=30).map(lambda raw: bytes(byte for byte in raw if byte > 32 and byte != 127))
    | st.binary(max_size=12).map(lambda raw: b"".join(b"%%%02x" % byte for byte in raw))
    | st.text(max_size=8).map(lambda text: quote(text, errors="replace").encode())
)
names = st.sampled_from(
    [
        *(
            "Authorization",
            "Idempotency-Key",
            "If-Match",
            "If-None-Match",
            "X-Request-ID",
            "Threadlog-Act-As",
        ),
        *("X-Forwarded-For", "Accept", "Origin", "Cookie", "Range", "Content-Encoding", "Accept-Encoding"),
        *(
            "Content-Type",
            "Access-Control-Request-Method",
            "Forwarded",
            "TE",
            "Upgrade",
            "Date",
            "Last-Event-ID",
        ),
    ]
)
likely = st.sampled_from(
    [
        b"*/*",
        b"Bearer x",
        b'"1"',
        b'W/"x"',
        b"application/json;charset=utf-16",
        b"gzip",
        b"text/html;q=0",
        b"null",
    ]
)
numbers = st.sampled_from(
    ["1e400", "-0", "9" * 5000, "1" + "0" * 400, "0.1e-99999", "NaN", "Infinity", "1_0", "0x1"]
)
odd = st.sampled_from(
    [
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\u0000"',
        '"\\ud83d\\ude00"',
        "\ufeff{}",
        '"\x01"',
        "'a'",
        "{,}",
        "tru",
        '"\\x"',
    ]
)
texts = st.recursive(
    numbers | odd | st.text(max_size=8).map(json.dumps) | st.sampled_from(["null", "true", '"body"']),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]")
        | st.lists(
            st.tuples(st.sampled_from(['"body"', '"parent_id"', '"thread"', '"title"', '"a"']), inner),
            max_size=4,
        ).map(lambda pairs: "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}")
    ),
    max_leaves=10,
)
bodies = (
    texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | texts.map(lambda text: f'{{"body":{text}}}'.encode())
    | st.tuples(texts, st.sampled_from(["utf-16", "utf-32", "utf-7"])).map(
        lambda both: both[0].encode(both[1])
    )
    | st.tuples(st.sampled_from(["[", '{"a":', '{"body":[', "[[[],"]), st.integers(1, 3000)).map(
        lambda both: (both[0] * both[1]).encode()
    )
    | st.binary(max_size=40)
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Sends bytes to a process, one connection for each request.

    Neither runs beside Hypothesis, in a thread of its own: both would draw from one `random`.
    """

    port: int
    token: str

    def status(self, line: bytes, headers: list[bytes], body: bytes | None = None) -> int:
        """The status of an answer, which is a problem of ours, or of the parser's, where it is an error."""
        if body is not None:
            headers = [*headers, b"Content-Length: %d" % len(body)]
        head = b"\r\n".join([line + b" HTTP/1.1", b"Host: a", b"Connection: close", *headers, b"", b""])
        with socket.create_connection(("127.0.0.1", self.port), 30) as connection:
            connection.sendall(head + (body or b""))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, raw = answer.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        assert status < 500, answer
        if status >= 400 and b"application/problem+json" in head:
            assert json.loads(raw)["status"] == status
        elif status >= 400:
            assert status == 400, answer  # what is no HTTP
        return status

    def bearer(self) -> bytes:
        return b"Authorization: Bearer " + self.token.encode()


@pytest.fixture
async def peer(database_url: str, redis_url: str, broker_url: str, tmp_path: Path) -> AsyncIterator[Peer]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as started:
        process = await started.api()
        await started.client.post("story", "a comment", sub="ann")
        port = URL(started.client.base).port
        assert port is not None
        yield Peer(port, started.client.token("ann"))
        assert "request failed" not in process.said


async def test_any_body_is_taken_or_refused(peer: Peer) -> None:
    met: set[int] = set()

    @fuzz(250)
    @given(bodies)
    @example(b'{"body":"a","body":"b"}')
    @example(b'{"body":"' + b"a" * 250_000 + b'"}')
    @example(b"[" * 200_000)
    def ask(body: bytes) -> None:
        headers = [peer.bearer(), b"Content-Type: application/json"]
        met.add(peer.status(b"POST " + COMMENTS, headers, body))

    ask()
    assert met <= {201, 400, 404, 409, 415, 422}
    assert met >= {201, 400, 422}


async def test_any_header_is_taken_or_refused(peer: Peer) -> None:
    met: set[int] = set()

    @fuzz(250)
    @given(
        st.lists(st.tuples(names, values | likely), max_size=4),
        st.booleans(),
        st.sampled_from([b"POST", b"GET", b"OPTIONS"]),
    )
    def ask(sent: list[tuple[str, bytes]], known: bool, method: bytes) -> None:
        headers = [b"%b: %b" % (name.encode(), value) for name, value in sent]
        if known:
            headers.append(peer.bearer())
        if method == b"POST":
            headers.append(b"Content-Type: application/json")
        body = b'{"body":"a"}' if method == b"POST" else None
        met.add(peer.status(b"%b %b" % (method, COMMENTS), headers, body))

    ask()
    assert met >= {200, 201, 204, 400, 401, 406}


async def test_any_path_leads_somewhere_or_nowhere(peer: Peer) -> None:
    met: set[int] = set()

    @fuzz(250)
    @given(
        st.sampled_from([b"", b"/comments", b"/events", b"/comments/%b", b"/comments/%b/revisions"]),
        targets,
        targets,
        st.sampled_from([b"", b"?after=", b"?limit=", b"?min_version=", b"?parent=", b"?x=", b"?"]),
    )
    @example(b"", b"story", b"", b"")
    @example(b"", b"%00", b"", b"")
    @example(b"", b"%FF%FE", b"%FF", b"?limit=")
    @example(b"", b"..%2f..", b"%C0%80", b"?after=")
    def ask(rest: bytes, thread: bytes, comment: bytes, query: bytes) -> None:
        below = rest.replace(b"%b", comment)
        met.add(peer.status(b"GET %b/threads/%b%b%b%b" % (S.encode(), thread, below, query, comment), []))

    ask()
    assert met <= {200, 400, 401, 404, 405}
    assert met >= {200, 400, 401, 404}
