"""Cursors: opaque, and of use only to the list that made them.

A cursor is a version byte, a payload and the first 8 bytes of an HMAC-SHA256 over the list that it belongs to
and the payload, in base64url. It carries no state and never expires; its key is derived from the master key.
"""

from __future__ import annotations

import base64
import binascii
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
