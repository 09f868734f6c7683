"""Pages of the views: picked by scripts/page.lua, their comments fetched beside it.

A script takes every value from the server and gives it back at several times what the server needs to send
it itself. So the script only picks the comments of a large page, and their nodes are fetched by plain
commands right behind it. The head is read after them: where it is still the same no write came in between,
and all is of one version. Else the page is asked for once more, whole, in one script.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from redis.asyncio import Redis

from services.core.node import ID
from services.core.page import MAX_PAGE, OVERLAY, Columns, PageRequest, Place, Selection
from services.core.thread import PATH_LENGTH
from services.errors import CommentNotFound, CursorInvalid, ParentNotFound
from services.readmodel import keys
from services.readmodel.frames import FrameDamaged, Frames
from services.readmodel.line import Line, packed
from services.readmodel.lua import LineScript
from services.readmodel.records import Head

HEAD: Final = ("version", "hash", "build", "meta", "stale", "size")
"""The fields of a head, as `Head.read` takes them."""
_SAME: Final = HEAD[:3]
"""Those that tell whether a write came."""

ALONG: Final = 16
"""Comments of a page whose nodes are not worth a round trip of their own."""
_WHOLE: Final = 1 << 30
_FIELD: Final = b"$%d\r\n" % keys.POSTED_BYTES
"""What stands before each field of four bytes."""
_NO_COUNTS: Final = bytes(8)
_RECORD_BYTES: Final = 9
"""What a record in :d has at least."""


class ViewBroken(Exception):
    """A part of the view is gone, or damaged. `build` is what its head names."""

    def __init__(self, build: bytes | None) -> None:
        super().__init__(build)
        self.build = build


class Pages:
    """Reads pages from the views of one Redis."""

    __slots__ = ("_frames", "_line", "_script")

    def __init__(self, redis: Redis, frames: Frames) -> None:
        self._frames = frames
        self._line = Line(redis.connection_pool)
        self._script = LineScript("page", self._line)

    async def page(self, stream_id: UUID, request: PageRequest) -> tuple[Head, Selection] | None:
        """A page; None where the view is absent.

        Raises ViewBroken, ParentNotFound, CommentNotFound and CursorInvalid.
        """
        behind, along = request.after, ALONG
        while True:
            answer = await self._picked(stream_id, request, behind, along)
            match answer:
                case [b"page", fields, *rest]:
                    found = await self._selected(stream_id, fields, rest)
                    if found is not None:
                        return found
                    along = _WHOLE
                case [b"parent"]:
                    raise ParentNotFound(str(request.parent_id))
                case [b"focus"]:
                    raise CommentNotFound(str(request.focus))
                case [b"cursor"]:
                    raise CursorInvalid(f"{behind} posted no comment of this list")
                case [b"far", posted]:
                    # Thousands with a score stand there one behind the other: they were shown before.
                    behind = Place(int.from_bytes(posted, "big"))
                case [b"broken", bytes(build)]:
                    raise ViewBroken(build)
                case _:
                    return None

    async def _picked(self, stream_id: UUID, request: PageRequest, behind: Place | None, along: int) -> Any:
        about = (b"", b"")
        if request.parent_id is not None:
            about = b"parent", request.parent_id.bytes
        elif request.focus is not None:
            about = b"focus", request.focus.bytes
        return await self._script(
            (keys.head(stream_id), keys.prefix(stream_id)),
            (
                request.sort,
                request.limit,
                request.replies,
                request.depth,
                *about,
                b"" if behind is None else keys.posted(behind.posted),
                repr(-behind.score) if behind is not None and behind.score else b"0",
                MAX_PAGE,
                PATH_LENGTH,
                OVERLAY,
                along,
            ),
        )

    async def _selected(
        self, stream_id: UUID, fields: list[bytes | None], answer: list[Any]
    ) -> tuple[Head, Selection] | None:
        """What page.lua picked; None where the view has moved on since. Raises ViewBroken."""
        parent, roots, more, pathed, above, overlay, posted, counts, shown, scores, nodes = answer
        head = Head.read(fields)
        if head is None:
            raise ViewBroken(fields[2])
        count = len(posted) // keys.POSTED_BYTES
        if not isinstance(nodes, list):
            now, nodes, rest = await self._apart(stream_id, head, posted, len(counts) // len(_NO_COUNTS))
            if now != fields[: len(_SAME)]:
                return None
            counts = b"".join((counts, *map(_counts, rest)))
        try:
            raws = self._frames.unpack_all(nodes)
            path = self._frames.unpack_all(above[::-1])
        except FrameDamaged as error:
            raise ViewBroken(fields[2]) from error
        if len(counts) != len(_NO_COUNTS) * count:
            raise ViewBroken(fields[2])
        both = struct.unpack(f">{2 * count}I", counts)
        return head, Selection(
            picked=Columns(
                posted=struct.unpack(f">{count}I", posted),
                raws=raws,
                children=both[::2],
                descendants=both[1::2],
                shown=struct.unpack(f">{count}H", shown.ljust(2 * count, b"\0")),
                scores=struct.unpack(f">{count}d", scores) if scores else (0.0,) * count,
            ),
            roots=roots,
            more=bool(more),
            parent=int.from_bytes(parent, "big"),
            ancestors=tuple(UUID(node[ID].decode()) for node in path),
            pathed=pathed,
            overlay=frozenset(map(bytes.decode, overlay)) if isinstance(overlay, list) else None,
        )

    async def _apart(
        self, stream_id: UUID, head: Head, posted: bytes, counted: int
    ) -> tuple[list[bytes | None], list[bytes], list[bytes | None]]:
        """What the head is now, the stored nodes of these comments, and the records of those from number
        `counted` on, read in this order but for the head, which is read last."""
        count = len(posted) // keys.POSTED_BYTES
        fields: tuple[bytes, ...] = struct.unpack(f"{keys.POSTED_BYTES}s" * count, posted)
        commands = [_fetching(keys.nodes(stream_id, head.build), fields)]
        if counted < count:
            commands.append(_fetching(keys.descendants(stream_id, head.build), fields[counted:]))
        commands.append(packed("HMGET", keys.head(stream_id), *_SAME))
        nodes, *records, now = await self._line.ask(*commands)
        return now, nodes, records[0] if records else []


def _fetching(key: str, posted: Sequence[bytes]) -> bytes:
    """The command for these fields of a hash. They are equally long, and so put in at a tenth of what
    `packed` takes for them."""
    return b"*%d\r\n$5\r\nHMGET\r\n$%d\r\n%b\r\n%b%b\r\n" % (
        2 + len(posted),
        len(key),
        key.encode(),
        _FIELD,
        (b"\r\n" + _FIELD).join(posted),
    )


def _counts(record: bytes | None) -> bytes:
    """The counts of a record in :d; too few bytes where it is damaged."""
    if record is None:
        return _NO_COUNTS
    return record[: len(_NO_COUNTS)] if len(record) >= _RECORD_BYTES else b""
