"""Atom documents, whatever the texts hold."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.api.atom import Entry, feed
from tests.atom import ATOM, THREAD, links, parsed, text

ENTRY = Entry(
    id=UUID(int=7),
    parent_id=None,
    name="Ann",
    thread="Talk & therapy",
    html="<p>as <em>written</em></p>",
    created_at="2026-11-23T05:00:00.000000Z",
    edited_at=None,
    link="https://blog.example/a#comment-7",
    parent_link=None,
)


def of(*entries: Entry, title: str = "A site", link: str | None = None) -> bytes:
    return feed(UUID(int=1), title, "feed.atom", link, list(entries))


def test_a_comment_becomes_an_entry() -> None:
    root = parsed(of(ENTRY, link="https://blog.example/a"))
    assert text(root, "id") == "urn:uuid:00000000-0000-0000-0000-000000000001"
    assert (text(root, "title"), links(root, "self")) == ("A site", ["feed.atom"])
    assert links(root, "alternate") == ["https://blog.example/a"]
    [entry] = root.findall(f"{ATOM}entry")
    assert text(entry, "title") == "Ann: Talk & therapy"
    assert text(entry, "content") == "<p>as <em>written</em></p>"
    assert text(entry, "updated") == text(entry, "published") == ENTRY.created_at
    assert links(entry, "alternate") == [ENTRY.link]
    assert entry.find(f"{THREAD}in-reply-to") is None


def test_an_edit_updates_and_a_reply_names_its_parent() -> None:
    edited = "2026-11-23T06:00:00.000000Z"
    reply = replace(ENTRY, edited_at=edited, parent_id=UUID(int=3), parent_link="https://blog.example/a#3")
    root = parsed(of(replace(ENTRY, id=UUID(int=8)), reply))
    first, second = root.findall(f"{ATOM}entry")
    assert (text(first, "updated"), text(second, "updated"), text(root, "updated")) == (
        ENTRY.created_at,
        edited,
        edited,
    )
    found = second.find(f"{THREAD}in-reply-to")
    assert found is not None
    assert dict(found.attrib) == {
        "ref": "urn:uuid:00000000-0000-0000-0000-000000000003",
        "href": "https://blog.example/a#3",
        "type": "text/html",
    }


def test_a_feed_without_entries_is_one() -> None:
    assert parsed(of()).findall(f"{ATOM}entry") == []


def test_what_xml_does_not_take_is_replaced() -> None:
    root = parsed(of(replace(ENTRY, name="a\x00b\ufffec", html="\x1f\ud800]]><&\uffff\U0010ffff")))
    [entry] = root.findall(f"{ATOM}entry")
    assert text(entry, "title").startswith("a\ufffdb\ufffdc: ")
    assert text(entry, "content") == "\ufffd\ufffd]]><&\ufffd\U0010ffff"


@given(st.text(min_size=1), st.text(), st.text(min_size=1))
def test_any_text_gives_a_feed(name: str, html: str, title: str) -> None:
    parsed(of(replace(ENTRY, name=name, html=html, thread=title, link=f"https://x.example/{html}")))
