"""A comment's body, CommonMark, as the HTML that a reader gets (contract, section 3).

pyromark parses; the writer below turns its events into the few allowed tags; nh3 sanitises what the writer
wrote, so that a mistake in the writer is not a hole. Beyond CommonMark there are strikethrough and bare
http and https addresses (GFM, section 6.9). Raw HTML is shown as the text it is, an image as its
alternative text, a heading as a bold paragraph, and a link to anything but http, https and mailto as its
text. The output is a pure function of the body and of `RENDERER`.

Three short cuts give the same output sooner (docs/decisions/0007-html-that-needs-no-sanitiser.md): a body of
letters, sentence marks and the simplest of emphasis, code and links is made from JSON to JSON, unparsed; what
pulldown-cmark itself writes is taken when it is seen to be what the writer and the sanitiser would give; and
output of the writer that is seen to hold nothing but bare tags of a few kinds and escaped text is not
sanitised.
"""

import re
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import nh3
import pyromark

if TYPE_CHECKING:
    from pyromark.event import Event

RENDERER: Final = 1
"""Format of the output. It goes up with every change of it: stored views of another number are rebuilt."""

MAX_HTML: Final = 120_000
"""Code points of HTML at most; a body that would give more is shown as it was typed, in one paragraph."""

MAX_NESTING: Final = 32
"""Levels of quotes, lists and emphasis written; what lies deeper is written without its tags. HTML parsers
look through all open elements at each tag, so that 10,000 levels would take them quadratic time."""

MAX_LINK: Final = 2_048
"""Code points of an address at most; a longer one is shown without being a link."""

_PARSER: Final = pyromark.Markdown(options=pyromark.Options.ENABLE_STRIKETHROUGH)
_REL: Final = "nofollow ugc noopener"
_REL_JSON: Final = _REL.encode()
_CLEANER: Final = nh3.Cleaner(
    tags={
        "p", "br", "em", "strong", "del", "a", "blockquote", "ul", "ol", "li", "code", "pre", "hr",
    },
    clean_content_tags=set(),
    attributes={"a": {"href"}, "ol": {"start"}},
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    link_rel=_REL,
)  # fmt: skip

_ADDRESS: Final = re.compile(r"https?://[^\s/?#\\]|mailto:\S", re.IGNORECASE)
_BARE_URL: Final = re.compile(r"(?<![^\s*_~(])https?://[^\W_][^\s<>\"]*", re.IGNORECASE)
_URL_SAFE: Final = "%/:?#[]@!$&'()*+,;=~-._"

_RAW_HTML: Final = re.compile("<[a-zA-Z/!?]")
"""What a tag, a comment or an address in angle brackets begins with (CommonMark, sections 6.5 and 6.6)."""

_LABEL: Final = "[a-zA-Z0-9]*+(?:-[a-zA-Z0-9]++)*+"
_PLAIN_URL: Final = (
    # The last label begins with a letter (or WHATWG's URL parser takes the host for an IPv4 address), and no
    # label holds two hyphens (punycode, which may be wrong): such a host cannot be refused.
    rf"https?://(?:[a-zA-Z0-9]{_LABEL}\.)*+[a-zA-Z]{_LABEL}"
    # Characters that neither pulldown-cmark nor the writer changes, and no `%`: the two encode not quite the
    # same ones. One `&amp;` was one code point.
    r"(?:[/?#](?:[a-zA-Z0-9/?#.,:;~_=+@!$*()-]|&amp;){0,1800}+)?+"
)
_WORDS: Final = rb"[a-zA-Z0-9](?:[a-zA-Z0-9 \x80-\xbf\xc3-\xf4]*[a-zA-Z0-9])?"
_SHORT_LABEL: Final = rb"[a-zA-Z0-9]{0,60}+(?:-[a-zA-Z0-9]{1,60}+){0,5}+"
_SHORT_HOST: Final = rb"(?:[a-zA-Z0-9]%b\.){0,5}+[a-zA-Z]%b" % (_SHORT_LABEL, _SHORT_LABEL)
_SHORT_URL: Final = rb"https?://%b(?:/[a-zA-Z0-9/.,=-]{0,500}+)?" % _SHORT_HOST
_MARK: Final = (
    # Behind white space, and before it or a sentence's end, each of these can only be what it looks like.
    rb"(?:\*%b\*|\*\*%b\*\*|`%b`|\[%b\]\(%b\))(?=[ .,;:!?]|\\n|\")"
    % (_WORDS, _WORDS, _WORDS, _WORDS, _SHORT_URL)
)
_LINE: Final = (
    rb"(?:[a-zA-Z\xc3-\xf4]|%b)"
    # Of what is not ASCII, in UTF-8, all but the controls of Latin-1 and the no-break space.
    rb"(?:[a-zA-Z0-9 .,;!?'()%%/@$+=\-\x80-\xbf\xc3-\xf4]++|\xc2[\xa1-\xbf]|\\\"|(?<= )%b"
    # No bare address, no white space before the line's end: a hard break, or nothing.
    rb"|:(?!//))*+(?<! )"
) % (_MARK, _MARK)
PROSE: Final = rb"%b(?:\\n(?:\\n)?%b)*+" % (_LINE, _LINE)
"""The JSON, but for its quotes, of paragraphs that hold no character which Markdown, HTML or a sanitiser
minds, but in marks: emphasis, code and links, each of a few words. A line begins with a letter or a mark."""

_BACKSLASH, _STAR, _BACKTICK, _BRACKET = rb"\*`["  # `in` finds a byte sooner than bytes of one
_MARKED: Final = re.compile(rb"[*`\[](\*?)([^*`\]]++)[*`\]]\*?(?:\(([^)]++)\))?")
"""A mark, in what is known to match `PROSE`."""

_LINE_OF_TEXT: Final = (
    r"(?:[^<>&:\xa0\0\r]++|&(?:amp|lt|gt);|:(?!//)"
    # 58 pieces hold at most 29 elements in each other: with what is around them less than `MAX_NESTING`.
    rf"|<(?:/?(?:em|strong|del|code)|br /|a href=\"{_PLAIN_URL}\"|/a)>){{0,58}}+"
)
_ITEMS: Final = rf"(?:<li>{_LINE_OF_TEXT}</li>\n)*+"
_TEXT_BLOCK: Final = rf"<p>{_LINE_OF_TEXT}</p>\n"
_ORDINARY: Final = re.compile(
    rf"(?:{_TEXT_BLOCK}|<blockquote>\n(?:{_TEXT_BLOCK})*+</blockquote>\n"
    rf"|<ul>\n{_ITEMS}</ul>\n|<ol>\n{_ITEMS}</ol>\n)*+"
)
"""What pulldown-cmark writes of paragraphs, also quoted ones, and of tight lists that are not nested. `://`
is let through in addresses only: elsewhere it may be a bare one, which pulldown-cmark does not see."""

_HARMLESS: Final = re.compile(r"(?:[^<>&\xa0\0\r]++|&(?:amp|lt|gt);|<(?:/?(?:p|em|strong|del|code)|br)>)*+")
"""Escaped text, and tags that do nothing and take no attributes."""

_PLAIN_TAGS: Final = {
    "Paragraph": ("<p>", "</p>\n"),
    "HtmlBlock": ("<p>", "</p>\n"),
    "Heading": ("<p><strong>", "</strong></p>\n"),
    "CodeBlock": ("<pre><code>", "</code></pre>\n"),
}
_NESTING_TAGS: Final = {
    "BlockQuote": ("<blockquote>\n", "</blockquote>\n"),
    "Item": ("<li>", "</li>\n"),
    "Emphasis": ("<em>", "</em>"),
    "Strong": ("<strong>", "</strong>"),
    "Strikethrough": ("<del>", "</del>"),
}


def render(body: str) -> str:
    """The HTML, at most `MAX_HTML` code points, of a body that `normalise_body` let through."""
    html = _ordinary(body)
    if html is None or len(html) > MAX_HTML:
        html = _written(body)
    return html.removesuffix("\n")


def prose_html(body: bytes) -> bytes:
    """As `render`, of a body that matches `PROSE`; JSON but for its quotes, too."""
    html = body.replace(rb"\n\n", rb"</p>\n<p>") if _BACKSLASH in body else body
    if _STAR in body or _BACKTICK in body or _BRACKET in body:
        html = _MARKED.sub(_tagged, html)
    return b"<p>%b</p>" % html


def _tagged(mark: re.Match[bytes]) -> bytes:
    twice, text, address = mark.groups()
    if address is not None:
        return rb"<a href=\"%b\" rel=\"%b\">%b</a>" % (address, _REL_JSON, text)
    if mark[0].startswith(b"`"):
        return b"<code>%b</code>" % text
    return (b"<strong>%b</strong>" if twice else b"<em>%b</em>") % text


def _written(body: str) -> str:
    """The whole way: parser, writer, sanitiser."""
    html = _Writer().write(_PARSER.events(body))
    if len(html) <= MAX_HTML and not _HARMLESS.fullmatch(html):
        html = _CLEANER.clean(html)
    if len(html) > MAX_HTML:
        html = _CLEANER.clean(f"<p>{escape(body, quote=False)}</p>\n")
    return html


def _ordinary(body: str) -> str | None:
    """pulldown-cmark's own HTML as the writer and the sanitiser would have given it, or None where unsure."""
    if "<" in body and _RAW_HTML.search(body):
        return None
    html = _PARSER.html(body)
    if not _ORDINARY.fullmatch(html):
        return None
    if "]" in body:
        # No `>` but those of tags is left in it, so that these two characters end a link's address.
        html = html.replace('">', f'" rel="{_REL}">')
    return html.replace("<br />", "<br>") if "\n" in body else html


class _Writer:
    """Writes one body: a start puts its closing tag, or nothing, on a stack from which its end takes it."""

    __slots__ = ("_closers", "_images", "_in_code", "_links", "_out")

    def __init__(self) -> None:
        self._out: list[str] = []
        self._closers: list[str] = []
        self._images = 0
        self._links = 0
        self._in_code = False

    def write(self, events: "Iterable[Event]") -> str:
        out = self._out
        for event in events:
            if isinstance(event, str):
                self._mark(event)
                continue
            ((kind, value),) = event.items()
            if kind == "Start":
                self._start(value)
            elif kind == "End":
                self._end(value)
            elif not isinstance(value, str):
                continue
            elif kind == "Text":
                self._text(value)
            elif kind == "Code" and not self._images:
                out.append(f"<code>{escape(value, quote=False)}</code>")
            elif kind in ("Code", "Html", "InlineHtml"):
                out.append(escape(value, quote=False))
        return "".join(out)

    def _mark(self, mark: str) -> None:
        if mark == "HardBreak" and not self._images:
            self._out.append("<br>\n")
        elif mark == "Rule":
            self._out.append("<hr>\n")
        else:
            self._out.append("\n")

    def _start(self, tag: object) -> None:
        detail: object = None
        if isinstance(tag, dict):
            ((tag, detail),) = tag.items()
        opener = closer = ""
        if tag == "Image":
            self._images += 1
        elif self._images:
            pass
        elif tag == "Link":
            self._links += 1
            opener, closer = _link(detail)
        elif tag == "List":
            # A list without its items would be wrong HTML, so it is written only where they will be.
            if len(self._closers) < MAX_NESTING - 1:
                opener, closer = _list(detail)
        elif isinstance(tag, str) and tag in _PLAIN_TAGS:
            self._in_code = tag == "CodeBlock"
            opener, closer = _PLAIN_TAGS[tag]
        elif isinstance(tag, str) and len(self._closers) < MAX_NESTING:
            opener, closer = _NESTING_TAGS.get(tag, ("", ""))
        elif tag == "Item":
            opener = "\n"
        self._closers.append(closer)
        if opener:
            self._out.append(opener)

    def _end(self, tag: object) -> None:
        if tag == "Image":
            self._images -= 1
        elif self._images:
            pass
        elif tag == "Link":
            self._links -= 1
        elif tag == "CodeBlock":
            self._in_code = False
        elif tag == "HtmlBlock":
            self._out[-1] = self._out[-1].rstrip("\n")
        if closer := self._closers.pop():
            self._out.append(closer)

    def _text(self, text: str) -> None:
        if "://" not in text or self._links or self._images or self._in_code:
            self._out.append(escape(text, quote=False))
            return
        written = 0
        for found in _BARE_URL.finditer(text):
            url = _trim(found[0])
            opener, closer = _anchor(url)
            self._out += (
                escape(text[written : found.start()], quote=False),
                opener,
                escape(url, quote=False),
                closer,
            )
            written = found.start() + len(url)
        self._out.append(escape(text[written:], quote=False))


def _link(detail: object) -> tuple[str, str]:
    if not isinstance(detail, dict):
        return "", ""
    address = str(detail["dest_url"])
    return _anchor(f"mailto:{address}" if detail["link_type"] == "Email" else address)


def _anchor(address: str) -> tuple[str, str]:
    if len(address) > MAX_LINK or not _ADDRESS.match(address):
        return "", ""
    return f'<a href="{escape(quote(address, safe=_URL_SAFE))}">', "</a>"


def _list(first: object) -> tuple[str, str]:
    if first is None:
        return "<ul>\n", "</ul>\n"
    return ("<ol>\n" if first == 1 else f'<ol start="{first}">\n'), "</ol>\n"


def _trim(url: str) -> str:
    """A bare address without the punctuation of the sentence around it (GFM, section 6.9)."""
    end = len(url)
    unmatched = url.count(")") - url.count("(")
    while end:
        last = url[end - 1]
        if last == ")" and unmatched > 0:
            unmatched -= 1
        elif last not in "?!.,:;*_~'":
            break
        end -= 1
    return url[:end]
