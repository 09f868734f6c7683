"""One stream of bytes, on a connection that only keeps what it is given."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from services.api.live.frames import Batch, Told, block, piece
from services.api.live.listener import Listener
from services.core.pagejson import PUBLIC


class Kept:
    """What was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.written.append(data)


def listener(kept: Kept, position: int) -> Listener:
    transport = cast(asyncio.Transport, kept)
    return Listener(transport, PUBLIC, position, chunked=False, dropped=lambda: None)


async def test_a_heartbeat_carries_the_version_of_what_is_not_told_once() -> None:
    kept = Kept()
    one = listener(kept, 4)
    one.tell((), 7)
    one.beat()
    one.beat()
    assert kept.written == [b": \nid: 7\n\n", b": \n\n"]


async def test_a_heartbeat_among_events_that_are_being_written_does_not_go_back() -> None:
    kept = Kept()
    one = listener(kept, 4)
    one.tell((), 7)
    one.wrote(piece(block(9, "CommentPosted", b"{}"), 9))
    one.beat()
    assert kept.written == [b": \n\n"]
    one.position = 12
    one.beat()
    assert kept.written[1:] == [b": \nid: 12\n\n"]


@pytest.mark.parametrize(
    ("position", "versions"),
    [(3, [5, 6, 8]), (4, [5, 6, 8]), (5, [6, 8]), (7, [8]), (8, []), (9, None), (12, None)],
)
def test_who_was_told_some_of_the_events_is_told_the_rest(position: int, versions: list[int] | None) -> None:
    batch = Batch(4, 9, [Told(version, "x", b"{}", b"{}") for version in (5, 6, 8)])
    rest = batch.behind(position)
    assert (None if rest is None else [one.version for one in rest.told]) == versions
    assert rest is None or rest.to == 9
