"""The short cuts of a body's way to HTML give what the whole way, parser, writer and sanitiser, gives."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.core import markup, text
from services.core.node import text_fragment
from services.core.text import TextRefused, normalise_body
from services.ops.bench.prose import body as body_like_a_comment

ALPHABET = "aZé²ß字_ \n.,;:!?'\"()%/@$+=-…–—‘’“”„«»¿¡€£1#*~`<>&[]\\|^{}\t\xa0\u2003\u2028\ufeff\u200d\u0301😀"
PROSE = ["a", "Zoë ", "\n", "\n\n", "- ", "1. ", "= ", "==", "--", "+ ", "3) ", ": ", "://", "_"]
MARKS = ["*", "**", "***", "_", "__", "~~", "`", "``", "```\n", "#", "# ", "=", "\n---\n", "|", "^", "\\"]
ENTITIES = [
    "&amp;",
    "&nbsp;",
    "&lt;",
    "&quot;",
    "&colon;",
    "&#58;",
    "&sol;",
    "&NewLine;",
    "&#0;",
    "&#13;",
    "&",
]
TAGS = ["<b>", "<em>", "</em>", "</p>", "<br />", "<br>", "<code>", "<!--", "<?", "<p>", "<", ">"]
TAGS += ['<a href="http://a">', "<http://a>", "<a@b.c>", "<3", "< ", "<-"]
BLOCKS = ["\n", "\n\n", "  \n", "\\\n", "> ", ">", "- ", "* ", "1. ", "2) ", "    ", "\t", "- [ ] "]
LINKS = [
    "[a](https://b.c/d)",
    "[*a*](http://b.c)",
    '[a](http://b.c "t")',
    "[a](mailto:b@c)",
    "![a](http://b)",
]
LINKS += [
    "[a](<http://b c>)",
    "[a]: http://b.c\n",
    "[a]",
    "[a][a]",
    "http://b.c/d_e",
    "[",
    "](http://b)",
    "![",
]
ADDRESSES = [
    "http",
    "HTTPS",
    "https",
    ":",
    "//",
    "/",
    "?",
    "#",
    "a",
    "b-c",
    ".",
    "1",
    "0x1",
    "xn--",
    "_",
    "-",
]
ADDRESSES += [
    "@",
    "%41",
    "%",
    "&",
    "&amp;",
    "'",
    '"',
    "\\",
    "ü",
    "(",
    ")",
    "[",
    "*",
    "~",
    "é.b",
    ":80",
    ":99999",
]
SIMPLE = [
    "*a*",
    " *b c*",
    "**b**",
    " **1 é d** ",
    "`c`",
    " `é d`",
    "[e](https://f.g/h)",
    " [i j](http://k-l.m)",
]
SIMPLE += ["a", " ", " word ", ". ", "! ", ", ", "…", "\n", "\n\n", "*", "`", "é", '"', "-", "1", "\u2003"]
WORDS = ["a", "b ", " ", "word ", "Zoë", '"', "'", "…", "\xa0", ": ", "://", "a\u0301", "*a*", "**b**", "`c`"]


def some_of(*pieces: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=50).map("".join)


def a_link(address: str) -> str:
    return f"see [it](https://{address}) or [it](<{address}>)"


prose = st.lists(st.sampled_from(PROSE) | st.text(ALPHABET, max_size=5), max_size=20).map("".join)
markdown = some_of(*WORDS, *MARKS, *ENTITIES, *TAGS, *BLOCKS, *LINKS)
ordinary = some_of(*WORDS, *BLOCKS[:8], *LINKS[:2], "<3", "&amp;")
nested = some_of(*MARKS, *BLOCKS, "a", "b ")
linked = some_of(*ADDRESSES).map(a_link)
simple = some_of(*SIMPLE)
bodies = prose | simple | markdown | ordinary | nested | linked | st.text(ALPHABET) | st.text()


def rendered(body: str) -> str:
    """As a node holds it; a body that is prose goes another way there."""
    html: str = orjson.loads(b"{%b}" % text_fragment(body))["html"]
    assert markup.render(body) == html
    return html


def the_whole_way(body: str) -> str:
    html = markup._Writer().write(markup._PARSER.events(body))
    if len(html) <= markup.MAX_HTML:
        html = markup._CLEANER.clean(html)
    assert len(html) <= markup.MAX_HTML
    return html.removesuffix("\n")


@settings(max_examples=500, deadline=None)
@given(bodies)
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
@example("a <em>b</em> c")
@example("[a]: http://b.c\n\n[a] [a] http://d.e [f](http:/\\/g)")
@example("http:/\\/a.b and [c](http://d.e)")
@example("- *a\n  b*\n-\n- c\\\n  d")
@example("- a\n  > b\n  - c\n\n> - d")
@example("> " + "> ".join("*a **b " for _ in range(40)) + "** *" * 40)
@example("[a](http://1.2.3.4.5)")
@example("[a](http://b.4294967296/)")
@example("[a](http://xn--b)")
@example("[a](http://xn--b.c/)")
@example("[a](http://b.c/&amp;d?e&f=%22'\"(g)) [h](http://i.j/'k')")
@example("[a](http://b.c/" + "d" * 2_040 + ") [e](http://f.g/" + "&" * 1_801 + ")")
@example("".join(f"[{n}](https://b.c/{n}) *d* " for n in range(40)))
def test_any_body_is_rendered_as_without_short_cuts(typed: str) -> None:
    for body in {typed, _normalised(typed)}:
        assert rendered(body) == the_whole_way(body)


def is_prose(body: str) -> bool:
    return re.fullmatch(b'"%b"' % markup.PROSE, orjson.dumps(body)) is not None


def _normalised(typed: str) -> str:
    try:
        return normalise_body(typed)
    except TextRefused:
        return ""


def test_what_people_write_is_rendered_as_without_short_cuts() -> None:
    random = Random(7)
    for _ in range(1_000):
        body = body_like_a_comment(random)
        assert rendered(body) == the_whole_way(body)
        assert is_prose(body) or markup._ordinary(body) is not None


@pytest.mark.parametrize("address", ["b{}.c", "b.{}c", "b.c{}", "b.c/d{}e", "b.c?d{}e", "b.c#{}"])
def test_a_link_may_hold_any_character_anywhere(address: str) -> None:
    for character in map(chr, range(0x20, 0x100)):
        for body in (
            f"[a](https://{address.format(character)})",
            f"[a](<https://{address.format(character)}>)",
        ):
            assert rendered(body) == the_whole_way(body)


@pytest.mark.parametrize("depth", [9, 14, 15, 28, 29, 30, 31, 32, 33, 60])
@pytest.mark.parametrize("around", ["{}", "> {}", "- {}", "1. a\n2. {}"])
def test_marks_may_lie_in_each_other(depth: int, around: str) -> None:
    marks = ["*" if level % 2 else "__" for level in range(depth)]
    for between in ("", "a "):
        body = around.format(between.join(marks) + "b" + between[::-1].join(reversed(marks)))
        assert rendered(body) == the_whole_way(body)


@given(
    st.lists(st.sampled_from(["<p>", "</p>", "<em>", "</em>", "<br>", "<a>", "&amp;", "&", "x"])).map("".join)
)
def test_only_bare_tags_and_escaped_text_go_without_the_sanitiser(html: str) -> None:
    harmless = "<a>" not in html and "&" not in html.replace("&amp;", "")
    assert bool(markup._HARMLESS.fullmatch(html)) is harmless


UNHARMLESS = ["<p onclick=x>", "<script>", "<p/>", "<P>", "</br>", "a>b", "a<b", "&nbsp;", "&#60;", "\xa0"]
UNHARMLESS += ["\0", "\r"]


@pytest.mark.parametrize("html", UNHARMLESS)
def test_anything_else_goes_to_the_sanitiser(html: str) -> None:
    assert not markup._HARMLESS.fullmatch(html)


@pytest.mark.parametrize(
    "html",
    [
        *UNHARMLESS,
        "http://a.b",
        "<em onclick=x>a</em>",
        "<img>",
        "<h1>a</h1>",
        "<p>a</p>",
        "<ul>\n</ul>\n",
        "<a>a</a>",
        '<a href="javascript:x">a</a>',
        '<a href="/b">a</a>',
        '<a href="http://b.c" title="d">a</a>',
        '<a href="http://b.c"onclick="d">a</a>',
        '<a href="http://b.c/"">a</a>',
        '<a href="http://b.c/\'">a</a>',
        '<a href="http://b.c/d e">a</a>',
        '<a href="http://b.c/%5B">a</a>',
        '<a href="http://b.c/&quot;">a</a>',
        '<a href="http://b@c/">a</a>',
        '<a href="http://b:99999/">a</a>',
        '<a href="http://1.2.3.4.5/">a</a>',
        '<a href="http://b.xn--c/">a</a>',
        '<a href="http://b..c/">a</a>',
        '<a href="http://">a</a>',
        "<em>" * 59,
        f'<a href="http://b.c/{"d" * 1_801}">a</a>',
    ],
)
def test_anything_else_that_the_parser_writes_is_not_taken(html: str) -> None:
    assert markup._ORDINARY.fullmatch("<p>a</p>\n<ul>\n<li><em>b</em></li>\n</ul>\n")
    for around in ("<p>{}</p>\n", "<blockquote>\n<p>{}</p>\n</blockquote>\n", "<ol>\n<li>{}</li>\n</ol>\n"):
        assert not markup._ORDINARY.fullmatch(around.format(html))


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
        ("", False),
        ("😀 字", True),
        ("*One* **two or three** `four`, [five six](https://a.example/7).", True),
        ("One *two*\n**three**!\n\n`four`", True),
        ("*one*two", False),
        ("one*two*", False),
        ("*one *", False),
        ("*one, two*", False),
        ("**one*", False),
        ("*one `two` three*", False),
        ("[one](https://a.example)two", False),
        ("[one](http://1.2.3.4)", False),
        ("[one](https://a.example/?b)", False),
        ("[one]: https://a.example", False),
    ],
)
def test_prose_is_told_from_markdown(body: str, taken: bool) -> None:
    assert is_prose(body) is taken


@pytest.mark.parametrize(
    ("body", "taken"),
    [
        ("*one* **two** ~~three~~ `four` <3 😀", True),
        ("> one\n> two\n\nthree  \nfour", True),
        ("- one\n- *two*", True),
        ("1. one\n2. [two](https://a.example/b?c=d&e#f)", True),
        ("3 < 4 && 4 > 3", True),
        ("see https://a.example", False),
        ("[one](https://a.example) https://b.example", False),
        ("a <em>b</em>", False),
        ("# one", False),
        ("```\none\n```", False),
        ("- one\n\n- two", False),
        ("- one\n  - two", False),
        ("> > one", False),
        ("2. one", False),
        ("![one](https://a.example)", False),
        ("[one](mailto:a@b.example)", False),
        ("one\xa0two", False),
    ],
)
def test_what_the_parser_writes_is_told_from_what_only_the_writer_can(body: str, taken: bool) -> None:
    assert (markup._ordinary(body) is not None) is taken


REFUSED_PIECES = [
    "\0",
    "\x07",
    "\x1f",
    "\x7f",
    "\x80",
    "\x85",
    "\x9f",
    "\ud800",
    "\r",
    "\r\n",
    "a\u0301",
    "\u212b",
]
typed_pieces = st.sampled_from([*REFUSED_PIECES, "é", "…", "«", "字", "😀", "a", " ", "\n", "\t", "\u200b"])


@settings(max_examples=300, deadline=None)
@given(st.lists(typed_pieces, max_size=8).map("".join) | st.text(st.characters(), max_size=40))
@example("é" * text.BODY_CODE_POINTS)
@example("é" * (text.BODY_CODE_POINTS + 1))
@example("e\u0301" * text.BODY_CODE_POINTS)
@example("😀" * text.BODY_CODE_POINTS)
@example("a" * (text.BODY_CODE_POINTS + 1))
def test_any_body_is_normalised_as_without_short_cuts(raw: str) -> None:
    def whole_way() -> str:
        return text._normalise_block(raw, "the body", text.BODY_CODE_POINTS)

    assert _outcome(lambda: normalise_body(raw)) == _outcome(whole_way)


def _outcome(take: Callable[[], str]) -> str | tuple[str]:
    try:
        return take()
    except TextRefused as refused:
        return (refused.reason,)
