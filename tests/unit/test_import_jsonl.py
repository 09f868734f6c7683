"""Reading JSON lines: every line stands alone."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BufferedReader, BytesIO, RawIOBase

import pytest

from services.ops.importers.jsonl import FIELDS_NOTED, LINE_BYTES, read_jsonl
from services.ops.importers.records import ImportedComment, Noted, Skipped


def author_id(address: str, name: str) -> str:
    return hashlib.sha256(f"{address}\0{name}".encode()).hexdigest()


def line(number: object = "1", **fields: object) -> bytes:
    given = {
        "id": number,
        "parent_id": None,
        "author": "Ann",
        "created_at": "2024-05-01T12:00:00+02:00",
        "body": "Hello.",
    } | fields
    return json.dumps(given).encode() + b"\n"


def read(data: bytes) -> list[ImportedComment | Skipped | Noted]:
    return list(read_jsonl(BytesIO(data), thread_key="t", author_id=author_id))


def ids(data: bytes) -> list[str]:
    return [found.source_id for found in read(data) if isinstance(found, ImportedComment)]


def test_a_line_is_a_comment_with_its_author_parent_and_time() -> None:
    assert read(line(1) + line("2", parent_id=1, depth=1, body="a\r\nb")) == [
        ImportedComment(
            source_id="1",
            parent_source_id=None,
            thread_key="t",
            author_id="import:" + author_id("", "Ann"),
            author_name="Ann",
            created_at=datetime(2024, 5, 1, 10, 0, tzinfo=UTC),
            body="Hello.",
        ),
        ImportedComment(
            source_id="2",
            parent_source_id="1",
            thread_key="t",
            author_id="import:" + author_id("", "Ann"),
            author_name="Ann",
            created_at=datetime(2024, 5, 1, 10, 0, tzinfo=UTC),
            body="a\nb",
        ),
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{\n", "the line is not JSON"),
        (b"\xff\xfe{}\n", "the line is not UTF-8"),
        (line("9", body="caf@").replace(b"@", b"\xe9"), "the line is not UTF-8"),
        (b"[1]\n", "the line: input should be an object"),
        (b"[" * 100_000 + b"\n", "the line is not JSON"),
        (b'{"id": "9"}\n', "author: field required"),
        (line(True), "id: input should be a valid string"),
        (line(""), "the id is not an id"),
        (line("9", parent_id="a\u00e9"), "the parent_id is not an id"),
        (line("9", author=None), "author: input should be a valid string"),
        (line("9", created_at="2024-05-01T12:00:00"), "created_at: input should have timezone info"),
        (line("9", created_at="1960-05-01T12:00:00Z"), "the date is before 1970"),
        (line("9", created_at="0001-01-01T00:00:00+05:00"), "the date is out of range"),
        (line("9", body=["x"]), "body: input should be a valid string"),
        (line("9", body=""), "the body is empty"),
        (line("9", body="a\0b"), "the body holds a control character"),
        (line("9", body="x" * 10_001), "the body is longer than 10,000 characters"),
        (line("9", author="x" * 101), "the author's name is longer than 100 characters"),
        (line("9", body="x" * LINE_BYTES), "the line is longer than 1 MiB"),
    ],
)
def test_a_bad_line_is_skipped_with_its_number_and_the_rest_goes_on(bad: bytes, reason: str) -> None:
    data = line("1") + b"\n" + bad + line("2")

    assert ids(data) == ["1", "2"]
    (skipped,) = [found for found in read(data) if isinstance(found, Skipped)]
    assert skipped.where == "line 3"
    assert skipped.reason.startswith(reason)


def test_half_of_a_surrogate_pair_is_skipped() -> None:
    data = line("1", body="@").replace(b"@", b"\\ud800") + line("2")

    assert ids(data) == ["2"]
    assert isinstance(read(data)[0], Skipped)


def test_a_reason_never_quotes_the_text() -> None:
    (skipped,) = read(line("1", body=["the secret"], created_at="the secret"))

    assert "secret" not in repr(skipped)


def test_a_last_line_that_is_cut_off_is_skipped_and_told_of() -> None:
    found = read(line("1") + line("2")[:-20])

    assert found[1] == Skipped("line 2", "the line is not JSON")


def test_a_byte_order_mark_and_a_missing_last_line_end_do_no_harm() -> None:
    assert ids(b"\xef\xbb\xbf" + line("1") + line("2").rstrip()) == ["1", "2"]


def test_an_unknown_field_is_noted_once() -> None:
    found = read(line("1", likes=3) + line("2", likes=4, spam=1))

    assert [record for record in found if isinstance(record, Noted)] == [
        Noted("line 1", "unknown field 'likes' is ignored"),
        Noted("line 2", "unknown field 'spam' is ignored"),
    ]
    assert ids(line("1", likes=3)) == ["1"]


def test_notes_on_unknown_fields_are_bounded() -> None:
    found = read(b"".join(line(str(n), **{f"field {n}": 1}) for n in range(200)))

    assert len([record for record in found if isinstance(record, Noted)]) == FIELDS_NOTED + 1


class Generated(RawIOBase):
    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        while not self._rest and (part := next(self._parts, None)) is not None:
            self._rest = part
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def test_a_large_file_with_one_endless_line_is_read_in_flat_memory() -> None:
    def parts() -> Iterator[bytes]:
        for number in range(20_000):
            yield line(str(number), body="x" * 500)
        for _ in range(64):
            yield b"x" * LINE_BYTES
        yield b"\n" + line("last")

    tracemalloc.start()
    try:
        taken = skipped = 0
        for record in read_jsonl(BufferedReader(Generated(parts())), thread_key="t", author_id=author_id):
            taken += isinstance(record, ImportedComment)
            skipped += isinstance(record, Skipped)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (taken, skipped) == (20_001, 1)
    assert peak < 6 * LINE_BYTES
