"""Bodies as HTML (contract, section 3)."""

import pytest

from services.core.markup import MAX_HTML, MAX_NESTING, render
from services.core.text import BODY_CODE_POINTS

REL = 'rel="nofollow ugc noopener"'


@pytest.mark.parametrize(
    ("body", "html"),
    [
        ("as *written*", "<p>as <em>written</em></p>"),
        ("**a** ~~b~~ `c<d`", "<p><strong>a</strong> <del>b</del> <code>c&lt;d</code></p>"),
        ("a\nb  \nc\\\nd\n\ne", "<p>a\nb<br>\nc<br>\nd</p>\n<p>e</p>"),
        ("# A *b*\n\nC\n---\n", "<p><strong>A <em>b</em></strong></p>\n<p><strong>C</strong></p>"),
        ("> a\n\n***\n", "<blockquote>\n<p>a</p>\n</blockquote>\n<hr>"),
        ("- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>"),
        ("1. a\n\n2. b", "<ol>\n<li><p>a</p>\n</li>\n<li><p>b</p>\n</li>\n</ol>"),
        ("7) a", '<ol start="7">\n<li>a</li>\n</ol>'),
        ("```py\nx < y\n\n*z*\n```", "<pre><code>x &lt; y\n\n*z*\n</code></pre>"),
        ("    <b>", "<pre><code>&lt;b&gt;</code></pre>"),
        ("&lt;b&gt; & &copy; \\<i>", "<p>&lt;b&gt; &amp; © &lt;i&gt;</p>"),
        ('"quoted"', '<p>"quoted"</p>'),
        ("| a |\n|---|\n| b |", "<p>| a |\n|---|\n| b |</p>"),
        ("- [ ] a [^1]\n\n[^1]: b", "<ul>\n<li>[ ] a ^1</li>\n</ul>"),
        ("\u202ea\u200db", "<p>\u202ea\u200db</p>"),
        ("[a]: http://b", ""),
    ],
)
def test_a_body_is_written_in_the_allowed_tags(body: str, html: str) -> None:
    assert render(body) == html


@pytest.mark.parametrize(
    ("body", "html"),
    [
        ("a <b>c</b>", "<p>a &lt;b&gt;c&lt;/b&gt;</p>"),
        (
            "<div onclick='x'>\n*a*\n</div>\n\nb",
            "<p>&lt;div onclick='x'&gt;\n*a*\n&lt;/div&gt;</p>\n<p>b</p>",
        ),
        ("<script>alert(1)</script>", "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"),
        ("x <!-- y --> <?z?> <![CDATA[q]]>", "<p>x &lt;!-- y --&gt; &lt;?z?&gt; &lt;![CDATA[q]]&gt;</p>"),
        ("<style>\n\n*{}*", "<p>&lt;style&gt;\n\n*{}*</p>"),
    ],
)
def test_raw_html_is_shown_as_text(body: str, html: str) -> None:
    assert render(body) == html


@pytest.mark.parametrize(
    ("body", "html"),
    [
        ("![alt](http://a/b.png)", "<p>alt</p>"),
        ("![an *im* `x<` [l](http://a) <b>](http://b)", "<p>an im x&lt; l &lt;b&gt;</p>"),
        ("[![alt](http://a/b.png)](http://c)", f'<p><a href="http://c" {REL}>alt</a></p>'),
        ("![](http://a/b.png) *c*", "<p> <em>c</em></p>"),
    ],
)
def test_of_an_image_its_alternative_text_remains(body: str, html: str) -> None:
    assert render(body) == html


@pytest.mark.parametrize(
    ("body", "address", "shown"),
    [
        ('[a](https://b.c/d?e=f&g="h" "title")', "https://b.c/d?e=f&amp;g=%22h%22", "a"),
        ("[a](HTTP://b)", "HTTP://b", "a"),
        ("[a](mailto:b@c)", "mailto:b@c", "a"),
        ("[a][b]\n\n[b]: <http://c/ü d>", "http://c/%C3%BC%20d", "a"),
        ("<http://a/b>", "http://a/b", "http://a/b"),
        ("<a@b.c>", "mailto:a@b.c", "a@b.c"),
        ("http://a.b/c", "http://a.b/c", "http://a.b/c"),
        ("HTTPS://a.b?c&d", "HTTPS://a.b?c&amp;d", "HTTPS://a.b?c&amp;d"),
        ("https://de.wikipedia.org/wiki/A_(b)", *["https://de.wikipedia.org/wiki/A_(b)"] * 2),
        ("http://localhost:8080/x%20y", *["http://localhost:8080/x%20y"] * 2),
    ],
)
def test_links_to_http_https_and_mailto(body: str, address: str, shown: str) -> None:
    assert render(body) == f'<p><a href="{address}" {REL}>{shown}</a></p>'


@pytest.mark.parametrize(
    ("before", "url", "after"),
    [
        ("see ", "http://a.b", "."),
        ("(", "http://a.b/c", "), d"),
        ("((", "http://a.b/(c)", ")).)"),
        ("", "http://a.b", "?!'"),
        ("", "http://a.b", '"c'),
        ("a\n", "http://a.b", "\nc"),
    ],
)
def test_a_bare_address_ends_before_the_punctuation_around_it(before: str, url: str, after: str) -> None:
    assert render(before + url + after) == f'<p>{before}<a href="{url}" {REL}>{url}</a>{after}</p>'


@pytest.mark.parametrize(
    ("body", "html"),
    [
        ("[a](javascript:alert(1))", "<p>a</p>"),
        ("[a](JaVaScRiPt:alert(1)) [b](data:text/html,x) [c](vbscript:x)", "<p>a b c</p>"),
        ("[a](/b) [c](d) [e](#f) [g](//h) [i]()", "<p>a c e g i</p>"),
        ("[a](http:b) [c](https://) [d](mailto:) [e](http:///f)", "<p>a c d e</p>"),
        ("[a](&#106;avascript:alert(1)) [b](<java\tscript:x>)", "<p>a b</p>"),
        ("<javascript:alert(1)> <ftp://a>", "<p>javascript:alert(1) ftp://a</p>"),
        ("xhttp://a.b ftp://c http:// http://.", "<p>xhttp://a.b ftp://c http:// http://.</p>"),
        ("`http://a.b`", "<p><code>http://a.b</code></p>"),
        ("http://a/" + "b" * 2_048, "<p>http://a/" + "b" * 2_048 + "</p>"),
    ],
)
def test_other_addresses_are_no_links(body: str, html: str) -> None:
    assert render(body) == html


def test_no_link_lies_in_a_link() -> None:
    body = "[see http://a.b *http://c.d*](http://e.f)"
    assert render(body) == f'<p><a href="http://e.f" {REL}>see http://a.b <em>http://c.d</em></a></p>'


@pytest.mark.parametrize(
    "unit",
    [
        "[",
        "]",
        "*",
        "_",
        "~",
        "`",
        ">",
        "> ",
        "<",
        "&",
        "!",
        "#",
        "\\",
        "(",
        "\t",
        "\n",
        "\u00a0",
        "😀",
        '"',
        "](",
        "[](",
        "![",
        "![](",
        "[a](",
        "[a](<",
        "[[]",
        "*a ",
        "*a _b ",
        "**a *b ",
        "a**b",
        "~~a ",
        "***a ",
        "- ",
        "-\n",
        "1. ",
        "1)\n",
        "> - ",
        "- > ",
        "```\n",
        "~~~\n",
        "a\n=\n",
        "***\n",
        "    a\n",
        ">\n",
        "<!--",
        "<?",
        "<![CDATA[",
        "<a ",
        "</a",
        "<a b='",
        '<a b="c">',
        "<http://a>",
        "http://a ",
        "http://",
        "http://a)",
        "&#1114111;",
        "&amp",
        "[a]: b\n",
        "[^a]",
        "a@b.c ",
        "<a@b>",
        "a  \n",
        "| a ",
    ],
)
def test_ten_thousand_characters_of_anything_give_bounded_html(unit: str) -> None:
    html = render((unit * BODY_CODE_POINTS)[:BODY_CODE_POINTS])
    assert len(html) <= MAX_HTML == 12 * BODY_CODE_POINTS


@pytest.mark.parametrize(
    ("body", "tag"),
    [
        (">" * 5_000 + "deep", "blockquote"),
        ("- " * 5_000 + "deep", "li"),
        ("1. " * 3_000 + "deep", "ol"),
        ("*" * 2_001 + "deep" + "*" * 2_001, "strong"),
        ("*a _b " * 800 + "deep" + "_ *" * 800, "em"),
        ("".join(" " * (2 * level) + "- a\n" for level in range(90)) + " " * 180 + "- deep", "ul"),
    ],
)
def test_nesting_ends_at_its_limit_and_loses_no_text(body: str, tag: str) -> None:
    html = render(body)
    assert "deep" in html
    assert html.count(f"<{tag}") == html.count(f"</{tag}>") <= MAX_NESTING


def test_a_body_that_would_give_too_much_html_is_shown_as_typed() -> None:
    address = "http://x/" + "é" * 900
    body = f"[a]: {address}\n\n" + "[a] " * 2_000
    assert render(body) == f"<p>{body}</p>"
    assert len(render("\u00a0" * 5_000 + body)) <= MAX_HTML
    body = "[a]: http://b\n\n" + ("[a] " * 13 + "[a]\n\n") * 170
    assert render(body) == f"<p>{body}</p>"
