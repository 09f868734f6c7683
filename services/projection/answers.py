"""What a reader of a thread is given, wherever it was taken from: the view, a fold, or the log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from services.core.page import PageRequest, Picked, Selection
from services.errors import CommentNotFound, ParentNotFound
from services.readmodel.records import Head

EMPTY: Final = Selection(picked=(), roots=0, more=False)


@dataclass(frozen=True, slots=True)
class ThreadPage:
    """A page of a thread. `head` is None for a thread without events."""

    head: Head | None
    selection: Selection
    stale: bool = False


@dataclass(frozen=True, slots=True)
class OneComment:
    """One comment with its path: the last 32 ancestors, root first."""

    head: Head
    picked: Picked
    path: tuple[UUID, ...]
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Revision:
    """One text that a comment has had. `body` and `html` are None where its key is destroyed."""

    revision: int
    body: str | None
    html: str | None
    edited_at: datetime
    edited_by: str | None


def empty_page(request: PageRequest) -> ThreadPage:
    """The page of a thread without events. Raises ParentNotFound where replies are asked for,
    CommentNotFound where a comment is."""
    if request.parent_id is not None:
        raise ParentNotFound(request.parent_id)
    if request.focus is not None:
        raise CommentNotFound(request.focus)
    return ThreadPage(None, EMPTY)
