"""A comment as the view stores it: one string of bytes, most of it JSON that a page copies as it stands.

Layout: the parent's posting version in 4 bytes, big-endian (0 for a root), then, divided by NUL (which JSON
never holds), the fields `state`, `depth`, `version`, `id` (36 characters), the author's JSON object or
`null`, the text's members `"body":…,"html":…`, the members `"created_at"` to `"revision"`, and the numbers
of votes, up and down: a vote changes the comment's version, so its node is written anyway. The scripts in
`services/readmodel/scripts` read the first 4 bytes and the id; everything else is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import orjson

from services.core.markup import render
from services.core.thread import Comment, CommentState, timestamp

NO_AUTHOR: Final = b"null"
"""The author of a comment that has none, or whose key is destroyed."""

NO_TEXT: Final = b'"body":null,"html":null'
"""The text of a comment that has none, or whose key is destroyed."""

PARENT_BYTES: Final = 4

_NEVER: Final = b'"edited_at":null,"edited_by":null'
_STATES: Final = {state: state.value.encode() for state in CommentState}


@dataclass(frozen=True, slots=True)
class Node:
    """A stored comment, read back. `author`, `text` and `times` are the JSON fragments of the layout."""

    parent: int
    state: CommentState
    depth: int
    version: int
    id: UUID
    author: bytes
    text: bytes
    times: bytes
    up: int
    down: int

    @property
    def author_id(self) -> str | None:
        """The author's id, or None."""
        author = orjson.loads(self.author)
        return None if author is None else str(author["id"])

    def comment(self, posted: int) -> Comment:
        """The comment posted at version `posted`, as far as the view knows it: enough for `evolve`.

        Its path, key, text digest, text version and report weight are not in the view.
        """
        times = orjson.loads(b"{%b}" % self.times)
        edited_at: str | None = times["edited_at"]
        return Comment(
            id=self.id,
            posted=posted,
            parent=self.parent,
            depth=self.depth,
            created_at=datetime.fromisoformat(times["created_at"]),
            author_id=self.author_id,
            state=self.state,
            revision=times["revision"],
            edited_at=None if edited_at is None else datetime.fromisoformat(edited_at),
            edited_by=times["edited_by"],
            version=self.version,
            up=self.up,
            down=self.down,
        )


def encode(comment: Comment, author: bytes, text: bytes) -> bytes:
    """What the view stores for `comment`; `author` and `text` as the fragments below make them."""
    edited = _NEVER
    if comment.edited_at is not None:
        edited = b'"edited_at":%b,"edited_by":%b' % (
            _quoted(comment.edited_at),
            orjson.dumps(comment.edited_by),
        )
    return b'%b%b\0%d\0%d\0%b\0%b\0%b\0"created_at":%b,%b,"revision":%d\0%d\0%d' % (
        comment.parent.to_bytes(PARENT_BYTES, "big"),
        _STATES[comment.state],
        comment.depth,
        comment.version,
        str(comment.id).encode(),  # asyncpg's UUIDs are not orjson's
        author,
        text,
        _quoted(comment.created_at),
        edited,
        comment.revision,
        comment.up,
        comment.down,
    )


def _quoted(when: datetime) -> bytes:
    """`timestamp` as JSON. orjson is quicker by far, but leaves out microseconds that are 0."""
    if when.microsecond and when.tzinfo is UTC:
        return orjson.dumps(when, option=orjson.OPT_UTC_Z)
    return f'"{timestamp(when)}"'.encode()


def decode(raw: bytes) -> Node:
    """The node that `encode` made. Raises ValueError where `raw` is none."""
    state, depth, version, id_, author, text, times, up, down = raw[PARENT_BYTES:].split(b"\0")
    return Node(
        parent=int.from_bytes(raw[:PARENT_BYTES], "big"),
        state=CommentState(state.decode()),
        depth=int(depth),
        version=int(version),
        id=UUID(id_.decode()),
        author=author,
        text=text,
        times=times,
        up=int(up),
        down=int(down),
    )


def author_fragment(author_id: str | None, name: str | None, avatar: str | None) -> bytes:
    """The author as a comment names them; `null` for a comment without one."""
    if author_id is None:
        return NO_AUTHOR
    return orjson.dumps({"id": author_id, "name": name, "avatar": avatar, "badge": None})


def author_prefix(author_id: str) -> bytes:
    """What the fragment of every author but this one does not begin with."""
    return b'{"id":%b,' % orjson.dumps(author_id)


def text_fragment(body: str) -> bytes:
    """A comment's text as members of its JSON object. Its Markdown is rendered here, once."""
    return b'"body":%b,"html":%b' % (orjson.dumps(body), orjson.dumps(render(body)))
