"""What was seen of an inbox, as a cursor: it says it all, is of one inbox, and nobody makes one up."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.cursors import Cursors
from services.errors import CursorInvalid
from services.eventlog.inbox import Seen

CURSORS = Cursors(b"k" * 32)
SCOPE = b"news\nlive\nann"


@st.composite
def snapshots(draw: st.DrawFn) -> str:
    xmin = draw(st.integers(3, 1 << 60))
    under_way = sorted(draw(st.sets(st.integers(0, 1 << 20), max_size=60)))
    end = (under_way[-1] + 1 if under_way else 0) + draw(st.integers(0, 1000))
    return f"{xmin}:{xmin + end}:{','.join(str(xmin + one) for one in under_way)}"


@given(snapshots(), st.none() | st.tuples(snapshots(), st.uuids()))
def test_a_cursor_says_what_was_seen(snapshot: str, partly: tuple[str, UUID] | None) -> None:
    seen = Seen(snapshot, *(partly or (None, None)))
    cursor = CURSORS.seen(SCOPE, seen)
    assert CURSORS.seen_in(SCOPE, cursor) == seen
    for scope in (b"news\nlive\nbob", b"blog\nlive\nann", SCOPE + b"\n"):
        with pytest.raises(CursorInvalid):
            CURSORS.seen_in(scope, cursor)


@given(snapshots(), st.integers(0, 10_000), st.sampled_from("AQgw05-_"))
def test_a_cursor_that_was_changed_is_none(snapshot: str, place: int, letter: str) -> None:
    cursor = CURSORS.seen(SCOPE, Seen(snapshot))
    place %= len(cursor)
    changed = cursor[:place] + letter + cursor[place + 1 :]
    if place == len(cursor) - 1 or changed == cursor:
        return  # the last letter may hold bits that say nothing
    with pytest.raises(CursorInvalid):
        CURSORS.seen_in(SCOPE, changed)


@pytest.mark.parametrize("given_", ["", "A", "AQ", "AQID", "AQAAAAAAAAAA", "é", "A" * 4096])
def test_what_is_no_cursor_is_refused(given_: str) -> None:
    with pytest.raises(CursorInvalid):
        CURSORS.seen_in(SCOPE, given_)


def test_a_cursor_of_another_list_is_none_of_an_inbox() -> None:
    for cursor in (CURSORS.numbered(SCOPE, 5), CURSORS.identified(SCOPE, UUID(int=5))):
        with pytest.raises(CursorInvalid):
            CURSORS.seen_in(SCOPE, cursor)


def test_with_370_transactions_under_way_a_cursor_still_fits_an_address() -> None:
    snapshot = "900000:901000:" + ",".join(str(900_000 + 2 * n) for n in range(370))
    assert len(CURSORS.seen(SCOPE, Seen(snapshot, snapshot, UUID(int=1)))) <= 4096
