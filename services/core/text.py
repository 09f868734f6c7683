"""What a text may be before it becomes part of an event (contract, section 3).

Every text is brought to NFC with `\\n` line ends; control characters, lone surrogates, too long texts
and texts of which nothing would be visible are refused with `TextRefused`. All functions are pure and
idempotent: a text that passed once passes unchanged.
"""

import re
import unicodedata
from typing import Final
from urllib.parse import urlsplit

BODY_CODE_POINTS: Final = 10_000
BODY_BYTES: Final = 40_000
DETAIL_CODE_POINTS: Final = 2_000
TITLE_CODE_POINTS: Final = 300
REASON_CODE_POINTS: Final = 300
NAME_CODE_POINTS: Final = 100
SUB_CODE_POINTS: Final = 255
URL_CODE_POINTS: Final = 2_048
EMAIL_CODE_POINTS: Final = 254

_LONGEST_DECOMPOSITION: Final = 4
"""NFC shortens a text to no less than a quarter of its code points (longest canonical decomposition)."""

_ASCII_PRINTED: Final = bytes(range(0x20, 0x7F))
_ASCII_BLOCK: Final = _ASCII_PRINTED + b"\n\t"
_BLOCK_BYTES: Final = _ASCII_BLOCK + bytes(range(0x80, 0x100))

_BLOCK_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LINE_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LINE_ENDS: Final = re.compile("\r\n?")

# White_Space and Default_Ignorable_Code_Point (Unicode 16, PropList and DerivedCoreProperties), and what
# fonts draw as nothing all the same: the blank Braille pattern, the null note head, the controls of
# interlinear annotation, of shorthand and of hieroglyphs.
_INVISIBLE: Final = (
    r"\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    r"\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_VISIBLE: Final = re.compile(f"[^{_INVISIBLE}]")

_MARK_RUN: Final = re.compile("[^\x00-\u02ff]{32,}")
# The only characters that are no marks themselves and yet decompose into nothing but marks.
_TIBETAN: Final = str.maketrans({0x0F73: "\u0f71\u0f72", 0x0F75: "\u0f71\u0f74", 0x0F81: "\u0f71\u0f80"})

_EMAIL: Final = re.compile(rf"[^@{_INVISIBLE}]+@[^@{_INVISIBLE}]+")
_URL_REFUSED: Final = re.compile(rf'[{_INVISIBLE}<>"\\]')


class TextRefused(ValueError):
    """A text that cannot be taken; `reason` says why, for the one who wrote it, without quoting it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def normalise_body(raw: str) -> str:
    """The body of a comment as it is stored: at most 10,000 code points and 40,000 bytes, NFC, `\\n`.

    Raises `TextRefused`.
    """
    # Nearly every body ends in one of the first two ways, after about a microsecond.
    if raw.isascii():
        if len(raw) <= BODY_CODE_POINTS and not raw.encode().translate(None, _ASCII_BLOCK):
            return _visible(raw, "the body")
    elif _is_normalised(raw):
        return raw
    body = _normalise_block(raw, "the body", BODY_CODE_POINTS)
    if len(body.encode()) > BODY_BYTES:
        raise TextRefused(f"the body is longer than {BODY_BYTES:,} bytes")
    return body


def _is_normalised(raw: str) -> bool:
    """Whether a body is seen, cheaply, to need no change and no refusal; False says nothing."""
    if len(raw) > BODY_CODE_POINTS or not _has_visible(raw):
        return False
    try:
        encoded = raw.encode()
    except UnicodeEncodeError:
        return False
    return (
        len(encoded) <= BODY_BYTES
        and not encoded.translate(None, _BLOCK_BYTES)
        and (b"\xc2" not in encoded or not _BLOCK_CONTROL.search(raw))  # C1 controls begin with this byte
        and unicodedata.is_normalized("NFC", raw)
    )


def normalise_detail(raw: str) -> str:
    """The free text beside a report's reason: at most 2,000 code points, NFC, `\\n`. Raises `TextRefused`."""
    return _normalise_block(raw, "the detail", DETAIL_CODE_POINTS)


def normalise_line(raw: str, *, what: str, limit: int) -> str:
    """A title, name or reason: one line of at most `limit` code points, NFC.

    `what` names the text in the refusal ("the title"). Raises `TextRefused`.
    """
    if raw.isascii() and len(raw) <= limit and not raw.encode().translate(None, _ASCII_PRINTED):
        return _visible(raw, what)
    text = _compose(raw, what, limit)
    if _LINE_CONTROL.search(text):
        raise TextRefused(f"{what} must be one line without control characters")
    return _visible(text, what)


def check_url(raw: str) -> str:
    """An absolute http or https address with a host, at most 2,048 code points, NFC. Raises `TextRefused`.

    Spaces, control and invisible characters, `<`, `>`, `"` and the backslash (which browsers read as a
    slash, and `urllib` does not) are refused: they are sent percent-encoded (RFC 3986, section 2).
    """
    url = _compose(raw, "the url", URL_CODE_POINTS)
    if _BLOCK_CONTROL.search(url) or _URL_REFUSED.search(url):
        raise TextRefused("the url holds a character that must be percent-encoded")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise TextRefused("the url is malformed") from None
    if parts.scheme not in ("http", "https"):
        raise TextRefused("the url must begin with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise TextRefused("the url names a user")
    if not host:
        raise TextRefused("the url names no host")
    return url


def check_email(raw: str) -> str:
    """A mail address of at most 254 code points (RFC 5321, section 4.5.3.1.3, with RFC 3696's erratum 1690),
    NFC: something, one `@`, something. Whether it exists only a mail can tell. Raises `TextRefused`."""
    email = _compose(raw, "the email", EMAIL_CODE_POINTS)
    if _LINE_CONTROL.search(email) or not _EMAIL.fullmatch(email):
        raise TextRefused("the email is no address")
    return email


def _normalise_block(raw: str, what: str, limit: int) -> str:
    text = _compose(_LINE_ENDS.sub("\n", raw), what, limit)
    if _BLOCK_CONTROL.search(text):
        raise TextRefused(f"{what} holds a control character")
    return _visible(text, what)


def _visible(text: str, what: str) -> str:
    if not _has_visible(text):
        raise TextRefused(f"{what} is empty")
    return text


def _has_visible(text: str) -> bool:
    return "!" <= text[:1] <= "~" or _VISIBLE.search(text) is not None


def _compose(raw: str, what: str, limit: int) -> str:
    """`raw` in NFC, at most `limit` code points long and free of lone surrogates."""
    text = raw
    if len(text) <= limit * _LONGEST_DECOMPOSITION and not unicodedata.is_normalized("NFC", text):
        # CPython puts a run of marks in order by insertion: 40,000 of them, twice over, took 0.9 s. A stable
        # sort by combining class is canonically equivalent, and leaves the insertion nothing to move.
        text = unicodedata.normalize("NFC", _MARK_RUN.sub(_order_marks, text))
    if len(text) > limit:
        raise TextRefused(f"{what} is longer than {limit:,} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TextRefused(f"{what} holds half of a surrogate pair") from None
    return text


def _order_marks(run: re.Match[str]) -> str:
    """The run with its marks in canonical order (Unicode, section 3.11, D108 and D109)."""
    ordered: list[str] = []
    marks: list[str] = []
    for character in run[0].translate(_TIBETAN):
        if unicodedata.combining(character):
            marks.append(character)
            continue
        marks.sort(key=unicodedata.combining)
        ordered += marks
        ordered.append(character)
        marks.clear()
    marks.sort(key=unicodedata.combining)
    ordered += marks
    return "".join(ordered)
