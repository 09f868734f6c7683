"""Cursors: opaque, and of use only to the list that made them.

A cursor is a version byte, a payload and the first 8 bytes of an HMAC-SHA256 over the list that it belongs to
and the payload, in base64url. It carries no state and never expires; its key is derived from the master key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from schema.events.envelope import EPOCH, micros
from services.core.page import Place
from services.core.ranking import Sort
from services.errors import CursorInvalid
from services.eventlog.inbox import Seen

_VERSION: Final = b"\x01"
_MAC: Final = 8
_LONGEST: Final = 64
"""Characters of a cursor, at most, beside those that hold a place for each lane."""
_SORTS: Final[dict[Sort, bytes]] = {
    "oldest": b"o",
    "newest": b"n",
    "best": b"b",
    "controversial": b"c",
    "replies": b"r",
}
_PLACE: Final = struct.Struct(">IId")
_NUMBER: Final = struct.Struct(">Q")
_DATED: Final = struct.Struct(">q16s")
_LANED: Final = struct.Struct(">BQ")
_SNAPSHOT: Final = struct.Struct(">QIH")


class Cursors:
    """Makes and reads the cursors of every list."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def comments(self, stream_id: UUID, sort: Sort, parent: int, place: Place) -> str:
        """Goes on behind `place`, among the replies to `parent` (0: roots)."""
        payload = _PLACE.pack(parent, place.posted, place.score)
        return self._seal(b"c" + _SORTS[sort] + stream_id.bytes, payload)

    def place(self, stream_id: UUID, sort: Sort, cursor: str) -> tuple[int, Place]:
        """The list's parent and the place in it, of a comments cursor. Raises CursorInvalid."""
        payload = self._open(b"c" + _SORTS[sort] + stream_id.bytes, cursor, _PLACE.size)
        parent, posted, score = _PLACE.unpack(payload)
        return int(parent), Place(int(posted), float(score))

    def numbered(self, scope: bytes, last: int) -> str:
        """Goes on after the item numbered `last` of the list that `scope` names."""
        return self._seal(b"n" + scope, _NUMBER.pack(last))

    def number(self, scope: bytes, cursor: str) -> int:
        """The number in a cursor of the list that `scope` names. Raises CursorInvalid."""
        return int(_NUMBER.unpack(self._open(b"n" + scope, cursor, _NUMBER.size))[0])

    def identified(self, scope: bytes, last: UUID) -> str:
        """Goes on after the item with the id `last` of the list that `scope` names."""
        return self._seal(b"i" + scope, last.bytes)

    def identity(self, scope: bytes, cursor: str) -> UUID:
        """The id in a cursor of the list that `scope` names. Raises CursorInvalid."""
        return UUID(bytes=self._open(b"i" + scope, cursor, 16))

    def dated(self, scope: bytes, when: datetime, last: UUID) -> str:
        """Goes on after the item with the id `last` of the time `when`, of the list that `scope` names."""
        return self._seal(b"d" + scope, _DATED.pack(micros(when), last.bytes))

    def date(self, scope: bytes, cursor: str) -> tuple[datetime, UUID]:
        """Time and id in a cursor of the list that `scope` names. Raises CursorInvalid."""
        since, last = _DATED.unpack(self._open(b"d" + scope, cursor, _DATED.size))
        return EPOCH + timedelta(microseconds=since), UUID(bytes=last)

    def laned(self, scope: bytes, positions: Mapping[int, int]) -> str:
        """Goes on after these positions of the lanes, in the list that `scope` names."""
        payload = b"".join(_LANED.pack(*place) for place in sorted(positions.items()))
        return self._seal(b"l" + scope, payload)

    def positions(self, scope: bytes, cursor: str, lanes: int) -> dict[int, int]:
        """The position of each lane in a cursor of the list that `scope` names. Raises CursorInvalid."""
        return dict(_LANED.iter_unpack(self._open(b"l" + scope, cursor, lanes * _LANED.size)))

    def seen(self, scope: bytes, seen: Seen) -> str:
        """Goes on after what was seen of the inbox that `scope` names."""
        parts = [_packed(seen.snapshot)]
        if seen.then is not None and seen.last is not None:
            parts += [_packed(seen.then), seen.last.bytes]
        return self._seal(_inbox(scope), b"".join(parts))

    def seen_in(self, scope: bytes, cursor: str) -> Seen:
        """What was seen by a cursor of the inbox that `scope` names. Raises CursorInvalid."""
        payload = self._open(_inbox(scope), cursor, max(0, len(cursor) * 3 // 4 - _MAC - 1))
        snapshot, rest = _unpacked(payload)
        if not rest:
            return Seen(snapshot)
        then, last = _unpacked(rest)
        return Seen(snapshot, then, UUID(bytes=last))

    def _seal(self, scope: bytes, payload: bytes) -> str:
        return base64.urlsafe_b64encode(_VERSION + payload + self._mac(scope, payload)).rstrip(b"=").decode()

    def _open(self, scope: bytes, cursor: str, size: int) -> bytes:
        if len(cursor) > _LONGEST + 2 * size or not cursor.isascii():
            raise CursorInvalid("the cursor was not made by this list")
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            raise CursorInvalid("the cursor was not made by this list") from None
        payload = raw[1:-_MAC]
        if (
            len(payload) != size
            or raw[:1] != _VERSION
            or not hmac.compare_digest(raw[-_MAC:], self._mac(scope, payload))
        ):
            raise CursorInvalid("the cursor was not made by this list")
        return payload

    def _mac(self, scope: bytes, payload: bytes) -> bytes:
        # The payload's size is fixed by the scope's first byte, so the two never run into each other.
        return hmac.digest(self._key, _VERSION + scope + payload, "sha256")[:_MAC]


def _inbox(scope: bytes) -> bytes:
    """A scope of one size, since what is seen has any."""
    return b"s" + hashlib.blake2b(scope, digest_size=16).digest()


def _packed(snapshot: str) -> bytes:
    """A snapshot in few bytes: `xmin:xmax:xip,…`, all of it near xmin."""
    first, end, under_way = snapshot.split(":")
    xmin = int(first)
    others = [int(one) - xmin for one in under_way.split(",") if one]
    return _SNAPSHOT.pack(xmin, int(end) - xmin, len(others)) + struct.pack(f">{len(others)}I", *others)


def _unpacked(raw: bytes) -> tuple[str, bytes]:
    """The snapshot that raw begins with, and what is behind it."""
    xmin, span, count = _SNAPSHOT.unpack_from(raw)
    others = struct.unpack_from(f">{count}I", raw, _SNAPSHOT.size)
    text = f"{xmin}:{xmin + span}:{','.join(str(xmin + one) for one in others)}"
    return text, raw[_SNAPSHOT.size + 4 * count :]
