"""A cursor is of use only to the list that made it."""

from __future__ import annotations

import base64
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.cursors import Cursors
from services.core.page import Place
from services.core.ranking import Sort
from services.errors import CursorInvalid

CURSORS = Cursors(b"k" * 32)
STREAM, OTHER = UUID(int=1), UUID(int=2)
VERSIONS = st.integers(0, 2**32 - 1)
PLACES = st.builds(Place, VERSIONS, st.floats(0, allow_nan=False, allow_infinity=False))
SORTS: tuple[Sort, ...] = ("oldest", "newest", "best", "controversial", "replies")


@given(st.sampled_from(SORTS), VERSIONS, PLACES)
def test_a_cursor_gives_back_its_place_and_score_to_the_last_bit(
    sort: Sort, parent: int, place: Place
) -> None:
    cursor = CURSORS.comments(STREAM, sort, parent, place)
    assert CURSORS.place(STREAM, sort, cursor) == (parent, place)
    assert len(cursor) == 34


def test_another_thread_sort_or_key_refuses_it() -> None:
    cursor = CURSORS.comments(STREAM, "oldest", 3, Place(9))
    for sort in SORTS[1:]:
        with pytest.raises(CursorInvalid):
            CURSORS.place(STREAM, sort, cursor)
    for refusing in (
        lambda: CURSORS.place(OTHER, "oldest", cursor),
        lambda: Cursors(b"x" * 32).place(STREAM, "oldest", cursor),
        lambda: CURSORS.number(b"o" + STREAM.bytes, cursor),
    ):
        with pytest.raises(CursorInvalid):
            refusing()


def test_every_changed_bit_is_noticed() -> None:
    cursor = CURSORS.comments(STREAM, "best", 3, Place(9, 0.25))
    raw = base64.urlsafe_b64decode(cursor + "==")
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CursorInvalid):
            CURSORS.place(STREAM, "best", base64.urlsafe_b64encode(changed).rstrip(b"=").decode())


@given(st.text(max_size=80))
def test_anything_else_is_refused(cursor: str) -> None:
    with pytest.raises(CursorInvalid):
        CURSORS.place(STREAM, "oldest", cursor)


def test_numbers_and_ids_keep_to_their_lists() -> None:
    assert CURSORS.number(b"revisions", CURSORS.numbered(b"revisions", 41)) == 41
    assert CURSORS.identity(b"inbox", CURSORS.identified(b"inbox", STREAM)) == STREAM
    with pytest.raises(CursorInvalid):
        CURSORS.number(b"others", CURSORS.numbered(b"revisions", 41))
    with pytest.raises(CursorInvalid):
        CURSORS.identity(b"others", CURSORS.identified(b"inbox", STREAM))
