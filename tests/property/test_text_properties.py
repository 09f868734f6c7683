"""What holds for every text, key and body, whatever Hypothesis thinks of."""

import unicodedata
from html.parser import HTMLParser

import nh3
from hypothesis import given
from hypothesis import strategies as st

from services.core.addresses import (
    BadAddress,
    check_thread_key,
    decode_thread_key,
    encode_thread_key,
    new_event_id,
    parse_comment_id,
    thread_stream_id,
)
from services.core.markup import MAX_HTML, render
from services.core.text import TITLE_CODE_POINTS, TextRefused, check_url, normalise_body, normalise_line

TAGS = {"p", "br", "em", "strong", "del", "a", "blockquote", "ul", "ol", "li", "code", "pre", "hr"}
REL = ("rel", "nofollow ugc noopener")

any_text = st.text(st.characters())
marks = st.text(st.sampled_from("a\u0301\u0316\u0315\u0344\u0f73\u0f71\u0f72\u0308ᄀ\u1161"), max_size=200)
storable = st.text(st.characters(codec="utf-8"))
markdown = st.lists(
    st.sampled_from(
        [
            "[",
            "](",
            ")",
            "](javascript:",
            "](http://a ",
            "![",
            "*",
            "**",
            "_",
            "~~",
            "`",
            "```\n",
            "\n",
            "\n\n",
            "    ",
            "> ",
            "- ",
            "1. ",
            "# ",
            "<",
            ">",
            "<a href='",
            "<script>",
            "</p>",
            "<!--",
            "-->",
            "&lt;",
            "&#106;",
            "\\",
            "http://",
            "https://a.b/c",
            "javascript:x",
            "mailto:",
            '"',
            "'",
            "onload=",
            "a",
            "é",
            "\u00a0",
            "\u202e",
            "[a]: ",
            "[a]",
            "<http://b>",
            "<svg onload=x>",
            "==\n",
            "---\n",
        ]
    )
    | st.text(max_size=4),
    max_size=60,
).map("".join)


def keys() -> st.SearchStrategy[str]:
    def is_key(key: str) -> bool:
        try:
            return check_thread_key(key) == key
        except BadAddress:
            return False

    alphabet = st.characters(exclude_categories=["Cs", "Cc"])
    return (st.text(alphabet, min_size=1, max_size=128) | st.text("~/.%+ é", min_size=1)).filter(is_key)


@given(keys())
def test_a_key_survives_its_path_segment(key: str) -> None:
    segment = encode_thread_key(key)
    assert segment.isascii()
    assert "/" not in segment
    assert segment not in (".", "..")
    assert decode_thread_key(segment) == decode_thread_key(segment.encode()) == key


@given(any_text | st.text("%0aAfF~=_-."))
def test_a_segment_names_a_key_that_names_itself_or_nothing(segment: str) -> None:
    try:
        key = decode_thread_key(segment)
    except BadAddress:
        return
    assert decode_thread_key(encode_thread_key(key)) == key


@given(keys(), keys())
def test_two_keys_are_two_streams(one: str, other: str) -> None:
    assert (thread_stream_id("a", one) == thread_stream_id("a", other)) == (one == other)


@given(st.integers(0, (1 << 48) - 1), st.binary(min_size=10, max_size=10))
def test_every_event_id_can_be_a_comment_id(unix_ms: int, random: bytes) -> None:
    made = new_event_id(unix_ms, random)
    assert parse_comment_id(str(made)) == made


@given(any_text | marks)
def test_normalising_a_body_twice_is_normalising_it_once(raw: str) -> None:
    try:
        body = normalise_body(raw)
    except TextRefused:
        return
    assert normalise_body(body) == body
    assert body == unicodedata.normalize("NFC", raw.replace("\r\n", "\n").replace("\r", "\n"))


@given(any_text | marks)
def test_normalising_a_line_twice_is_normalising_it_once(raw: str) -> None:
    try:
        line = normalise_line(raw, what="the title", limit=TITLE_CODE_POINTS)
    except TextRefused:
        return
    assert normalise_line(line, what="the title", limit=TITLE_CODE_POINTS) == line
    assert len(line.splitlines()) == 1


@given(st.sampled_from(["http://", "https://", "http:", ""]), any_text)
def test_checking_an_address_twice_is_checking_it_once(scheme: str, rest: str) -> None:
    try:
        url = check_url(scheme + rest)
    except TextRefused:
        return
    assert check_url(url) == url


class _Inspector(HTMLParser):
    """Asserts that every tag is allowed, carries only its attributes, and is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        if tag not in ("br", "hr"):
            self.open.append(tag)
        if tag == "a":
            names = dict(attrs)
            assert REL in attrs
            assert set(names) <= {"href", "rel"}
            address = (names.get("href") or "mailto:").lower()
            assert address.startswith(("http://", "https://", "mailto:"))
        else:
            assert not attrs or (tag == "ol" and [name for name, _ in attrs] == ["start"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)


@given(markdown | storable)
def test_html_holds_only_allowed_tags_and_addresses(body: str) -> None:
    html = render(body)
    inspector = _Inspector()
    inspector.feed(html)
    inspector.close()
    assert not inspector.open
    assert 'href="javascript:' not in html.lower()
    assert len(html) <= MAX_HTML


@given(markdown)
def test_html_is_what_any_sanitiser_would_leave(body: str) -> None:
    html = render(body)
    assert nh3.clean(html, link_rel="nofollow ugc noopener") == html
