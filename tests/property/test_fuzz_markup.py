"""Whatever is typed, a reader's browser gets text, a few tags and links that lead to pages and mailboxes.

The judge is html5lib, which parses as browsers do and has nothing in common with what writes the HTML.
"""

from __future__ import annotations

import re
import sys
from types import FrameType
from typing import Final
from xml.etree.ElementTree import Element

import html5lib
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.core.markup import MAX_HTML, MAX_LINK, render
from services.core.text import TextRefused, normalise_body
from tests.fuzzing import fuzz

TAGS: Final = {"p", "br", "em", "strong", "del", "a", "blockquote", "ul", "ol", "li", "code", "pre", "hr"}
NESTING: Final = {"blockquote", "ul", "ol", "li", "em", "strong", "del"}
REL: Final = "nofollow ugc noopener"
DEAD: Final = (
    "javascript:",
    "data:",
    "vbscript:",
    "file:",
    "blob:",
    "about:",
    "view-source:",
    "//",
    "\\\\",
    "/",
)

_DISGUISES: Final = (
    str,
    str.upper,
    lambda c: f"&#{ord(c)};",
    lambda c: f"&#x{ord(c):x};",
    lambda c: f"&#{ord(c):07};",
    lambda c: f"%{ord(c):02x}",
    lambda c: f"\\{c}",
    lambda c: f"{c}\t",
    lambda c: f"{c}&Tab;",
    lambda c: f"{c}&NewLine;",
    lambda c: f"{c}\n",
    lambda c: f"{c}&#0;",
    lambda c: f"{c}&#173;",
    lambda c: f"{c}\u200b",
    lambda c: f"\u2060{c}",
    lambda c: chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c,
    lambda c: {":": "&colon;", "/": "&sol;", "\\": "&bsol;", "s": "\u017f", "k": "\u212a"}.get(c, c),
)


@st.composite
def disguised(draw: st.DrawFn) -> str:
    """An address that must not become a link, as somebody would hide it from a filter."""
    address = draw(st.sampled_from(DEAD)) + draw(st.sampled_from(["alert(1)", "text/html,<b>", "x", "a.b/c"]))
    before = draw(
        st.sampled_from(["", " ", "\t", "&#1;", "&#32;", "&nbsp;", "\u2028", "\ufeff", "http:", "x "])
    )
    if draw(st.booleans()):
        disguise = draw(st.sampled_from(_DISGUISES))
        return before + "".join(map(disguise, address))
    return before + "".join(draw(st.sampled_from(_DISGUISES))(letter) for letter in address)


addresses = disguised() | st.sampled_from(
    [
        "http://a.b/c?d=e&f",
        "https://ü.example/\"'<>",
        "mailto:a@b.c",
        "http://a.b/" + "c" * MAX_LINK,
        "HTTPS://A.B",
        "",
    ]
)
links = st.builds(
    str.replace,
    st.sampled_from(
        [
            "[a](@)",
            "[a](<@>)",
            '[a](@ "t")',
            "[a](@ 't\" onclick=x')",
            "<@>",
            "![a](@)",
            "[![a](@)](@)",
            "[a][b]\n\n[b]: @\n",
            "[b]\n\n[b]: <@> 't'\n",
            "[[a](@)](@)",
            "*[a](@)* @",
            '<a href="@">a</a>',
            "<img src=x onerror='@'>",
            "<svg><a xlink:href=@>a</a></svg>",
        ]
    ),
    st.just("@"),
    addresses,
)
PIECES: Final = (
    "* ** _ ~~ ` > - 1. 99999999999. # === --- \\ & &lt; &#0; &#x110000; < > <!-- --> <![CDATA[ ]]> <? </p> "
    "</code></pre> <script> </script> <style> <math><mi> <template> <plaintext> <noscript> </textarea> [ ] ( "
    ") \" ' a é \u0301 \u202e \U0001f600"
)
markup = st.lists(
    st.sampled_from([*PIECES.split(), " ", "    ", "\n", "\n\n", "  \n", "\n> ", "\n- ", "```\n", "\t"])
    | links
    | st.text(max_size=5),
    max_size=40,
).map("".join)


def parsed(html: str) -> Element:
    """The tree that a browser would build; fails where it would have to mend anything."""
    parser = html5lib.HTMLParser(html5lib.getTreeBuilder("etree"), namespaceHTMLElements=False)
    tree = parser.parseFragment(html)
    # A control character that somebody wrote as `&#1;` is none of HTML's, and changes nothing around it.
    assert not [error for error in parser.errors if error[1] != "invalid-codepoint"], html
    assert isinstance(tree, Element)
    return tree


def judge(tree: Element, depth: int = 0) -> None:
    """Assert that every element is allowed, with the attributes that it may have."""
    for element in tree:
        tag = element.tag
        assert tag in TAGS, tag  # a comment's is no string
        given = dict(element.attrib)
        if tag == "a":
            assert given.pop("rel") == REL
            # As the URL standard reads it: no control or space at the ends, no tab or line end anywhere.
            href = (
                re.sub(r"[\t\n\r]", "", given.pop("href", "mailto:nobody"))
                .strip("".join(map(chr, range(33))))
                .lower()
            )
            assert re.match(r"https?://[^/?#\\]|mailto:.", href), href
        elif tag == "ol" and "start" in given:
            assert re.fullmatch("[0-9]{1,9}", given.pop("start"))
        assert not given, (tag, given)
        deeper = depth + (tag in NESTING)
        assert deeper <= 32
        judge(element, deeper)


@fuzz(600)
@given(markup)
@example("[a](javascript&colon;alert(1))")
@example("[a](\x01javascript:alert(1))")
@example("<javascript:alert(1)>")
def test_a_browser_finds_only_what_is_allowed(body: str) -> None:
    html = render(body)
    assert len(html) <= MAX_HTML
    judge(parsed(html))


@fuzz(400)
@given(links)
def test_no_disguise_makes_a_link_of_what_must_not_be_one(body: str) -> None:
    judge(parsed(render(body)))


@fuzz(200)
@given(st.text(st.characters(codec="utf-8")))
def test_what_may_be_stored_can_be_shown(raw: str) -> None:
    try:
        body = normalise_body(raw)
    except TextRefused:
        return
    judge(parsed(render(body)))


@fuzz(100)
@given(st.lists(markup, min_size=1, max_size=4), st.integers(1, 400))
@example(["> "], 400)
@example(["- "], 400)
@example(["*a **b ~~c "], 400)
def test_repeated_without_end_it_stays_bounded(parts: list[str], times: int) -> None:
    html = render(("".join(parts) * times)[:10_000])
    assert len(html) <= MAX_HTML
    judge(parsed(html))


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "*a ",
        "[a](http://b) ",
        "http://a.b ",
        "> ",
        "- ",
        "<b>",
        "&amp;",
        "*_",
        "![",
        "](",
        "`a` ",
        "a\n",
        "~~",
    ],
)
def test_the_work_grows_with_the_text_and_no_faster(unit: str) -> None:
    # Calls, not seconds: twice the text takes at most twice of them, and a little.
    short = calls((unit * 5_000)[:2_500])
    assert calls((unit * 5_000)[:5_000]) <= 2.2 * short + 200


def calls(body: str) -> int:
    """How many functions rendering calls."""
    counted = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        render(body)
    finally:
        sys.setprofile(None)
    return counted
