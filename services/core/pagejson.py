"""A page, a comment and a thread as the JSON of the contract (section 2), put together from stored fragments.

A page of 500 comments is copied, not parsed and built again: its text is JSON already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Protocol
from uuid import UUID

import orjson

from services.core.node import ID, LETTERS, MEMBERS, STATE, without_text, written_by
from services.core.page import Columns, Picked, Selection
from services.core.thread import PATH_LENGTH, CommentState

_VISIBLE: Final = ord(LETTERS[CommentState.VISIBLE])
_ERASED: Final = ord(LETTERS[CommentState.ERASED])
_ITS_AUTHORS: Final = frozenset({ord(LETTERS[CommentState.HELD]), ord(LETTERS[CommentState.HIDDEN])})
"""States whose text is for the comment's author too."""

_NO_LINK: Final = (b'"pinned":false,"permalink":null,',)
_NO_REPLIES: Final = b',"replies":{"items":[],"after":null,"more":0}},'
_ALL_SHOWN: Final = b'],"after":null,"more":0}},'
_QUOTED_BYTES: Final = 36 + len('""')
"""Bytes of an id in a path."""
_PATH_BYTES: Final = PATH_LENGTH * (_QUOTED_BYTES + 1) - 1
"""Bytes of the longest path."""
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
    return _Page(selection, _Writer(thread, comment_url, reader), cursor).json(thread_json(thread))


class _Page:
    """A page on its way to JSON: its pieces, which are joined once.

    This is most of what an answer costs: no call for a comment that a branch will do for. Methods and not a
    function in a function that calls itself, which would be a circle: all pieces of all pages would stay
    until the garbage collector comes, and a page would never be written into memory that is at hand.
    """

    __slots__ = (
        "_cursor",
        "_first_reply",
        "_ids",
        "_links",
        "_members",
        "_page",
        "_pieces",
        "_selection",
        "_writer",
    )

    def __init__(self, selection: Selection, writer: _Writer, cursor: CursorMaker) -> None:
        page, link = Columns.of(selection.picked), writer.link
        self._selection = selection
        self._writer = writer
        self._cursor = cursor
        self._page = page
        # Breadth first: the replies shown below each comment follow one another, in the order of those.
        self._first_reply = tuple(accumulate(page.shown, initial=selection.roots))
        self._ids = [raw[ID] for raw in page.raws]
        self._links = [one.join(link) for one in self._ids]
        self._members = [
            raw[MEMBERS:] if raw[STATE] == _VISIBLE else writer.members(raw) for raw in page.raws
        ]
        self._pieces: list[bytes] = []

    def json(self, thread: bytes) -> bytes:
        """The page of the thread."""
        selection, roots = self._selection, self._selection.roots
        self._pieces = [b'{"thread":', thread, b',"comments":[']
        self._listed(0, roots, b",".join([b'"%b"' % str(one).encode() for one in selection.ancestors]))
        goes_on = selection.more and roots
        after = self._after(selection.parent, roots - 1) if goes_on else b"null"
        self._pieces.append(b'],"after":%b}' % after)
        return b"".join(self._pieces)

    def _listed(self, begin: int, end: int, path: bytes) -> None:
        """A list's comments, below that path of quoted ids. At most 44 calls deep: a path of 32 and the
        levels of a page."""
        page, links, members, pieces = self._page, self._links, self._members, self._pieces
        children, add = page.children, pieces.extend
        place = self._writer.place(path)
        leaf = place + _NOTHING_BELOW
        for index in range(begin, end):
            if children[index] == 0:
                add((leaf, links[index], members[index], _NO_REPLIES))
                continue
            counts = b'%d,"descendants":%d,' % (children[index], page.descendants[index])
            add((place, counts, links[index], members[index], b',"replies":{"items":['))
            shown = page.shown[index]
            after, more = b"null", children[index] - shown
            if shown:
                first, behind = self._first_reply[index], self._first_reply[index + 1]
                below = b'%b,"%b"' % (path, self._ids[index]) if path else b'"%b"' % self._ids[index]
                self._listed(first, behind, below[-_PATH_BYTES:])
                if more > 0 and index >= self._selection.pathed:
                    after = self._after(page.posted[index], behind - 1)
            pieces.append(_ALL_SHOWN if more == 0 else b'],"after":%b,"more":%d}},' % (after, more))
        if end > begin:
            pieces[-1] = pieces[-1][:-1]  # no comma behind the last one

    def _after(self, parent: int, last: int) -> bytes:
        """The cursor of the parent's list behind its last comment on the page, quoted."""
        return b'"%b"' % self._cursor(parent, self._page.posted[last], self._page.scores[last]).encode()


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
        writer.place(b",".join([b'"%b"' % str(one).encode() for one in path])),
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

    def place(self, path: bytes) -> bytes:
        """What the comments right below this path, of quoted ids, begin with."""
        return b'{"thread":%b,"parent_id":%b,"path":[%b],"children":' % (
            self._key,
            path[-_QUOTED_BYTES:] or b"null",
            path,
        )

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
