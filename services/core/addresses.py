"""How sites, threads, comments and events are named (contract, section 1; design, "The log").

A thread is known by its site and the client's own key, an opaque string that is compared byte for byte.
From these the ids of streams follow without a look-up. Nothing here reads a clock or draws a random
number: both are arguments.
"""

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_to_bytes
from uuid import UUID, uuid5

THREADLOG_NAMESPACE: Final = UUID("386e6bc3-83d4-5815-accb-3387230164a4")
"""Namespace of every stream id: UUIDv5 of the URL `urn:threadlog:streams`. Another value would make every
log another log, so it never changes."""

THREAD_KEY_BYTES: Final = 512

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,511}")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_BASE64URL: Final = re.compile(rb"[A-Za-z0-9_-]*")
_SITE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_COMMENT_ID: Final = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-7[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_RANDOM_BYTES: Final = 10


class BadAddress(ValueError):
    """A site name or thread key that cannot be one; `reason` says why, without quoting it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check_site(name: str) -> str:
    """`name` if it may name a site: 1 to 63 of `a-z 0-9 . _ -`, `a-z 0-9` first; else `BadAddress`."""
    if not _SITE.fullmatch(name):
        raise BadAddress("a site's name is 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a-z or 0-9")
    return name


def check_thread_key(key: str) -> str:
    """`key` if it may be a thread's key: 1 to 512 bytes of UTF-8, no control characters, not `.` or `..`.

    Raises `BadAddress`.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise BadAddress("the thread key holds half of a surrogate pair") from None
    if not 1 <= size <= THREAD_KEY_BYTES:
        raise BadAddress(f"the thread key must have 1 to {THREAD_KEY_BYTES} bytes")
    if key in (".", ".."):
        raise BadAddress("the thread key must not be '.' or '..'")
    if _CONTROL.search(key):
        raise BadAddress("the thread key holds a control character")
    return key


def decode_thread_key(raw_segment: str | bytes) -> str:
    """The thread key in one path segment, as it came over the wire, still percent-encoded.

    The segment must be taken from the raw request target: a framework's decoded path no longer tells
    `%FF` from `%25FF`, nor a slash from `%2F`. A segment that, percent-decoded, begins with `~` carries
    the key's bytes in base64url (RFC 4648, section 5; no padding, unused bits zero). Raises `BadAddress`.
    """
    if isinstance(raw_segment, str):
        if _PLAIN_KEY.fullmatch(raw_segment):
            return raw_segment
        try:
            raw = raw_segment.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise BadAddress("the thread key is not UTF-8") from None
    else:
        raw = raw_segment
    if b"/" in raw:
        raise BadAddress("a slash in a thread key is sent as %2F")
    if _BAD_ESCAPE.search(raw):
        raise BadAddress("the thread key holds a '%' that begins no percent-encoding")
    # `%7E` and `~` are the same character to every proxy on the way (RFC 3986, section 2.3).
    decoded = unquote_to_bytes(raw)
    if decoded.startswith(b"~"):
        decoded = _decode_base64url(decoded[1:])
    try:
        key = decoded.decode()
    except UnicodeDecodeError:
        raise BadAddress("the thread key is not UTF-8") from None
    return check_thread_key(key)


def encode_thread_key(key: str) -> str:
    """The path segment of a thread's key: percent-encoded, or `~` and base64url where it begins with `~`.

    Raises `BadAddress`.
    """
    check_thread_key(key)
    if key.startswith("~"):
        return "~" + base64.urlsafe_b64encode(key.encode()).rstrip(b"=").decode()
    return quote(key, safe="")


def thread_stream_id(site: str, key: str) -> UUID:
    """The id of a thread's stream: UUIDv5 of site and key, both already checked."""
    # A site's name holds no slash, so the first two tell where the key begins.
    return uuid5(THREADLOG_NAMESPACE, f"thread/{site}/{key}")


@lru_cache(maxsize=1024)
def site_stream_id(site: str) -> UUID:
    """The id of a site's own stream: UUIDv5 of its name, already checked."""
    return uuid5(THREADLOG_NAMESPACE, f"site/{site}")


def lane_of(stream_id: UUID, lanes: int) -> int:
    """The lane of a stream, 0 to `lanes` - 1: its id's last four bytes, big-endian, modulo `lanes`."""
    if lanes < 1:
        raise ValueError("a log has at least one lane")
    # The last four bytes hold neither the version nor the variant, so every lane gets its share.
    return (stream_id.int & 0xFFFF_FFFF) % lanes


def new_event_id(unix_ms: int, random10: bytes) -> UUID:
    """A UUIDv7 (RFC 9562, section 5.7) of a time in milliseconds since 1970 and 10 random bytes.

    Six of the 80 random bits give way to version and variant.
    """
    return UUID(bytes=event_id_bytes(unix_ms, random10))


def event_id_bytes(unix_ms: int, random10: bytes) -> bytes:
    """As `new_event_id`, the 16 bytes of it."""
    if not 0 <= unix_ms < 1 << 48:
        raise ValueError("a UUIDv7 holds a time from 1970 to 10889")
    if len(random10) != _RANDOM_BYTES:
        raise ValueError("a UUIDv7 takes 10 random bytes")
    random = int.from_bytes(random10, "big")
    rand_a = random >> 62 & 0xFFF
    rand_b = random & (1 << 62) - 1
    return (unix_ms << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b).to_bytes(16, "big")


def event_id_at(when: datetime, seed: bytes) -> UUID:
    """The UUIDv7-shaped id of an event that was not drawn but follows from `seed`, as in an import.

    Its time is `when` (aware; before 1970 counts as 1970), its random bits are the first of
    SHA-256(`seed`): the same input, imported again, gets the same ids.
    """
    if when.tzinfo is None:
        raise ValueError("the time of an event has a zone")
    unix_ms = max(0, (when - _EPOCH) // _MILLISECOND)
    return new_event_id(unix_ms, hashlib.sha256(seed).digest()[:_RANDOM_BYTES])


def parse_comment_id(raw: str) -> UUID | None:
    """The comment id written as 36 characters, in either case; None for all that is not a UUIDv7."""
    return UUID(raw) if _COMMENT_ID.fullmatch(raw) else None


def _decode_base64url(encoded: bytes) -> bytes:
    if not _BASE64URL.fullmatch(encoded):
        raise BadAddress("after '~' the thread key is base64url without padding")
    try:
        decoded = base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    except binascii.Error:
        raise BadAddress("after '~' the thread key is base64url without padding") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != encoded:
        raise BadAddress("the base64url of the thread key has unused bits set")
    return decoded
