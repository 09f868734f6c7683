"""The HTML of a WordPress comment as CommonMark that renders to the same page.

WordPress stores what the writer typed and lays it out on display (`wpautop`): a blank line parts
paragraphs, a single line end is a `<br>`. markdownify does the conversion; the subclass adds those two
rules and escapes only what CommonMark would read as markup, so that plain text stays as it is.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit

from bs4.element import NavigableString, Tag
from markdownify import MarkdownConverter

from services.ops.importers.records import CommentRefused

HTML_CHARS: Final = 128 * 1024
"""Longest HTML taken of one comment, in characters; the Markdown has its own, lower limit."""

TAGS_TAKEN: Final = 1_000
"""Most `<` in one comment: the conversion of a list takes time quadratic in its items."""

_MARKUP: Final = re.compile(r"[<&]")
_LINK_SCHEMES: Final = frozenset({"http", "https", "mailto"})

_LONG_GAP: Final = re.compile(r"[ \t]{100,}")
_PARAGRAPHS: Final = re.compile(r"[ \t]*\n[ \t]*\n\s*")
_LINE_END: Final = re.compile(r"[ \t]*\n[ \t]*")
_SPACES: Final = re.compile(r"[ \t]+")
_BREAKS: Final = re.compile(r"(?:(?<!\\)\\\n[ \t]*){2,}")
_LAST_BREAK: Final = re.compile(r"(?<!\\)\\(?:\n[ \t]*(?=\n)|\s*\Z)")

_SPECIAL: Final = re.compile(r"[\\*`~_\]<&]")
_INLINE: Final = re.compile(
    r"\\(?=[!-/:-@\[-`{-~\n]|\Z)"  # a backslash that would escape, or break the line
    r"|[*`~]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # an underscore inside a word is no emphasis
    r"|\](?=[(:])"  # a bracket makes a link only before an address
    r"|<(?=[A-Za-z/!?])"
    r"|&(?=#?[0-9A-Za-z]+;)"
)
_LINE_START: Final = re.compile(
    r"^(?P<lead>[ \t]*\d{0,9})(?P<mark>(?<=\d)[.)](?=\s|\Z)|(?<!\d)(?:\#(?=\#{0,5}(?:\s|\Z))|[-+](?=\s|\Z)"
    r"|>|-(?=[- \t]*$)|=(?==*[ \t]*$)))",
    re.MULTILINE,
)


def to_markdown(html: str) -> str:
    """`html`, a comment's content as WordPress keeps it, as CommonMark.

    Raises `CommentRefused` where it is over `HTML_CHARS` or `TAGS_TAKEN`, or nests too deep to convert.
    """
    if len(html) > HTML_CHARS:
        raise CommentRefused("the body is far over its limit")
    html = html.replace("\r\n", "\n").replace("\r", "\n")
    # The library looks for line ends behind white space, anew from each blank: 120,000 of them took 44 s.
    html = _LONG_GAP.sub(" " * 100, html)
    if _MARKUP.search(html) is None:
        return _tidy(_lay_out(_escape(html.strip())))
    if html.count("<") > TAGS_TAKEN:
        raise CommentRefused("the body has too many tags")
    try:
        # The div keeps bs4 from wondering whether a short text without tags is meant as an address to fetch.
        return _tidy(str(_Converter().convert(f"<div>{html}</div>")))
    except RecursionError as error:
        raise CommentRefused("the body nests its tags too deep") from error


def _escape(text: str) -> str:
    if _SPECIAL.search(text) is not None:
        text = _INLINE.sub(r"\\\g<0>", text)
    return _LINE_START.sub(r"\g<lead>\\\g<mark>", text)


def _lay_out(text: str) -> str:
    paragraphs = _PARAGRAPHS.split(_SPACES.sub(" ", text))
    return "\n\n".join(_LINE_END.sub("\\\\\n", paragraph) for paragraph in paragraphs)


def _tidy(markdown: str) -> str:
    """Two breaks are a new paragraph, and a paragraph does not end with one."""
    if "\\" not in markdown:
        return markdown.strip()
    return _LAST_BREAK.sub("\n", _BREAKS.sub("\n\n", markdown)).strip()


def _is_break(node: object) -> bool:
    return isinstance(node, Tag) and node.name == "br"


class _Converter(MarkdownConverter):
    class Options:
        autolinks = False
        bullets = "-"
        heading_style = "atx"
        newline_style = "backslash"

    def process_text(self, el: NavigableString, parent_tags: set[str] | None = None) -> str:
        tags = parent_tags or set()
        if "pre" in tags or "_noformat" in tags:
            return self._library_text(el, tags)
        text = str(el)
        if _is_break(el.previous_sibling):
            # The line end behind a written <br> is that same break, not a second one.
            text = text.lstrip(" \t").removeprefix("\n")
        # What the library trims beside a block is white space of the source; it knows the neighbours.
        trimmed = self._library_text(el, tags | {"_noformat"})
        if not trimmed:
            return ""
        if not trimmed[0].isspace():
            text = text.lstrip()
        if not trimmed[-1].isspace():
            text = text.rstrip()
        text = _escape(text)
        if text.endswith("]") and el.next_sibling is not None:
            text = text[:-1] + "\\]"
        if "a" in tags:
            text = re.sub(r"(?<!\\)[\[\]]", r"\\\g<0>", text)
        return _SPACES.sub(" ", text.replace("\n", " ")) if "_inline" in tags else _lay_out(text)

    def _library_text(self, el: NavigableString, tags: set[str]) -> str:
        return str(super().process_text(el, parent_tags=tags))  # type: ignore[misc]  # its stubs lack it

    def convert_a(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        label = " ".join(text.replace("\\\n", " ").split())
        address = str(el.get("href") or "").strip()
        if not label or "_noformat" in parent_tags:
            return text
        try:
            scheme = urlsplit(address).scheme.lower()
        except ValueError:
            return text
        if scheme not in _LINK_SCHEMES:
            return text
        before = " " if text[0].isspace() else ""
        behind = " " if text[-1].isspace() else ""
        return f"{before}[{label}]({quote(address, safe=_URL_SAFE)}){behind}"

    def convert_img(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        """No images in comments (contract, 3): what stands for it is kept."""
        return _escape(str(el.get("alt") or ""))

    def _mark(self, sign: str, text: str, parent_tags: set[str]) -> str:
        if "_noformat" in parent_tags:
            return text
        # Emphasis ends with its paragraph, while a tag of a comment may run over several.
        return "\n\n".join(_wrap(sign, part) for part in text.split("\n\n"))

    def convert_em(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return self._mark("*", text, parent_tags)

    def convert_strong(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return self._mark("**", text, parent_tags)

    def convert_del(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return self._mark("~~", text, parent_tags)

    convert_i = convert_em
    convert_cite = convert_em
    convert_b = convert_strong
    convert_s = convert_del
    convert_strike = convert_del


_URL_SAFE: Final = "%/:?#[]@!$&'*+,;=-._~"
"""What may stand in a URL (RFC 3986), less the parentheses, which would end a Markdown address."""


def _wrap(sign: str, text: str) -> str:
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return f"{text[:start]}{sign}{core}{sign}{text[start + len(core) :]}"
