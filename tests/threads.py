"""Threads to view: folded states made by hand, without a log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from services.core.node import author_fragment, encode, text_fragment
from services.core.page import FoldIndex
from services.core.thread import Comment, CommentState, ThreadState

START = datetime(2026, 11, 23, 5, 0, 0, 123456, tzinfo=UTC)
STREAM = UUID("5b8a1f6e-5d5c-5b0e-9a52-0d4c1c6fbc01")
TEXT = text_fragment("as *written*")


def comment_id(posted: int) -> UUID:
    """The id of the comment posted at this version, as it is in every thread made here."""
    return UUID(int=(0x0199 << 112) | (7 << 76) | (2 << 62) | posted)


@dataclass(frozen=True, slots=True)
class Said:
    """A comment to make: below which posting version, how many seconds after START, in which state, by
    whom, with how many votes."""

    parent: int = 0
    second: float = 0
    state: CommentState = CommentState.VISIBLE
    author: str | None = "u-1"
    up: int = 0
    down: int = 0


def thread_of(said: Iterable[Said], *, step: int = 1) -> ThreadState:
    """A thread whose comments were posted at versions 1, 1 + step, 1 + 2 · step …"""
    thread = ThreadState(STREAM, site="blog", key="talk-therapy", url="https://blog.example/talk-therapy")
    for number, one in enumerate(said):
        add(thread, one, 1 + number * step)
    return thread


def add(thread: ThreadState, said: Said, posted: int) -> Comment:
    """One more comment, which brings the thread to version `posted`."""
    above = thread.comments.get(comment_id(said.parent))
    comment = Comment(
        id=comment_id(posted),
        posted=posted,
        parent=said.parent,
        depth=0 if above is None else above.depth + 1,
        created_at=START + timedelta(seconds=said.second),
        author_id=said.author,
        state=said.state,
        version=posted,
        up=said.up,
        down=said.down,
    )
    thread.comments[comment.id] = comment
    thread.visible += comment.state is CommentState.VISIBLE
    thread.version = posted
    thread.last_hash = posted.to_bytes(32, "big")
    return comment


def node_of(comment: Comment) -> bytes:
    """What the view stores for a comment made here."""
    return encode(comment, author_fragment(comment.author_id, "Ann", None), TEXT)


def index_of(thread: ThreadState) -> FoldIndex:
    """The thread, ready to be paged."""
    return FoldIndex(thread, {c.posted: node_of(c) for c in thread.comments.values()})
