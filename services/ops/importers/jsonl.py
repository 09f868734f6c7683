"""JSON lines of one thread, one comment a line: `{"id", "parent_id", "author", "created_at", "body"}`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, StrictInt, StrictStr, ValidationError

from services.ops.importers.records import (
    AUTHOR_PREFIX,
    AuthorId,
    CommentRefused,
    ImportedComment,
    Noted,
    Skipped,
    comment_body,
    comment_id,
    comment_name,
    comment_time,
)

LINE_BYTES: Final = 1024 * 1024
"""Longest line taken, in bytes, its line end included."""

FIELDS_NOTED: Final = 20
"""Unknown fields told apart; a file that has more is told of as such."""

_BOM: Final = b"\xef\xbb\xbf"
_DISCARD_BYTES: Final = 64 * 1024


class _Line(BaseModel):
    """One line. `depth` is derived from the parents, and not believed."""

    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)

    id: StrictStr | StrictInt
    parent_id: StrictStr | StrictInt | None = None
    author: StrictStr
    created_at: AwareDatetime
    body: StrictStr
    depth: object = None


def read_jsonl(
    stream: BinaryIO, *, thread_key: str, author_id: AuthorId
) -> Iterator[ImportedComment | Skipped | Noted]:
    """The comments of `stream` in file order, all of the thread `thread_key`.

    Every line stands alone: one that is no comment (not UTF-8, not JSON, fields missing or of another type,
    text over the limits, longer than `LINE_BYTES`) is skipped with its number. Unknown fields are ignored,
    and each is noted once. An author is known by name only, so `author_id` is called with an empty address.
    """
    unknown: set[str] = set()
    for number, line in _lines(stream):
        where = f"line {number}"
        if line is None:
            yield Skipped(where, "the line is longer than 1 MiB")
            continue
        if not line.strip():
            continue
        try:
            found = _parse(line)
            comment = ImportedComment(
                source_id=comment_id(str(found.id), "id"),
                parent_source_id=None
                if found.parent_id is None
                else comment_id(str(found.parent_id), "parent_id"),
                thread_key=thread_key,
                author_id=AUTHOR_PREFIX + author_id("", found.author.strip()),
                author_name=comment_name(found.author),
                created_at=comment_time(found.created_at),
                body=comment_body(found.body),
            )
        except CommentRefused as refused:
            yield Skipped(where, str(refused))
            continue
        yield from _notes(where, found.model_extra or {}, unknown)
        yield comment


def _parse(line: bytes) -> _Line:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CommentRefused("the line is not UTF-8") from error
    try:
        return _Line.model_validate_json(line)
    except ValidationError as error:
        # Only the first error, and never the value: a report is read by people who may not read the comments.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise CommentRefused("the line is not JSON") from error
        field = str(first["loc"][0]) if first["loc"] else "the line"
        raise CommentRefused(f"{field}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def _notes(where: str, extra: dict[str, object], unknown: set[str]) -> Iterator[Noted]:
    for name in extra:
        if len(unknown) > FIELDS_NOTED:
            return
        if name not in unknown:
            unknown.add(name)
            more = len(unknown) > FIELDS_NOTED
            yield Noted(
                where, "further unknown fields" if more else f"unknown field {name[:40]!r} is ignored"
            )


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None for one over `LINE_BYTES`, whose rest is read past without being kept."""
    number = 0
    while line := stream.readline(LINE_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) <= LINE_BYTES:
            yield number, line
            continue
        while not line.endswith(b"\n") and (line := stream.readline(_DISCARD_BYTES)):
            pass
        yield number, None
