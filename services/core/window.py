"""A part of a thread's comments, folded without the others: for threads too long to be held whole.

The whole stream is folded for each part. Of a comment before it 24 bytes are kept, its version, its parent's
and its id, from which the paths of those inside are made.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TypeVar, overload
from uuid import UUID

from schema.events.envelope import EPOCH
from services.core.thread import PATH_LENGTH, Comment, ThreadState

_NOBODY = UUID(int=0)
_V = TypeVar("_V")


def part_of(stream_id: UUID, after: int, to: int) -> ThreadState:
    """An empty thread to fold a stream onto, which then holds the comments posted after version `after` up to
    `to`, with the reports and votes on them. How many comments are visible it does not know.

    An event about a comment that there is not goes unnoticed where that is outside.
    """
    thread = ThreadState(stream_id)
    thread.comments, thread.reported, thread.votes = _Comments(after, to), _Marks(), _Marks()
    thread.posted = _Nobody()
    return thread


class _Comments(dict[UUID, Comment]):
    """The comments inside; any other is told as one that nobody keeps."""

    def __init__(self, after: int, to: int) -> None:
        super().__init__()
        self._after, self._to = after, to
        # Made at once, of memory that is there once it is written to: what grows leaves holes in the heap.
        self._before = 0
        self._posted = memoryview(bytearray(4 * after)).cast("I")
        self._parents = memoryview(bytearray(4 * after)).cast("I")
        self._ids = bytearray(16 * after)

    def __setitem__(self, comment_id: UUID, comment: Comment) -> None:
        if comment.posted <= self._after:
            place, self._before = self._before, self._before + 1
            self._posted[place], self._parents[place] = comment.posted, comment.parent
            self._ids[16 * place : 16 * place + 16] = comment_id.bytes
            return
        if comment.posted > self._to:
            return
        if comment.parent and comment.parent <= self._after:
            comment.path = self._path(comment.parent)
        super().__setitem__(comment_id, comment)

    @overload
    def get(self, comment_id: UUID, default: None = None, /) -> Comment: ...
    @overload
    def get(self, comment_id: UUID, default: Comment | _V, /) -> Comment: ...
    def get(self, comment_id: UUID, default: object = None, /) -> Comment:
        """The comment, or one that stands for those outside."""
        found = super().get(comment_id)
        return Comment(_NOBODY, 0, 0, 0, EPOCH) if found is None else found

    def _path(self, posted: int) -> bytes:
        """The ids of the last ancestors of a reply to the comment posted at this version, root first."""
        path: list[bytes] = []
        while posted and len(path) < PATH_LENGTH:
            place = bisect_left(self._posted, posted, hi=self._before)
            path.append(bytes(self._ids[16 * place : 16 * place + 16]))
            posted = self._parents[place]
        return b"".join(reversed(path))


class _Nobody(dict[int, Comment]):
    """No comment is found by its version here: the ids of all would have to be kept for that."""

    def __setitem__(self, posted: int, comment: Comment) -> None:
        pass


class _Marks(dict[tuple[UUID, str], _V]):
    """Who reported or voted, on comments inside."""

    def __setitem__(self, mark: tuple[UUID, str], value: _V) -> None:
        if mark[0] != _NOBODY:
            super().__setitem__(mark, value)
