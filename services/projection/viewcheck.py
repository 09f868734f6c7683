"""Comparing what a view holds with the fold that it should be: each value that differs, under a name that a
person understands."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import fields
from typing import Any, Final
from uuid import UUID

from services.core.node import Node, decode
from services.core.page import FoldIndex, Row
from services.core.ranking import RANKED
from services.eventlog.state import Difference
from services.readmodel.dump import Stored
from services.readmodel.records import Head

_HEAD: Final = ("version", "hash", "site", "key", "title", "url", "described_by", "closed", "visible")
_SIZE: Final = ("nodes", "ids", "descendants", "overlay", "roots", *(f"roots in {sort}" for sort in RANKED))
_BELOW: Final = ("children", "descendants", "ranked lists", "first replies")
_LISTS: Final = frozenset({"order", *RANKED})
_PLACE: Final = ("score", "microseconds")
"""What a place in a list is found by; one in the order of time has no score."""

Key = tuple[str, int | UUID | bytes]


def heads(stored: Stored, index: FoldIndex) -> Iterator[Difference]:
    """What of the view's head is not as the fold has it."""
    head = stored.head
    if head is None:
        yield Difference("view head", "", stored.damage.get("head") or stored.fields, "a head")
        return
    replayed = Head.of(index.thread, head.build)
    for name in _HEAD:
        before, after = getattr(head, name), getattr(replayed, name)
        if before != after:
            yield Difference("view head", name, before, after)


def parts(stored: Stored, index: FoldIndex, moved: Collection[int] = ()) -> Iterator[Difference]:
    """What of everything else is not as the fold has it. The comments posted at the versions `moved`, and the
    lists of their replies, were written while the view was read: nothing is said of them."""
    for kind, error in stored.damage.items():
        if kind != "head":
            yield Difference(f"view {kind}", "", error, "a key of another type")
    kept, replayed = stored.rows or {}, {row.key: row for row in index.rows()}
    for key in sorted(kept.keys() | replayed.keys(), key=_order):
        kind, at = key
        before, after = kept.get(key), replayed.get(key)
        if before == after or kind in stored.damage:
            continue
        if moved and (
            kind == "size" or at in moved or (isinstance(at, UUID) and _posted(before, after) in moved)
        ):
            continue
        yield from _row(index, kind, at, before, after)


def _order(key: Key) -> tuple[str, int, str]:
    kind, at = key
    return kind, at if isinstance(at, int) else 0, str(at)


def _posted(before: Row | None, after: Row | None) -> object:
    row = after or before
    return None if row is None else row.value


def _row(
    index: FoldIndex, kind: str, at: int | UUID | bytes, before: Row | None, after: Row | None
) -> Iterator[Difference]:
    was, is_ = None if before is None else before.value, None if after is None else after.value
    if kind == "size":
        yield from _fields("view size", "", _SIZE, str(was).split(), str(is_).split())
    elif kind in _LISTS:
        yield from _places(index, kind, at, was, is_)
    elif was is None or is_ is None or kind in ("ids", "overlay"):
        yield Difference(f"view {kind}", _name(index, at), _told(was), _told(is_))
    elif kind == "descendants" and isinstance(was, tuple) and isinstance(is_, tuple):
        yield from _fields("view descendants", f"{_name(index, at)}: ", _BELOW, was, is_)
    elif kind == "nodes" and isinstance(was, tuple) and isinstance(is_, tuple):
        yield from _node(_name(index, at), was, is_)
    else:
        yield Difference(f"view {kind}", _name(index, at), was, is_)


def _name(index: FoldIndex, at: int | UUID | bytes) -> str:
    """A comment as a person may look it up."""
    if isinstance(at, UUID):
        comment = index.thread.comments.get(at)
        return str(at) if comment is None else f"{at} (version {comment.posted})"
    if isinstance(at, bytes):
        return f"the field {at.hex()}"
    found = index.comments.get(at)
    return f"version {at}" if found is None else f"{found.id} (version {at})"


def _told(value: object) -> object:
    """A whole row as it is told of: its node's text is long, and the reader's to see, not the operator's."""
    match value:
        case (int(), int(), bytes() as raw):
            with suppress(ValueError):
                return f"a node, {decode(raw).state.value}"
            return raw
    return value


def _fields(
    kind: str, path: str, names: tuple[str, ...], before: Collection[Any], after: Collection[Any]
) -> Iterator[Difference]:
    if not len(names) == len(before) == len(after):
        yield Difference(kind, path.removesuffix(": "), " ".join(map(str, before)), " ".join(map(str, after)))
        return
    for name, was, is_ in zip(names, before, after, strict=True):
        if was != is_:
            yield Difference(kind, f"{path}{name}", was, is_)


def _places(
    index: FoldIndex, kind: str, at: int | UUID | bytes, before: object, after: object
) -> Iterator[Difference]:
    """A list, reply by reply."""
    path = "roots" if at == 0 else f"replies to {_name(index, at)}"
    was = {place[0]: place[1:] for place in before} if isinstance(before, tuple) else {}
    is_ = {place[0]: place[1:] for place in after} if isinstance(after, tuple) else {}
    told = False
    for child in sorted(was.keys() | is_.keys(), key=str):
        stored, due = was.get(child), is_.get(child)
        if stored == due:
            continue
        told = True
        where = f"{path}: {_name(index, child)}"
        if stored is None or due is None:
            here = ["no place" if place is None else "a place" for place in (stored, due)]
            yield Difference(f"view {kind}", where, *here)
            continue
        for name, one, other in zip(_PLACE[-len(due) :], stored, due, strict=True):
            if one != other:
                yield Difference(f"view {kind}", f"{where}: {name}", one, other)
    if not told:  # one of them twice, or in another order
        yield Difference(f"view {kind}", path, before, after)


def _node(path: str, before: tuple[Any, ...], after: tuple[Any, ...]) -> Iterator[Difference]:
    (was_below, was_at, was), (below, at, raw) = before, after
    if was_below != below:
        yield Difference("view nodes", f"{path}: parent in place", was_below, below)
    if was_at != at:
        yield Difference("view nodes", f"{path}: time in place", was_at, at)
    if was == raw:
        return
    told = False
    with suppress(ValueError):
        stored, replayed = decode(was), decode(raw)
        for one in fields(Node):
            value, due = getattr(stored, one.name), getattr(replayed, one.name)
            if value != due:
                told = True
                yield Difference("view nodes", f"{path}: {one.name}", value, due)
    if not told:  # what no field shows, as the order of the members
        yield Difference("view nodes", path, was, raw)
