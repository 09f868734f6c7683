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

_NO_LINK: Final = (b'"pinned":false,"permalink":null,',)
_NO_REPLIES: Final = b',"replies":{"items":[],"after":null,"more":0}}'
_NOTHING_BELOW: Final = b'0,"descendants":0,'

CursorMaker = Callable[[int, int, float], str]
"""(the list's parent's posting version, the last shown comment's, its score) to the cursor behind it, in
letters that stand in JSON as they are."""


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
    picked, pathed, link = selection.picked, selection.pathed, writer.link
    # Breadth first: the replies shown below each comment follow one another, in the order of the comments.
    first_reply = []
    place = selection.roots
    for comment in picked:
        first_reply.append(place)
        place += comment.shown

    # This is most of what an answer costs: no call for a comment that a branch will do for, and all pieces
    # joined once.
    pieces = [b'{"thread":', thread_json(thread), b',"comments":[']
    add = pieces.extend

    def listed(begin: int, end: int, path: Sequence[bytes]) -> None:
        """A list's comments. At most 44 calls deep: a path of 32 and the levels of a page."""
        place = writer.place(path)
        leaf = place + _NOTHING_BELOW
        for index in range(begin, end):
            posted, _, raw, children, below, shown, _ = picked[index]
            members = raw[MEMBERS:] if raw[STATE] == _VISIBLE else writer.members(raw)
            if children == 0:
                add((leaf, raw[ID].join(link), members, _NO_REPLIES))
            else:
                counts = b'%d,"descendants":%d,' % (children, below)
                add((place, counts, raw[ID].join(link), members, b',"replies":{"items":['))
                after, more = b"null", children - shown
                if shown:
                    first = first_reply[index]
                    listed(first, first + shown, (*path, b'"%b"' % raw[ID])[-PATH_LENGTH:])
                    if more > 0 and index >= pathed:
                        last = picked[first + shown - 1]
                        after = b'"%b"' % cursor(posted, last.posted, last.score).encode()
                pieces.append(b'],"after":%b,"more":%d}}' % (after, more))
            if index == begin:  # from the second on
                place, leaf = b"," + place, b"," + leaf

    path = [b'"%b"' % str(ancestor).encode() for ancestor in selection.ancestors]
    listed(0, selection.roots, path)
    after = b"null"
    if selection.more and selection.roots:
        last = picked[selection.roots - 1]
        after = b'"%b"' % cursor(selection.parent, last.posted, last.score).encode()
    add((b'],"after":', after, b"}"))
    return b"".join(pieces)


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
    return b'%b%d,"descendants":%d,%b%b}' % (
        writer.place([b'"%b"' % str(one).encode() for one in path]),
        picked.children,
        picked.descendants,
        picked.raw[ID].join(writer.link),
        writer.members(picked.raw),
    )


class _Writer:
    """What all comments of one answer have in common."""

    __slots__ = ("_key", "_reader", "link")

    def __init__(self, thread: ThreadMeta, comment_url: str, reader: Reader) -> None:
        self._key = orjson.dumps(thread.key)
        self._reader = reader
        self.link: Sequence[bytes] = _NO_LINK
        """The pieces of `pinned` and `permalink` that a comment's id stands between."""
        if thread.url is not None:
            # Split before the url goes in: a url may itself hold "{id}".
            pieces = [piece.replace("{url}", thread.url) for piece in comment_url.split("{id}")]
            link = [orjson.dumps(piece)[1:-1] for piece in pieces]
            link[0] = b'"pinned":false,"permalink":"' + link[0]
            link[-1] += b'",'
            self.link = link

    def place(self, path: Sequence[bytes]) -> bytes:
        """What the comments right below this path, of quoted ids, begin with."""
        above = path[-1] if path else b"null"
        return b'{"thread":%b,"parent_id":%b,"path":[%b],"children":' % (self._key, above, b",".join(path))

    def members(self, raw: bytes) -> bytes:
        """The node's members as this reader sees them."""
        return raw[MEMBERS:] if is_shown(raw, self._reader) else without_text(raw)


def is_shown(raw: bytes, reader: Reader) -> bool:
    """Whether the text of a node's comment is for this reader, in the state that the node tells."""
    state = raw[STATE]
    if state == _VISIBLE:
        return True
    if state == _ERASED:
        return False
    if reader.moderator:
        return True
    return reader.author_id is not None and state in _ITS_AUTHORS and written_by(raw, reader.author_id)
