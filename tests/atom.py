"""Reading Atom documents as RFC 4287 demands of those who write them."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from lxml import etree

ATOM: Final = "{http://www.w3.org/2005/Atom}"
THREAD: Final = "{http://purl.org/syndication/thread/1.0}"
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def parsed(document: bytes) -> etree._Element:
    """The feed, once it is seen to have all that it must have, and no more of it than it may."""
    root = etree.fromstring(document)
    assert root.tag == f"{ATOM}feed"
    _identified(root)
    assert len(links(root, "self")) == 1
    entries = root.findall(f"{ATOM}entry")
    known = [_one(entry, "id") for entry in entries]
    assert len(set(known)) == len(known)
    for entry in entries:
        _identified(entry)
        _is_time(_one(entry, "published"))
        # Section 4.1.2: an author of its own, since the feed has none; content, or else a page to go to.
        authors = entry.findall(f"{ATOM}author")
        assert len(authors) == 1
        assert _one(authors[0], "name")
        contents = entry.findall(f"{ATOM}content")
        assert [content.get("type") for content in contents] == ["html"]
        assert not list(contents[0])
        assert len(links(entry, "alternate")) <= 1
        for reply in entry.findall(f"{THREAD}in-reply-to"):
            UUID(_urn(reply.get("ref") or ""))
    if entries:
        assert _one(root, "updated") == max(_one(entry, "updated") for entry in entries)
    return root


def links(element: etree._Element, rel: str) -> list[str]:
    """Where the links of this kind lead."""
    return [link.get("href") or "" for link in element.findall(f"{ATOM}link") if link.get("rel") == rel]


def text(element: etree._Element, name: str) -> str:
    """What the only child of this name says."""
    return _one(element, name)


def _identified(element: etree._Element) -> None:
    UUID(_urn(_one(element, "id")))
    assert _one(element, "title")
    _is_time(_one(element, "updated"))


def _one(element: etree._Element, name: str) -> str:
    found = element.findall(f"{ATOM}{name}")
    assert len(found) == 1, name
    return found[0].text or ""


def _is_time(given: str) -> None:
    assert _TIME.fullmatch(given), given


def _urn(given: str) -> str:
    assert given.startswith("urn:uuid:"), given
    return given.removeprefix("urn:uuid:")
