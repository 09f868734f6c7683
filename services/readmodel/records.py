"""What goes into a view and comes out of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import NoneType
from typing import Any, Final, Self
from uuid import UUID

import orjson

from schema.events.envelope import micros
from services.core.page import FoldIndex, Picked
from services.core.thread import Comment, ThreadState

_BUILD: Final = re.compile(r"[0-9a-f]{8}")
_META: Final = ((str,), (str,), (str, NoneType), (str, NoneType), (str, NoneType), (bool,), (int,))


class Outcome(StrEnum):
    """What became of a write by compare-and-set. Nothing was written unless it is APPLIED."""

    APPLIED = "applied"
    MOVED = "moved"
    """The head is not the expected one: another writer was first, or the log tells another story now. It may
    have been this very write, where the connection failed after it and the client sent it again."""
    ABSENT = "absent"
    """There is no view, or none any more: a part of it was gone, or the server is full. Or the build to
    switch to is no longer whole."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a view stands for: the thread folded up to `version`, whose event has `hash`."""

    version: int
    hash: bytes
    build: str = ""
    site: str = ""
    key: str = ""
    title: str | None = None
    url: str | None = None
    described_by: str | None = None
    closed: bool = False
    visible: int = 0
    stale: bool = False
    """Whether the thread is parked: the view is the last good one."""

    @classmethod
    def of(cls, thread: ThreadState, build: str = "") -> Self:
        """The head of a view of this fold."""
        return cls(
            version=thread.version,
            hash=thread.last_hash,
            build=build,
            site=thread.site,
            key=thread.key,
            title=thread.title,
            url=thread.url,
            described_by=thread.described_by,
            closed=thread.closed,
            visible=thread.visible,
        )

    def thread(self, stream_id: UUID) -> ThreadState:
        """The fold that this head stands for, without comments, to go on from."""
        return ThreadState(
            stream_id=stream_id,
            site=self.site,
            key=self.key,
            version=self.version,
            last_hash=self.hash,
            title=self.title,
            url=self.url,
            described_by=self.described_by,
            closed=self.closed,
            visible=self.visible,
        )

    def meta(self) -> bytes:
        """The part of the head that is kept as JSON."""
        return orjson.dumps(
            [self.site, self.key, self.title, self.url, self.described_by, self.closed, self.visible]
        )

    @classmethod
    def read(cls, fields: Sequence[bytes | None]) -> Self | None:
        """From version, hash, build, meta, stale, size as stored; None where that is no head."""
        version, hash_, build, meta, stale, size = fields
        if version is None or hash_ is None or meta is None or stale is None or size is None:
            return None
        try:
            number, described = int(version), orjson.loads(meta)
        except ValueError:
            return None
        token = build_of(build)
        if token is None or not _is_meta(described):
            return None
        site, key, title, url, described_by, closed, visible = described
        return cls(
            version=number,
            hash=hash_,
            build=token,
            site=site,
            key=key,
            title=title,
            url=url,
            described_by=described_by,
            closed=closed,
            visible=visible,
            stale=bool(stale),
        )


def build_of(stored: bytes | None) -> str | None:
    """The build that a head names; None where that is damaged."""
    named = (stored or b"").decode(errors="replace")
    return named if _BUILD.fullmatch(named) else None


def _is_meta(described: Any) -> bool:
    return (
        isinstance(described, list)
        and len(described) == len(_META)
        and all(isinstance(value, kinds) for value, kinds in zip(described, _META, strict=True))
    )


@dataclass(slots=True)
class Changes:
    """What a batch of events changes in a view, at most some 2,000 comments.

    `nodes` is each changed or new comment's node by posting version; `added` is (parent, posting version,
    created_at in microseconds, id) of each new one; `descendants` is by how much the number of comments below
    each of their ancestors grows. Written into a build, `descendants` are final numbers instead, and a
    comment's is written no later than its first reply.
    """

    nodes: dict[int, bytes] = field(default_factory=dict)
    added: list[tuple[int, int, int, UUID]] = field(default_factory=list)
    descendants: dict[int, int] = field(default_factory=dict)

    def add(self, comment: Comment, raw: bytes, ancestors: Iterable[int]) -> None:
        """A new comment. `ancestors` are the posting versions of all comments above it."""
        self.nodes[comment.posted] = raw
        self.added.append((comment.parent, comment.posted, micros(comment.created_at), comment.id))
        for ancestor in ancestors:
            self.descendants[ancestor] = self.descendants.get(ancestor, 0) + 1

    def slices(self, most: int) -> Iterator[Changes]:
        """The same for a build, in parts whose nodes weigh at most `most` bytes, or are one node."""
        if sum(map(len, self.nodes.values())) <= most:
            yield self
            return
        places = {place[1]: place for place in self.added}
        # Numbers of replies never come after these.
        part, weight = Changes(descendants=self.descendants), 0
        for posted, raw in self.nodes.items():
            if part.nodes and weight + len(raw) > most:
                yield part
                part, weight = Changes(), 0
            part.nodes[posted] = raw
            weight += len(raw)
            if place := places.pop(posted, None):
                part.added.append(place)
        part.added += places.values()
        yield part


def whole(index: FoldIndex, size: int = 500) -> Iterator[Changes]:
    """A folded thread as what a build is written from, `size` comments at a time, in the order of posting.

    The index's nodes are asked for as it goes, so that text need only be opened and rendered then.
    """
    changes = Changes()
    for posted, comment in index.comments.items():
        changes.nodes[posted] = index.node(posted)
        changes.added.append((comment.parent, posted, micros(comment.created_at), comment.id))
        if below := index.descendants.get(posted):
            changes.descendants[posted] = below
        if len(changes.nodes) >= size:
            yield changes
            changes = Changes()
    if changes.nodes:
        yield changes


@dataclass(frozen=True, slots=True)
class Touched:
    """What a view holds of a batch's subjects: `nodes` by comment id, with the posting version, and `chains`
    from each posting version asked for to those of its ancestors, nearest first. What the view does not have
    is in neither."""

    nodes: dict[UUID, tuple[int, bytes]]
    chains: dict[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class One:
    """The answer for one comment: `picked` is None where the thread has no such comment. `path` are its last
    32 ancestors, root first."""

    head: Head
    picked: Picked | None = None
    path: tuple[UUID, ...] = ()
