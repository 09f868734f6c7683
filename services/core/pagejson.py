"""A page, a comment and a thread as the JSON of the contract (section 2), put together from stored fragments.

A page of 500 comments is copied, not parsed and built again: its text is JSON already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

import orjson

from services.core.node import ID, LETTERS, MEMBERS, STATE, without_text, written_by
from services.core.page import Picked, Selection
from services.core.thread import PATH_LENGTH, CommentState

_VISIBLE: Final = ord(LETTERS[CommentState.VISIBLE])
_ERASED: Final = ord(LETTERS[CommentState.ERASED])
_ITS_AUTHORS: Final = frozenset({ord(LETTERS[CommentState.HELD]), ord(LETTERS[CommentState.HIDDEN])})
"""States whose text is for the comment's author too."""

_NO_LINK: Final = b'"pinned":false,"permalink":null,'
_NO_REPLIES: Final = b',"replies":{"items":[],"after":null,"more":0}}'

CursorMaker = Callable[[int, int, float], str]
"""(the list's parent's posting version, the last shown comment's, its score) to the cursor behind it."""


class ThreadMeta(Protocol):
    """What a page tells about its thread. `ThreadState` and the view's `Head` have it."""

    @property
    def key(self) -> str: ...
    @property
    def title(self) -> str | None: ...
    @property
    def url(self) -> str | None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def visible(self) -> int: ...
    @property
    def version(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: an author sees the text of their own hidden comments, a moderator all but erased ones."""

    author_id: str | None = None
    moderator: bool = False


PUBLIC: Final = Reader()


def thread_json(thread: ThreadMeta) -> bytes:
    """The `thread` object of a page, and the answer of `GET T`."""
    return orjson.dumps(
        {
            "key": thread.key,
            "title": thread.title,
            "url": thread.url,
            "state": "closed" if thread.closed else "open",
            "comments": thread.visible,
            "pinned": [],
            "version": thread.version,
        }
    )


def page_json(
    selection: Selection,
    thread: ThreadMeta,
    *,
    cursor: CursorMaker,
    comment_url: str,
    reader: Reader = PUBLIC,
) -> bytes:
    """The page for this reader. `comment_url` is the site's, with `{url}` and `{id}` in it."""
    writer = _Writer(thread, comment_url, reader)
    picked = selection.picked
    # Breadth first: the replies shown below each comment follow one another, in the order of the comments.
    first_reply = []
    place = selection.roots
    for comment in picked:
        first_reply.append(place)
        place += comment.shown

    def listed(begin: int, end: int, path: Sequence[bytes]) -> bytes:
        """A list's comments. At most 44 calls deep: a path of 32 and the levels of a page."""
        place = writer.place(path)
        items = []
        for index in range(begin, end):
            comment = picked[index]
            opened = writer.comment(comment, place)
            children, shown = comment.children, comment.shown
            if children == 0:
                items.append(opened + _NO_REPLIES)
                continue
            replies, after, more = b"", b"null", children - shown
            if shown:
                first = first_reply[index]
                below = (*path, b'"%b"' % comment.raw[ID])[-PATH_LENGTH:]
                replies = listed(first, first + shown, below)
                if more > 0 and index >= selection.pathed:
                    last = picked[first + shown - 1]
                    after = orjson.dumps(cursor(comment.posted, last.posted, last.score))
            items.append(
                b'%b,"replies":{"items":[%b],"after":%b,"more":%d}}' % (opened, replies, after, more)
            )
        return b",".join(items)

    path = [b'"%b"' % str(ancestor).encode() for ancestor in selection.ancestors]
    comments = listed(0, selection.roots, path)
    after = b"null"
    if selection.more and selection.roots:
        last = picked[selection.roots - 1]
        after = orjson.dumps(cursor(selection.parent, last.posted, last.score))
    return b'{"thread":%b,"comments":[%b],"after":%b}' % (thread_json(thread), comments, after)


def comment_json(
    picked: Picked,
    path: Sequence[UUID],
    thread: ThreadMeta,
    *,
    comment_url: str,
    reader: Reader = PUBLIC,
) -> bytes:
    """One comment for this reader, below the ancestors `path` (at most 32, root first)."""
    writer = _Writer(thread, comment_url, reader)
    return writer.comment(picked, writer.place([b'"%b"' % str(one).encode() for one in path])) + b"}"


class _Writer:
    """What all comments of one answer have in common."""

    __slots__ = ("_key", "_permalink", "_reader")

    def __init__(self, thread: ThreadMeta, comment_url: str, reader: Reader) -> None:
        self._key = orjson.dumps(thread.key)
        self._reader = reader
        self._permalink: list[bytes] | None = None
        if thread.url is not None:
            # Split before the url goes in: a url may itself hold "{id}".
            pieces = [piece.replace("{url}", thread.url) for piece in comment_url.split("{id}")]
            self._permalink = [orjson.dumps(piece)[1:-1] for piece in pieces]

    def place(self, path: Sequence[bytes]) -> bytes:
        """What the comments right below this path, of quoted ids, begin with."""
        above = path[-1] if path else b"null"
        return b'{"thread":%b,"parent_id":%b,"path":[%b],"children":' % (self._key, above, b",".join(path))

    def comment(self, picked: Picked, place: bytes) -> bytes:
        """The comment's JSON object without the closing brace."""
        raw = picked.raw
        members = raw[MEMBERS:]
        if raw[STATE] != _VISIBLE and not self._sees(raw):
            members = without_text(raw)
        link = _NO_LINK
        if self._permalink is not None:
            link = b'"pinned":false,"permalink":"%b",' % raw[ID].join(self._permalink)
        return b'%b%d,"descendants":%d,%b%b' % (place, picked.children, picked.descendants, link, members)

    def _sees(self, raw: bytes) -> bool:
        state = raw[STATE]
        if state == _ERASED:
            return False
        if self._reader.moderator:
            return True
        author_id = self._reader.author_id
        return author_id is not None and state in _ITS_AUTHORS and written_by(raw, author_id)
