"""Whom a text names: `@name` of somebody in the thread, or `@[id]` (contract, section 3).

Names may hold spaces, so what follows an `@` may be a name in several lengths: the longest that somebody in
the thread bears is meant. Names are compared without regard to case, in NFC. Code and quotations name nobody,
nor does an `@` in the middle of a word, as an e-mail address has it. Who bears a name is for the caller to
say.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import pyromark

MENTIONS: Final = 20
"""People that one comment can name. Who is named after them is not told."""

_AT_SIGNS: Final = 40
"""How many `@` of a text are looked at."""
_LENGTHS: Final = 16
"""In how many lengths what follows one `@` is tried as a name."""
_NAME: Final = 100

_PARSER: Final = pyromark.Markdown(options=pyromark.Options.ENABLE_STRIKETHROUGH)
# Scripts that write words without a space between them, or hang particles on names: Thai to Tibetan, Burmese,
# Khmer, Kana, Han, Hangul.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_AT: Final = re.compile(rf"(?<![^\W_{_UNSPACED}])(?<![./@&=#+%:\\-])@(?=\S)")
_ID: Final = re.compile(r"\[([^\[\]\n]{1,255})\]")
_ADDRESS: Final = re.compile(r"[^\s@]*[^\W_]@[^\W_]")
"""What follows the `@` of an address in another network: `ann@example.org`."""
_BETWEEN: Final = re.compile(rf"(?<=\S)(?:(?=[\W_])|(?<=[\W_])|(?<=[{_UNSPACED}])|(?=[{_UNSPACED}])|\Z)")
"""Where a name may end: not in the middle of a word."""
_ENDS: Final = re.compile(r"\n|\s@")
_SPACES: Final = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Named:
    """What one `@` of a text names: somebody's id, or one of these folded names, the longest first."""

    id: str | None = None
    names: tuple[str, ...] = ()


def folded(name: str) -> str:
    """A name as it is compared: two that fold to the same are the same name."""
    return unicodedata.normalize("NFC", _SPACES.sub(" ", name.strip()).casefold())


def named_in(body: str) -> tuple[Named, ...]:
    """What a body names, in the order of the text; a bounded number."""
    if "@" not in body:
        return ()
    found: dict[Named, None] = {}
    text = _prose(body)
    for number, at in enumerate(_AT.finditer(text)):
        if number == _AT_SIGNS:
            break
        behind = at.end()
        if by_id := _ID.match(text, behind):
            found[Named(id=by_id[1])] = None
        elif not _ADDRESS.match(text, behind, behind + _NAME) and (names := _names(text, behind)):
            found[Named(names=names)] = None
    return tuple(found)


def people(named: Iterable[Named], bears: Callable[[str], str | None]) -> tuple[str, ...]:
    """Who is named: each once, in the order of the text, at most MENTIONS. `bears` gives who bears a folded
    name, the latest of several, or None."""
    found: dict[str, None] = {}
    for one in named:
        person = one.id
        if person is None:
            person = next((bearer for name in one.names if (bearer := bears(name)) is not None), None)
        if person is not None:
            found[person] = None
            if len(found) == MENTIONS:
                break
    return tuple(found)


def _names(text: str, start: int) -> tuple[str, ...]:
    line = text[start : start + _NAME + 1]
    if ends := _ENDS.search(line):
        line = line[: ends.start()]
    names: dict[str, None] = {}
    for place in _BETWEEN.finditer(line):
        if place.start() > _NAME or len(names) == _LENGTHS:
            break
        names[folded(line[: place.start()])] = None
    return tuple(reversed(names))


def _prose(body: str) -> str:
    """The text of a body as its readers see it, without code and quotations."""
    out: list[str] = []
    skipped = 0
    for event in _PARSER.events(body):
        if isinstance(event, str):
            out.append("\n")
            continue
        ((kind, value),) = event.items()
        if kind == "Text":
            if not skipped:
                out.append(str(value))
        elif kind == "Code":
            out.append("\ufffc")
        elif kind in ("Start", "End"):
            tag = next(iter(value)) if isinstance(value, dict) else value
            if tag in ("CodeBlock", "BlockQuote"):
                skipped += 1 if kind == "Start" else -1
            if tag in _BLOCKS:
                out.append("\n")
    return "".join(out)


_BLOCKS: Final = frozenset(
    {"Paragraph", "Heading", "Item", "List", "BlockQuote", "CodeBlock", "HtmlBlock", "Table", "TableCell"}
)
