"""The renderer's short cuts give what the whole way through the parser and the sanitiser gives."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.core import markup
from services.core.text import TextRefused, normalise_body
from services.ops.bench.prose import body as body_like_a_comment

ALPHABET = "aZé²ß字_ \n.,;:!?'\"()%/@$+=-…–—‘’“”„«»¿¡€£1#*~`<>&[]\\|^{}\t\xa0\u2028\u200d\u0301"
prose = st.lists(
    st.sampled_from(["a", "Zoë ", "\n", "\n\n", "- ", "1. ", "= ", "==", "--", "+ ", "3) ", ": ", "://", "_"])
    | st.text(ALPHABET, max_size=5),
    max_size=20,
).map("".join)
MARKUP = [
    "*",
    "**",
    "***",
    "_",
    "__",
    "~~",
    "`",
    "``",
    "#",
    "=",
    "\\",
    "&amp;",
    "&nbsp;",
    "&lt;",
    "<b>",
    "</p>",
]
MARKUP += [">", "-", "a", "b", "&", "<", "http://a", "[a](b)", "![a](b)"]
nested = st.lists(
    st.sampled_from([*MARKUP, " ", "\n", "  \n", "\n\n", "> ", "- ", "    ", "b ", "\xa0"]), max_size=50
).map("".join)
TAGS = ["<p>", "</p>", "<em>", "</em>", "<br>", "<a>", "&amp;", "&", "x"]


def the_whole_way(body: str) -> str:
    html = markup._Writer().write(markup._PARSER.events(body))
    if len(html) <= markup.MAX_HTML:
        html = markup._CLEANER.clean(html)
    assert len(html) <= markup.MAX_HTML
    return html.removesuffix("\n")


@given(prose | nested | st.text(ALPHABET) | st.text())
@example("a\n=")
@example("a\n-")
@example("a =\nb --\nc + d")
@example("a\u00a0b")
@example("# \n**")
@example("~~~\na")
@example("***a** b*")
@example("a\r\nb\0")
@example("*" * 90 + "a" + "*" * 90)
@example("*a **b *c **d *e **f *g **h** i* j** k* l** m* n** o*")
def test_any_body_is_rendered_as_without_short_cuts(typed: str) -> None:
    for body in {typed, _normalised(typed)}:
        assert markup.render(body) == the_whole_way(body)


def _normalised(typed: str) -> str:
    try:
        return normalise_body(typed)
    except TextRefused:
        return ""


def test_what_people_write_is_rendered_as_without_short_cuts() -> None:
    random = Random(7)
    for _ in range(1_000):
        body = body_like_a_comment(random)
        assert markup.render(body) == the_whole_way(body)


@given(
    st.lists(st.sampled_from(["<p>", "</p>", "<em>", "</em>", "<br>", "<a>", "&amp;", "&", "x"])).map("".join)
)
def test_only_bare_tags_and_escaped_text_go_without_the_sanitiser(html: str) -> None:
    harmless = "<a>" not in html and "&" not in html.replace("&amp;", "")
    assert bool(markup._HARMLESS.fullmatch(html)) is harmless


@pytest.mark.parametrize(
    "html",
    [
        "<p onclick=x>",
        "<script>",
        "<p/>",
        "<P>",
        "</br>",
        "a>b",
        "a<b",
        "&nbsp;",
        "&#60;",
        "\xa0",
        "\0",
        "\r",
    ],
)
def test_anything_else_goes_to_the_sanitiser(html: str) -> None:
    assert not markup._HARMLESS.fullmatch(html)


@pytest.mark.parametrize(
    ("body", "taken"),
    [
        ("Yes, of course (he said): 3/4!", True),
        ("One\ntwo\n\nthree", True),
        ("Ein Straßencafé", True),
        ("one  \ntwo", False),
        ("one ", False),
        ("one\n\n\ntwo", False),
        ("one\n= two", False),
        ("1. one", False),
        ("see http://a.example", False),
        ("snake_case_name", False),
        ("*one*", False),
        ("", False),
    ],
)
def test_prose_is_told_from_markdown(body: str, taken: bool) -> None:
    assert markup._is_prose(body) is taken
