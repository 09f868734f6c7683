"""What goes into a view and comes out of it."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from types import NoneType
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

import orjson

from schema.events.envelope import micros
from services.core.page import FoldIndex, Picked
from services.core.ranking import best, controversial
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


class Changed(NamedTuple):
    """A new or changed comment: posting version, parent's, created_at in microseconds, node; its id where it
    is new to the view; its scores by votes where they may have changed."""

    posted: int
    parent: int
    created: int
    raw: bytes
    id: UUID | None
    scores: tuple[float, float] | None
    """`best` and `controversial`."""


@dataclass(slots=True)
class Changes:
    """What a batch of events changes in a view, at most some 2,000 comments.

    `descendants` is by how much the number of comments below each comment grows. Written into a build,
    they are final numbers instead, and a comment's is written no later than its first reply.
    """

    comments: list[Changed] = field(default_factory=list)
    descendants: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        comments: Iterable[Comment],
        nodes: Mapping[int, bytes],
        descendants: dict[int, int],
        *,
        older: Container[int] = (),
        voted: Container[int] = (),
    ) -> Self:
        """Of these comments, with their nodes by posting version. All are new but the `older` ones; of those,
        the votes on the `voted` have changed."""
        changes = cls(descendants=descendants)
        for comment in comments:
            changes.put(
                comment,
                nodes[comment.posted],
                new=comment.posted not in older,
                voted=comment.posted in voted,
            )
        return changes

    def put(self, comment: Comment, raw: bytes, *, new: bool = False, voted: bool = False) -> None:
        """A comment, as it is now."""
        scores = None
        if voted or (new and comment.up):  # without a vote up, both scores are 0
            scores = best(comment.up, comment.down), controversial(comment.up, comment.down)
        self.comments.append(
            Changed(
                comment.posted,
                comment.parent,
                micros(comment.created_at),
                raw,
                comment.id if new else None,
                scores,
            )
        )

    def slices(self, most: int) -> Iterator[Changes]:
        """The same for a build, in parts whose nodes weigh at most `most` bytes, or are one node."""
        # A comment's number of descendants goes with it, that of an older one with the first part.
        below = dict(self.descendants)
        parts, weight = [Changes()], 0
        for comment in self.comments:
            if parts[-1].comments and weight + len(comment.raw) > most:
                parts.append(Changes())
                weight = 0
            parts[-1].comments.append(comment)
            weight += len(comment.raw)
            if comment.posted in below:
                parts[-1].descendants[comment.posted] = below.pop(comment.posted)
        parts[0].descendants |= below
        yield from parts


def whole(index: FoldIndex, size: int = 500) -> Iterator[Changes]:
    """A folded thread as what a build is written from, `size` comments at a time, in the order of posting.

    The index's nodes are asked for as it goes, so that text need only be opened and rendered then.
    """
    comments = iter(index.comments.values())
    while chunk := list(islice(comments, size)):
        below = {c.posted: index.descendants[c.posted] for c in chunk if c.posted in index.descendants}
        yield Changes.of(chunk, {c.posted: index.node(c.posted) for c in chunk}, below)


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
