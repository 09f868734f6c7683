"""Atom documents (RFC 4287) of comments, with the threading extension (RFC 4685)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from lxml import etree

MEDIA: Final = "application/atom+xml"

_ATOM: Final = "http://www.w3.org/2005/Atom"
_THREAD: Final = "http://purl.org/syndication/thread/1.0"
_NEVER: Final = "1970-01-01T00:00:00Z"
"""When a feed was updated that never had an entry: the element is required."""
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may hold (XML 1.0, section 2.2), escaped or not."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A visible comment. `name` is its author's, `thread` its thread's title; `link` is its permalink and
    `parent_link` its parent's, where they have one. Times as RFC 3339 has them."""

    id: UUID
    parent_id: UUID | None
    name: str
    thread: str
    html: str
    created_at: str
    edited_at: str | None
    link: str | None
    parent_link: str | None


def feed(feed_id: UUID, title: str, address: str, link: str | None, entries: Sequence[Entry]) -> bytes:
    """The document. `address` is where it is to be had, `link` the page that it belongs to."""
    root = etree.Element(f"{{{_ATOM}}}feed", nsmap={None: _ATOM, "thr": _THREAD})
    _text(root, "id", feed_id.urn)
    _text(root, "title", title)
    updated = max((_updated(entry) for entry in entries), default=_NEVER)
    _text(root, "updated", updated)
    _link(root, "self", address, MEDIA)
    if link is not None:
        _link(root, "alternate", link, "text/html")
    _text(root, "generator", "threadlog")
    for entry in entries:
        _add(root, entry)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def _add(root: etree._Element, entry: Entry) -> None:
    element = etree.SubElement(root, f"{{{_ATOM}}}entry")
    _text(element, "id", entry.id.urn)
    _text(element, "title", f"{entry.name}: {entry.thread}")
    _text(element, "published", entry.created_at)
    _text(element, "updated", _updated(entry))
    author = etree.SubElement(element, f"{{{_ATOM}}}author")
    _text(author, "name", entry.name)
    if entry.link is not None:
        _link(element, "alternate", entry.link, "text/html")
    if entry.parent_id is not None:
        reply = etree.SubElement(element, f"{{{_THREAD}}}in-reply-to", ref=entry.parent_id.urn)
        if entry.parent_link is not None:
            reply.set("href", _legal(entry.parent_link))
            reply.set("type", "text/html")
    _text(element, "content", entry.html).set("type", "html")


def _updated(entry: Entry) -> str:
    return entry.edited_at or entry.created_at


def _text(parent: etree._Element, name: str, text: str) -> etree._Element:
    element = etree.SubElement(parent, f"{{{_ATOM}}}{name}")
    element.text = _legal(text)
    return element


def _link(parent: etree._Element, rel: str, href: str, media: str) -> None:
    etree.SubElement(parent, f"{{{_ATOM}}}link", rel=rel, type=media, href=_legal(href))


def _legal(text: str) -> str:
    """The text with a replacement character for each that XML does not take."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
