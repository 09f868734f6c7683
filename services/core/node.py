"""A comment as a view holds it: one string of bytes, which a page copies as it stands.

Layout: the parent's posting version in 4 bytes, big-endian (0 for a root), the state in one, and the members
of the comment's JSON object that only events about the comment itself change (contract, section 2), beginning
with its id: what is left out is where it stands (`parent_id`, `path`), what lies below it, and what belongs
to its thread. The scripts in `services/readmodel/scripts` read the first 4 bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import orjson

from schema.events.payloads import Badge
from services.core.markup import PROSE, prose_html, render
from services.core.thread import Comment, CommentState, timestamp

NO_AUTHOR: Final = b"null"
"""The author of a comment that has none, or whose key is destroyed."""

NO_TEXT: Final = b'"body":null,"html":null'
"""The text of a comment that has none, or whose key is destroyed."""

PARENT_BYTES: Final = 4
STATE: Final = 4
"""Where a node has its state's letter."""
MEMBERS: Final = 5
"""Where a node's members begin."""
ID: Final = slice(MEMBERS + len('"id":"'), MEMBERS + len('"id":"') + 36)
"""Where a node has its comment's id."""

_NEVER: Final = b'"edited_at":null,"edited_by":null'
_NAMES: Final = {state: state.value.encode() for state in CommentState}
LETTERS: Final = {
    CommentState.VISIBLE: b"v",
    CommentState.HELD: b"w",
    CommentState.HIDDEN: b"h",
    CommentState.REMOVED: b"r",
    CommentState.DELETED: b"d",
    CommentState.ERASED: b"e",
}
_PROSE: Final = re.compile(b'"%b"' % PROSE)
_SAID_IN_PROSE: Final = re.compile(
    rb'\{"body":"(%b)","name":("[^"\\]*+")(?:,"avatar":("[^"\\]*+"))?\}' % PROSE
)
_ITS_AUTHORS: Final = frozenset({LETTERS[CommentState.HELD], LETTERS[CommentState.HIDDEN]})
"""States in which the text is for the comment's author, beside moderators."""
_STATES: Final = {letter: state for state, letter in LETTERS.items()}


@dataclass(frozen=True, slots=True)
class Node:
    """A stored comment, read back. `author` and `text` are JSON fragments, as made by the functions below."""

    parent: int
    state: CommentState
    depth: int
    version: int
    id: UUID
    author: bytes
    text: bytes
    created_at: str
    edited_at: str | None
    edited_by: str | None
    revision: int
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
        return Comment(
            id=self.id,
            posted=posted,
            parent=self.parent,
            depth=self.depth,
            created_at=datetime.fromisoformat(self.created_at),
            author_id=self.author_id,
            state=self.state,
            revision=self.revision,
            edited_at=None if self.edited_at is None else datetime.fromisoformat(self.edited_at),
            edited_by=self.edited_by,
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
    head = b'%b%b"id":"%b","depth":%d,"author":' % (
        comment.parent.to_bytes(PARENT_BYTES, "big"),
        LETTERS[comment.state],
        str(comment.id).encode(),  # asyncpg's UUIDs are not orjson's
        comment.depth,
    )
    tail = b',"state":"%b","created_at":%b,%b,"revision":%d,"votes":{"up":%d,"down":%d},"version":%d' % (
        _NAMES[comment.state],
        _quoted(comment.created_at),
        edited,
        comment.revision,
        comment.up,
        comment.down,
        comment.version,
    )
    return b"".join((head, author, b",", text, tail))


def _quoted(when: datetime) -> bytes:
    """`timestamp` as JSON. orjson is quicker by far, but leaves out microseconds that are 0."""
    if when.microsecond and when.tzinfo is UTC:
        return orjson.dumps(when, option=orjson.OPT_UTC_Z)
    return f'"{timestamp(when)}"'.encode()


def decode(raw: bytes) -> Node:
    """The node that `encode` made. Raises ValueError where `raw` is none."""
    try:
        members = orjson.loads(b"{%b}" % raw[MEMBERS:])
        author, body, html = members["author"], members["body"], members["html"]
        return Node(
            parent=int.from_bytes(raw[:PARENT_BYTES], "big"),
            state=_STATES[raw[STATE:MEMBERS]],
            depth=members["depth"],
            version=members["version"],
            id=UUID(members["id"]),
            author=orjson.dumps(author),
            text=b'"body":%b,"html":%b' % (orjson.dumps(body), orjson.dumps(html)),
            created_at=members["created_at"],
            edited_at=members["edited_at"],
            edited_by=members["edited_by"],
            revision=members["revision"],
            up=members["votes"]["up"],
            down=members["votes"]["down"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no node: {error!r}") from error


def without_text(raw: bytes) -> bytes:
    """The node's members as those see them whom its text is kept from."""
    members = orjson.loads(b"{%b}" % raw[MEMBERS:])
    members["author"] = members["body"] = members["html"] = None
    return orjson.dumps(members)[1:-1]


def author_fragment(
    author_id: str | None, name: str | None, avatar: str | None, badge: Badge | None = None
) -> bytes:
    """The author as a comment names them; `null` for a comment without one."""
    if author_id is None:
        return NO_AUTHOR
    return orjson.dumps({"id": author_id, "name": name, "avatar": avatar, "badge": badge})


def written_by(raw: bytes, author_id: str) -> bool:
    """Whether this author wrote the node's comment."""
    author = orjson.loads(b"{%b}" % raw[MEMBERS:])["author"]
    return author is not None and author["id"] == author_id


def hidden_author(raw: bytes) -> str | None:
    """Who alone sees the text of the node's comment; None where all do, where nobody does, or where it has no
    author any more."""
    if raw[STATE:MEMBERS] not in _ITS_AUTHORS:
        return None
    author = orjson.loads(b"{%b}" % raw[MEMBERS:])["author"]
    return None if author is None else str(author["id"])


def text_fragment(body: str) -> bytes:
    """A comment's text as members of its JSON object. Its Markdown is rendered here, once."""
    quoted = orjson.dumps(body)
    if _PROSE.fullmatch(quoted):
        return _in_prose(quoted[1:-1])
    return b'"body":%b,"html":%b' % (quoted, orjson.dumps(render(body)))


def _in_prose(body: bytes) -> bytes:
    return b'"body":"%b","html":"%b"' % (body, prose_html(body))


def said_in_prose(author_id: str, sealed: bytes) -> tuple[bytes, bytes] | None:
    """Author (without a badge) and text of a comment, out of the JSON of what was sealed with it; None where
    that is not prose, or otherwise written: then it is to be read, and given to the functions above.

    Most comments go this way, and sooner (docs/decisions/0022-fold-speed.md).
    """
    found = _SAID_IN_PROSE.fullmatch(sealed)
    if found is None:
        return None
    body, name, avatar = found.groups(b"null")
    author = b'{"id":%b,"name":%b,"avatar":%b,"badge":null}' % (orjson.dumps(author_id), name, avatar)
    return author, _in_prose(body)
