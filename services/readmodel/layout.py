"""A whole view as plain commands.

Who has folded a whole thread knows what write.lua would have to find out: how many replies each comment has,
which of them come first, which lists there are. Plain commands then cost Redis half of what the script does.
They are for a build, which nobody reads yet. Nodes go first, then the counts, which name the keys of the
lists, then the lists, each in one command, so that none that is lost in between begins anew. What is lost of
the rest shows in the switch, which compares with the size told here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from schema.events.envelope import micros
from services.core.node import hidden_author
from services.core.page import FIRST, FoldIndex
from services.core.ranking import best, controversial
from services.core.thread import CommentState
from services.readmodel import keys
from services.readmodel.frames import Frames
from services.readmodel.line import packed
from services.readmodel.sending import CALL_BYTES

_RECORD: Final = struct.Struct(">IIB")
_BITS: Final = {b"b:": 1, b"c:": 2, b"r:": 4}


class Rest(NamedTuple):
    """The commands that set the counts and the lists, and the view's size, as its head is to have it."""

    counts: list[bytes]
    lists: list[bytes]
    size: str


class Layout:
    """The commands that write a folded thread below `prefix`, as `keys.build` has it, packed."""

    __slots__ = ("_frames", "_hidden", "_index", "_placed", "_prefix")

    def __init__(self, index: FoldIndex, prefix: str, frames: Frames) -> None:
        self._index = index
        self._prefix = prefix
        self._frames = frames
        self._placed: dict[int, tuple[bytes, int]] = {}
        """Posting version to itself as stored, and created_at in microseconds."""
        self._hidden = 0

    def nodes(self, nodes: Mapping[int, bytes]) -> list[bytes]:
        """Of these comments, by posting version; each is asked for once."""
        comments, pack, placed = self._index.comments, self._frames.pack_node, self._placed
        commands: list[bytes] = []
        stored: list[bytes] = []
        weight = 0
        ids: list[bytes] = []
        hidden: list[bytes | str] = []
        for version, raw in nodes.items():
            comment = comments[version]
            posted = version.to_bytes(keys.POSTED_BYTES, "big")
            created = micros(comment.created_at)
            placed[version] = posted, created
            node = pack(created, raw)
            weight += len(node)
            if stored and weight > CALL_BYTES:
                commands.append(packed("HSET", self._prefix + "n", *stored))
                stored, weight = [], len(node)
            stored += (posted, node)
            ids += (comment.id.bytes, posted)
            if comment.state is CommentState.HIDDEN and (author := hidden_author(raw)) is not None:
                hidden += (posted, author)
        self._hidden += len(hidden) // 2
        values = (("n", stored), ("i", ids), ("o", hidden))
        return commands + [packed("HSET", self._prefix + key, *some) for key, some in values if some]

    def rest(self) -> Rest:
        """What is written once all nodes are laid out."""
        placed, prefix = self._placed, self._prefix.encode()
        below = self._index.descendants
        records: list[bytes] = []
        lists: list[bytes] = []
        roots = [0, 0, 0, 0]
        for parent in (0, *below):
            children = self._index.children(parent)
            end = parent.to_bytes(keys.POSTED_BYTES, "big")
            order: list[int | bytes] = []
            for child in children:
                posted, created = placed[child]
                order += (created, posted)
            if order:
                lists.append(packed("ZADD", prefix + b"k:" + end, *order))
            ranked = self._ranked(children)
            lists += [packed("ZADD", prefix + of + end, *scored) for of, scored in ranked.items()]
            if parent:
                first = b"".join([placed[child][0] for child in children[:FIRST]])
                bits = sum(map(_BITS.__getitem__, ranked))
                records += (end, _RECORD.pack(len(children), below[parent], bits) + first)
            else:
                roots = [len(children), *(len(ranked.get(of, ())) // 2 for of in _BITS)]
        size = " ".join(map(str, (len(placed), len(placed), len(below), self._hidden, *roots)))
        return Rest([packed("HSET", prefix + b"d", *records)] if records else [], lists, size)

    def _ranked(self, children: Sequence[int]) -> dict[bytes, list[int | str | bytes]]:
        """The ranked lists of these replies, by the letter of their keys: scores and members."""
        comments, below = self._index.comments, self._index.descendants
        lists: dict[bytes, list[int | str | bytes]] = {}
        for child in children:
            comment = comments[child]
            if comment.up:  # without a vote up, both scores are 0
                member = self._member(child)
                lists.setdefault(b"b:", []).extend((repr(-best(comment.up, comment.down)), member))
                if comment.down:
                    score = controversial(comment.up, comment.down)
                    lists.setdefault(b"c:", []).extend((repr(-score), member))
            if child in below:
                lists.setdefault(b"r:", []).extend((-below[child], self._member(child)))
        return lists

    def _member(self, version: int) -> bytes:
        posted, created = self._placed[version]
        return created.to_bytes(8, "big") + posted
