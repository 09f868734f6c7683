"""How nodes are stored: what comes out is what went in, and what is damaged is told from a node."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.readmodel import keys
from services.readmodel.frames import FrameDamaged, Frames, place
from tests.threads import Said, node_of, thread_of

FRAMES = Frames()
[COMMENT] = thread_of([Said()]).comments.values()
NODE = node_of(COMMENT)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**63), st.binary(max_size=2000))
def test_a_node_comes_out_as_it_went_in(parent: int, created: int, raw: bytes) -> None:
    stored = FRAMES.pack(parent, created, raw)
    assert FRAMES.unpack(stored) == raw
    assert FRAMES.unpack_all([stored, stored]) == [raw, raw]
    assert place(stored) == (parent, created)
    assert stored[:4] == parent.to_bytes(4, "big")


def test_of_a_short_comment_less_than_a_third_is_left() -> None:
    assert len(FRAMES.pack(0, 0, NODE)) < len(NODE) / 3


@pytest.mark.parametrize("end", range(12 + len(FRAMES.pack(0, 0, NODE)[12:])))
def test_a_node_cut_short_is_damaged(end: int) -> None:
    with pytest.raises(FrameDamaged):
        FRAMES.unpack(FRAMES.pack(0, 0, NODE)[:end])


@given(st.binary(max_size=60))
def test_what_is_no_frame_is_damaged_or_something_else_than_the_node(stored: bytes) -> None:
    with suppress(FrameDamaged):
        assert FRAMES.unpack(stored) != NODE
    if len(stored) < 12:
        with pytest.raises(FrameDamaged):
            place(stored)


def test_another_dictionary_is_another_format() -> None:
    shipped = files("services.readmodel").joinpath("nodes.zdict").read_bytes()
    assert 16 << 10 <= len(shipped) <= 32 << 10
    assert keys.FORMAT.endswith("." + hashlib.sha256(shipped).hexdigest()[:6])
