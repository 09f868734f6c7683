"""A comment survives being stored in the view, and the page can copy its fragments."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import orjson
import pytest

from services.core.node import NO_AUTHOR, author_fragment, author_prefix, decode, encode, text_fragment
from services.core.thread import CommentState, timestamp
from tests.threads import START, Said, add, thread_of

BODY = 'a "quoted" \\ line\nand *another* – ünïcode 🙂'


def test_a_stored_comment_reads_back_as_it_was() -> None:
    thread = thread_of([Said()])
    comment = add(thread, Said(parent=1, second=2, state=CommentState.HIDDEN), 0x01020300)
    comment.edited_at, comment.edited_by, comment.revision = START + timedelta(days=1), "author", 3
    comment.up, comment.down = 12, 345
    node = decode(encode(comment, author_fragment("u-1", "Ann", "https://a.example/x.png"), b'"body":1'))
    assert node.comment(comment.posted) == comment
    assert (node.parent, node.author_id, node.text) == (1, "u-1", b'"body":1')


@pytest.mark.parametrize("parent", [0, 1, 0x0A000D00, 2**32 - 1])
def test_any_parent_version_survives_in_its_four_bytes(parent: int) -> None:
    comment = add(thread_of([]), Said(parent=parent), 7)
    assert decode(encode(comment, NO_AUTHOR, b"")).parent == parent


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
    times = orjson.loads(b"{%b}" % decode(encode(comment, NO_AUTHOR, b"")).times)
    assert times == {
        "created_at": timestamp(when),
        "edited_at": timestamp(when),
        "edited_by": "moderator",
        "revision": 1,
    }


def test_a_comment_without_author_is_stored_with_null() -> None:
    comment = add(thread_of([]), Said(author=None), 1)
    node = decode(encode(comment, author_fragment(None, None, None), b""))
    assert node.author == b"null"
    assert node.comment(1).author_id is None


def test_a_text_is_stored_as_json_members_with_its_html() -> None:
    text = orjson.loads(b"{%b}" % text_fragment(BODY))
    assert list(text) == ["body", "html"]
    assert text["body"] == BODY
    assert "<em>another</em>" in text["html"]


def test_fragments_never_hold_the_nul_that_divides_them() -> None:
    assert b"\0" not in text_fragment("a\0b") + author_fragment("u\0", "n\0", "a\0")


def test_an_author_is_told_from_one_whose_id_begins_alike() -> None:
    fragment = author_fragment("u-1", "Ann", None)
    assert fragment.startswith(author_prefix("u-1"))
    assert not author_fragment("u-17", "Ann", None).startswith(author_prefix("u-1"))
    assert list(orjson.loads(fragment)) == ["id", "name", "avatar", "badge"]


def test_what_is_no_node_is_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        decode(b"\0\0\0\0visible")
