"""A page, a comment and a thread as the JSON of the contract (section 2), put together from stored fragments.

A page of 500 comments is copied, not parsed and built again: its text is JSON already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

import orjson

from services.core.node import NO_AUTHOR, NO_TEXT, PARENT_BYTES, author_prefix
from services.core.page import Picked, Selection
from services.core.thread import PATH_LENGTH

_PUBLIC: Final = b"visible"
_NOBODYS: Final = b"erased"
_COMMENT: Final = (
    b'{"id":%b,"thread":%b,"parent_id":%b,"depth":%b,"path":[%b],"author":%b,%b,"state":"%b",%b,'
    b'"votes":{"up":%b,"down":%b},"children":%d,"descendants":%d,"pinned":false,"permalink":%b,"version":%b'
)

CursorMaker = Callable[[int, int], str]
"""(the list's parent's posting version, the last shown comment's) to the cursor that goes on after it."""


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
    parts = [b'{"thread":', thread_json(thread), b',"comments":[']
    picked = selection.picked
    path = [b'"%b"' % str(ancestor).encode() for ancestor in selection.ancestors]
    # Breadth first: the replies shown below each comment follow one another, in the order of the comments.
    first_reply = []
    place = selection.roots
    for comment in picked:
        first_reply.append(place)
        place += comment.shown

    def write(begin: int, end: int, path: Sequence[bytes]) -> None:
        """At most 11 calls deep: the levels of a page."""
        above = path[-1] if path else b"null"
        joined = b",".join(path)
        for index in range(begin, end):
            comment = picked[index]
            if index > begin:
                parts.append(b",")
            quoted_id, text = writer.comment(comment, above, joined)
            parts.append(text)
            if comment.shown:
                parts.append(b',"replies":{"items":[')
                first = first_reply[index]
                write(first, first + comment.shown, (*path, quoted_id)[-PATH_LENGTH:])
                more = comment.children - comment.shown
                after = orjson.dumps(cursor(comment.posted, comment.last)) if more > 0 else b"null"
                parts.append(b'],"after":%b,"more":%d}}' % (after, more))
            else:
                parts.append(b',"replies":{"items":[],"after":null,"more":%d}}' % comment.children)

    write(0, selection.roots, path)
    after = b"null"
    if selection.more and selection.roots:
        after = orjson.dumps(cursor(selection.parent, selection.last_root))
    parts.append(b'],"after":%b}' % after)
    return b"".join(parts)


def comment_json(
    picked: Picked,
    path: Sequence[UUID],
    thread: ThreadMeta,
    *,
    comment_url: str,
    reader: Reader = PUBLIC,
) -> bytes:
    """One comment for this reader, below the ancestors `path` (at most 32, root first)."""
    quoted = [b'"%b"' % str(ancestor).encode() for ancestor in path]
    above = quoted[-1] if quoted else b"null"
    return _Writer(thread, comment_url, reader).comment(picked, above, b",".join(quoted))[1] + b"}"


class _Writer:
    """What all comments of one answer have in common."""

    __slots__ = ("_key", "_moderator", "_own", "_permalink")

    def __init__(self, thread: ThreadMeta, comment_url: str, reader: Reader) -> None:
        self._key = orjson.dumps(thread.key)
        self._moderator = reader.moderator
        self._own = None if reader.author_id is None else author_prefix(reader.author_id)
        self._permalink: list[bytes] | None = None
        if thread.url is not None:
            # Split before the url goes in: a url may itself hold "{id}".
            pieces = [piece.replace("{url}", thread.url) for piece in comment_url.split("{id}")]
            self._permalink = [orjson.dumps(piece)[1:-1] for piece in pieces]

    def comment(self, picked: Picked, parent_id: bytes, path: bytes) -> tuple[bytes, bytes]:
        """The comment's id, quoted, and its JSON object without the closing brace."""
        raw = picked.raw
        state, depth, version, comment_id, author, text, times, up, down = raw[PARENT_BYTES:].split(b"\0")
        if state != _PUBLIC and not self._sees(state, author):
            author, text = NO_AUTHOR, NO_TEXT
        quoted_id = b'"%b"' % comment_id
        permalink = b"null" if self._permalink is None else b'"%b"' % comment_id.join(self._permalink)
        return quoted_id, _COMMENT % (
            quoted_id,
            self._key,
            parent_id,
            depth,
            path,
            author,
            text,
            state,
            times,
            up,
            down,
            picked.children,
            picked.descendants,
            permalink,
            version,
        )

    def _sees(self, state: bytes, author: bytes) -> bool:
        if state == _NOBODYS:
            return False
        if self._moderator:
            return True
        return state in (b"held", b"hidden") and self._own is not None and author.startswith(self._own)
