"""WordPress exports (WXR 1.0 to 1.2: RSS 2.0 with the namespace `http://wordpress.org/export/1.x/`).

The file is pushed through libxml2 in pieces, and a target object takes the parser's calls one by one: no
tree is built, so memory does not grow with the file, nor with the comments of one item. A document type
declaration is refused when it begins, before any entity of it is declared, so no entity is ever expanded.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

from lxml import etree

from services.core.addresses import BadAddress, check_thread_key
from services.core.text import TITLE_CODE_POINTS, TextRefused, check_url, normalise_line
from services.ops.importers.html import HTML_CHARS, to_markdown
from services.ops.importers.records import (
    AUTHOR_PREFIX,
    AuthorId,
    CommentRefused,
    ImportedComment,
    ImportedThread,
    ImportRefused,
    Noted,
    Record,
    Skipped,
    comment_body,
    comment_id,
    comment_name,
    comment_time,
)

if TYPE_CHECKING:
    from lxml.etree._saxparser import ParserTarget

    _ParserTarget = ParserTarget[None]
else:
    _ParserTarget = object

CHUNK_BYTES: Final = 64 * 1024
"""Bytes read at a time; at most the comments of one such piece are held."""

ThreadKey: TypeAlias = Literal["path", "link", "post_id"]

_NAMESPACE: Final = re.compile(r"\{http://wordpress\.org/export/1\.\d+/\}")
_FIELD_CHARS: Final = 4_096
_USER_ID: Final = re.compile(r"[1-9][0-9]{0,19}")
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")

# How deep an element lies; the channel is at 2.
_ROOT, _ITEM, _COMMENT, _FIELD = 1, 3, 4, 5

_ITEM_FIELDS: Final = frozenset({"title", "link", "wp:post_id"})
_COMMENT_FIELDS: Final = frozenset(
    f"wp:comment_{name}"
    for name in (
        "id", "parent", "author", "author_email", "user_id", "date", "date_gmt", "content", "approved", "type"
    )
)  # fmt: skip
_NOT_COMMENTS: Final = {
    "pingback": "pingback",
    "trackback": "trackback",
}
_NOT_APPROVED: Final = {
    "spam": "spam",
    "trash": "trash",
    "post-trashed": "trash",
}


def read_wxr(stream: BinaryIO, *, key: ThreadKey = "path", author_id: AuthorId) -> Iterator[Record]:
    """The comments of an export in file order, each thread's `ImportedThread` before the first of its
    comments.

    `key` says what names a thread: the path of the item's link without the slashes around it and with its
    percent signs decoded, the whole link, or the number WordPress gave the post. Only approved comments of
    people are taken; all others are `Skipped` by kind. The author is `import:` and the user's number on the
    site, or, for one without an account, `import:` and `author_id(address, name)`; the address itself goes
    no further.

    Raises `ImportRefused` at the place where the file is damaged, is no export, or declares a document type.
    What was read before that place has been yielded.
    """
    target = _Target(key, author_id)
    parser = etree.XMLParser(
        target=target, resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, recover=False
    )
    try:
        while chunk := stream.read(CHUNK_BYTES):
            parser.feed(chunk)
            yield from target.drain()
        parser.close()
    except etree.XMLSyntaxError as error:
        yield from target.drain()
        line, column = error.position
        # libxml2's message names elements and entities at most; the place in it is given apart.
        raise ImportRefused(f"damaged XML: {_clause(error.msg)}", f"line {line}, column {column}") from error
    except ImportRefused:
        yield from target.drain()
        raise
    yield from target.drain()
    if not target.is_export:
        raise ImportRefused("not a WordPress export: no <wp:wxr_version>", "the end of the file")


def thread_key(link: str, post_id: str, kind: ThreadKey) -> str:
    """The key of the item with this link and number; `CommentRefused` where it has none that is valid."""
    if kind == "post_id":
        found = post_id.strip()
    elif kind == "link":
        found = link.strip()
    else:
        found = _path(link.strip())
    if not found:
        raise CommentRefused(f"its item has no {kind} to be known by; another --key may serve")
    try:
        return check_thread_key(found)
    except BadAddress as refused:
        raise CommentRefused(f"its item cannot be a thread: {refused.reason}") from refused


def _path(link: str) -> str:
    try:
        parts = urlsplit(link)
    except ValueError as error:
        raise CommentRefused("its item's link is not a URL") from error
    if parts.query:
        # A draft's ?p=123, or a site without pretty links: the path is the same for all of its pages.
        raise CommentRefused(
            "its item's link has a query, so its path names no page; use --key link or post_id"
        )
    if _BAD_PERCENT.search(parts.path):
        raise CommentRefused("its item's link is not percent-encoded well")
    try:
        return unquote_to_bytes(parts.path.strip("/")).decode("utf-8")
    except UnicodeError as error:
        raise CommentRefused("its item's link is not UTF-8") from error


@dataclass(slots=True)
class _Text:
    """The text of one element, gathered up to a limit; `over` once the file had more."""

    limit: int
    parts: list[str] = field(default_factory=list)
    size: int = 0
    over: bool = False

    def add(self, data: str) -> None:
        self.size += len(data)
        if self.size > self.limit:
            self.over = True
        else:
            self.parts.append(data)

    def __str__(self) -> str:
        return "".join(self.parts)


class _Target(_ParserTarget):
    """Takes the parser's calls and makes records of them; `drain` hands them over, oldest first."""

    def __init__(self, key: ThreadKey, author_id: AuthorId) -> None:
        self._key = key
        self._author_id = author_id
        self._ready: deque[Record] = deque()
        self._depth = 0
        self._open: _Text | None = None
        self._open_depth = 0
        self.is_export = False
        self._items = 0
        self._in_item = False
        self._in_comment = False
        self._item: dict[str, _Text] = {}
        self._comment: dict[str, _Text] = {}
        self._comments = 0
        self._thread: str | None = None

    def drain(self) -> Iterator[Record]:
        while self._ready:
            yield self._ready.popleft()

    # -- called by the parser

    def doctype(self, name: str | None, public: str | None, system: str | None) -> None:
        raise ImportRefused("declares a document type, which no export does", "the start of the file")

    def start(self, tag: str, attrib: Mapping[str, str]) -> None:
        self._depth += 1
        name = _NAMESPACE.sub("wp:", tag, count=1)
        if self._depth == _ROOT:
            if name != "rss":
                raise ImportRefused("not a WordPress export: no <rss>", "the start of the file")
        elif self._depth == _ITEM:
            if name == "wp:wxr_version":
                self.is_export = True
            elif name == "item":
                self._begin_item()
        elif self._depth == _COMMENT and self._in_item:
            if name == "wp:comment":
                self._in_comment, self._comment = True, {}
                self._comments += 1
            elif name in _ITEM_FIELDS:
                self._gather(self._item, name)
        elif self._depth == _FIELD and self._in_comment and name in _COMMENT_FIELDS:
            self._gather(self._comment, name)

    def end(self, tag: str) -> None:
        if self._depth == self._open_depth:
            self._open, self._open_depth = None, 0
        elif self._depth == _COMMENT and self._in_comment:
            self._end_comment()
        elif self._depth == _ITEM:
            self._in_item = False
        self._depth -= 1

    def data(self, data: str) -> None:
        if self._open is not None and self._depth == self._open_depth:
            self._open.add(data)

    def close(self) -> None:
        """Called by lxml at the end and behind every error, which a refusal here would hide."""

    # -- what they amount to

    def _gather(self, fields: dict[str, _Text], name: str) -> None:
        if name in fields:
            return  # a field given twice: the first counts
        self._open = fields[name] = _Text(HTML_CHARS if name == "wp:comment_content" else _FIELD_CHARS)
        self._open_depth = self._depth

    def _begin_item(self) -> None:
        self._items += 1
        if not self.is_export:
            raise ImportRefused("not a WordPress export: no <wp:wxr_version> before the items", self._where())
        self._in_item, self._item, self._comments, self._thread = True, {}, 0, None

    def _end_comment(self) -> None:
        self._in_comment = False
        where = self._where()
        try:
            source_id = comment_id(_value(self._comment, "wp:comment_id"), "comment_id")
            where = f"comment {source_id}"
            if source_id == "0":
                raise CommentRefused("the comment_id is not an id")
            _is_taken(self._comment)
            key = self._thread if self._thread is not None else self._name_thread()
            comment = _comment(self._comment, source_id, key, self._author_id)
        except CommentRefused as refused:
            self._ready.append(Skipped(where, str(refused)))
            return
        if self._thread is None:
            # Only now, so that no thread is told of that has no comment.
            self._thread = key
            self._ready.append(ImportedThread(key, self._title(), self._url()))
        self._ready.append(comment)

    def _name_thread(self) -> str:
        if ("wp:post_id" if self._key == "post_id" else "link") not in self._item:
            raise CommentRefused("stands before its item's link or number")
        return thread_key(_value(self._item, "link"), _value(self._item, "wp:post_id"), self._key)

    def _title(self) -> str | None:
        title = self._item.get("title")
        if title is None or not str(title).strip():
            return None
        try:
            return normalise_line(
                _value(self._item, "title").strip(), what="the title", limit=TITLE_CODE_POINTS
            )
        except (TextRefused, CommentRefused) as refused:
            self._ready.append(Noted(f"item {self._items}", f"title left out: {refused}"))
            return None

    def _url(self) -> str | None:
        link = self._item.get("link")
        if link is None or not str(link).strip():
            return None
        try:
            return check_url(_value(self._item, "link").strip())
        except (TextRefused, CommentRefused) as refused:
            self._ready.append(Noted(f"item {self._items}", f"link left out: {refused}"))
            return None

    def _where(self) -> str:
        return (
            f"item {self._items}, its comment {self._comments}" if self._comments else f"item {self._items}"
        )


def _comment(fields: Mapping[str, _Text], source_id: str, key: str, author_id: AuthorId) -> ImportedComment:
    parent = _value(fields, "wp:comment_parent").strip()
    name = _value(fields, "wp:comment_author")
    user = _value(fields, "wp:comment_user_id").strip()
    if _USER_ID.fullmatch(user):
        author = user
    else:
        author = author_id(_value(fields, "wp:comment_author_email").strip().lower(), name.strip())
    return ImportedComment(
        source_id=source_id,
        parent_source_id=None if parent in {"", "0"} else comment_id(parent, "comment_parent"),
        thread_key=key,
        author_id=AUTHOR_PREFIX + author,
        author_name=comment_name(name),
        created_at=_time(fields),
        body=comment_body(to_markdown(_value(fields, "wp:comment_content"))),
    )


def _value(fields: Mapping[str, _Text], name: str) -> str:
    """The text of a field, "" where the file has none. Raises `CommentRefused` where it is over the limit."""
    found = fields.get(name)
    if found is None:
        return ""
    if found.over:
        what = "the body" if name == "wp:comment_content" else f"the {name.removeprefix('wp:')}"
        raise CommentRefused(f"{what} is far over its limit")
    return str(found)


def _is_taken(fields: Mapping[str, _Text]) -> None:
    kind = _value(fields, "wp:comment_type").strip().lower()
    approved = _value(fields, "wp:comment_approved").strip().lower()
    if kind not in {"", "comment"}:
        raise CommentRefused(_NOT_COMMENTS.get(kind, "of another type than comment"))
    if approved not in {"1", "approve", "approved"}:
        raise CommentRefused(_NOT_APPROVED.get(approved, "unapproved"))


def _time(fields: Mapping[str, _Text]) -> datetime:
    """`comment_date_gmt`, else `comment_date`, whose zone no export names: it is read as UTC."""
    for name in ("wp:comment_date_gmt", "wp:comment_date"):
        raw = _value(fields, name).strip()
        if _DATE.fullmatch(raw):
            try:
                return comment_time(datetime.strptime(raw, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC))
            except ValueError as error:
                if isinstance(error, CommentRefused):
                    raise
    raise CommentRefused("the date is not one")


def _clause(message: str | None) -> str:
    """The part of a libxml2 message before its place, which is given apart."""
    return re.sub(r",? line \d+, column \d+.*$", "", message or "not well-formed", flags=re.DOTALL)[:200]
