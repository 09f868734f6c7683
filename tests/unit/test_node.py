"""A comment survives being stored in the view, and the page can copy its fragments."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import orjson
import pytest

from services.core.node import (
    ID,
    NO_AUTHOR,
    NO_TEXT,
    STATE,
    author_fragment,
    decode,
    encode,
    said_in_prose,
    text_fragment,
    without_text,
    written_by,
)
from services.core.thread import CommentState, timestamp
from tests.threads import START, Said, add, thread_of

BODY = 'a "quoted" \\ line\nand *another* – ünïcode 🙂'


def test_a_stored_comment_reads_back_as_it_was() -> None:
    thread = thread_of([Said()])
    comment = add(thread, Said(parent=1, second=2, state=CommentState.HIDDEN), 0x01020300)
    comment.edited_at, comment.edited_by, comment.revision = START + timedelta(days=1), "author", 3
    comment.up, comment.down = 12, 345
    node = decode(
        encode(comment, author_fragment("u-1", "Ann", "https://a.example/x.png"), text_fragment(BODY))
    )
    assert node.comment(comment.posted) == comment
    assert (node.parent, node.author_id, node.text) == (1, "u-1", text_fragment(BODY))


@pytest.mark.parametrize("parent", [0, 1, 0x0A000D00, 2**32 - 1])
def test_any_parent_version_survives_in_its_four_bytes(parent: int) -> None:
    comment = add(thread_of([]), Said(parent=parent), 7)
    assert decode(encode(comment, NO_AUTHOR, NO_TEXT)).parent == parent


@pytest.mark.parametrize(
    "when",
    [
        START,
        START.replace(microsecond=0),
        START.replace(microsecond=1_000),
        START.replace(year=987),
        START.astimezone(timezone(timedelta(0), "Z")),
    ],
)
def test_times_have_their_microseconds_and_a_z(when: datetime) -> None:
    comment = add(thread_of([]), Said(), 1)
    comment.created_at = comment.edited_at = when
    comment.edited_by = "moderator"
    node = decode(encode(comment, NO_AUTHOR, NO_TEXT))
    assert (node.created_at, node.edited_at) == (timestamp(when), timestamp(when))


def test_a_comment_without_author_is_stored_with_null() -> None:
    comment = add(thread_of([]), Said(author=None), 1)
    node = decode(encode(comment, author_fragment(None, None, None), NO_TEXT))
    assert node.author == b"null"
    assert node.comment(1).author_id is None


def test_a_text_is_stored_as_json_members_with_its_html() -> None:
    text = orjson.loads(b"{%b}" % text_fragment(BODY))
    assert list(text) == ["body", "html"]
    assert text["body"] == BODY
    assert "<em>another</em>" in text["html"]


def test_the_id_and_the_state_stand_where_the_scripts_and_the_page_look_for_them() -> None:
    comment = add(thread_of([]), Said(state=CommentState.HIDDEN), 0x01020300)
    raw = encode(comment, NO_AUTHOR, NO_TEXT)
    assert raw[ID] == str(comment.id).encode()
    assert raw[STATE : STATE + 1] == b"h"


def test_an_author_is_told_from_one_whose_id_begins_alike() -> None:
    raw = encode(add(thread_of([]), Said(), 1), author_fragment("u-1", "Ann", None), text_fragment(BODY))
    assert written_by(raw, "u-1")
    assert not written_by(raw, "u-17")
    assert not written_by(raw, "u-")
    assert not written_by(encode(add(thread_of([]), Said(author=None), 1), NO_AUTHOR, NO_TEXT), "null")


def test_what_is_kept_from_a_reader_is_the_text_and_who_wrote_it() -> None:
    raw = encode(add(thread_of([]), Said(), 1), author_fragment("u-1", "Ann", None), text_fragment(BODY))
    kept = orjson.loads(b"{%b}" % without_text(raw))
    whole = orjson.loads(b"{%b}" % raw[STATE + 1 :])
    assert {name for name in whole if whole[name] != kept[name]} == {"author", "body", "html"}
    assert (kept["author"], kept["body"], kept["html"]) == (None, None, None)


@pytest.mark.parametrize("raw", [b"", b"\0\0\0\0visible", b'\0\0\0\0v"id":"x"', b"\0\0\0\0v[]"])
def test_what_is_no_node_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"no node|JSON|unexpected|literal|unpack"):
        decode(raw)


SAID = [
    {"body": "Plain words, and *some* [more](https://a.example/b).\n\nÜnïcode 🙂", "name": "Ann"},
    {"body": 'He said "yes",', "name": "Zoë", "avatar": "https://a.example/x.png"},
    {"body": 'a","name":"b', "name": "c"},
    {"body": "a", "name": ""},
]
OTHERWISE_SAID = [
    {"body": "# a", "name": "Ann"},
    {"body": "a", "name": 'Ann "the" other'},
    {"body": "a", "name": "Ann", "avatar": "\\"},
    {"name": "Ann", "body": "a"},
    {"body": "a", "avatar": "b", "name": "Ann"},
    {"body": "a", "name": "Ann", "avatar": None},
    {"body": "a", "name": "Ann", "mood": "b"},
    {"body": "a"},
    {"detail": "a"},
]


@pytest.mark.parametrize("text", SAID)
def test_prose_is_stored_as_it_is_where_its_json_is_read(text: dict[str, str]) -> None:
    author = author_fragment("u-1", text["name"], text.get("avatar"))
    assert said_in_prose("u-1", orjson.dumps(text)) == (author, text_fragment(text["body"]))


@pytest.mark.parametrize("text", OTHERWISE_SAID)
def test_whatever_else_is_sealed_is_read_as_json(text: dict[str, str]) -> None:
    assert said_in_prose("u-1", orjson.dumps(text)) is None
    assert said_in_prose("u-1", orjson.dumps(text, option=orjson.OPT_INDENT_2)) is None
