"""How a thread's structure is written down: a head in JSON, and segments that are read one by one.

A segment is its columns one behind the other, little-endian, compressed by zlib, whose checksum tells a
damaged one. The first column of some kinds rises, and is written as differences, which are small.
It holds no text, no name and no author: nothing personal. Any of it may be deleted at any time.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice, pairwise
from typing import Any, Final

import orjson

from services.core.ranking import RANKED, RankedSort, score
from services.core.segments import (
    BELOW,
    COUNTS,
    CREATED,
    DOWN,
    HELD,
    MARKS,
    NUMBERS,
    OF_COMMENTS,
    ORDER,
    PLACES,
    RANK_KINDS,
    SEGMENT,
    STATE,
    TREE,
    TYPES,
    UP,
    Base,
    Columns,
    Key,
)
from services.core.structure import Structure

FORMAT: Final = 1
"""Snapshots of another format are left alone, and replaced."""

_DIFFERENCES: Final = frozenset({NUMBERS, PLACES})
_LEVEL: Final = 1
_SWAPPED: Final = sys.byteorder == "big"
_HEAD: Final = (
    *("version", "site", "key", "title", "url", "described_by", "closed", "visible"),
    *("size", "roots", "placed", "firsts", "lasts", "starts"),
)


class SnapshotBroken(Exception):
    """A snapshot does not hold what it should; whoever meets this removes it and does without."""


def encode(kind: str, columns: Columns) -> bytes:
    """One segment."""
    parts = []
    for number, column in enumerate(columns):
        values: Iterable[int] = column
        code = column.typecode
        if number == 0 and kind in _DIFFERENCES:
            code, values = "q", (after - before for before, after in pairwise((0, *column)))
        part = array(code, values)
        if _SWAPPED:
            part.byteswap()
        parts.append(part.tobytes())
    return zlib.compress(b"".join(parts), _LEVEL)


def decode(kind: str, data: bytes) -> Columns:
    """What `encode` was given. Raises SnapshotBroken."""
    types = TYPES[kind]
    stored = types if kind not in _DIFFERENCES else "q" + types[1:]
    sizes = [array(code).itemsize for code in stored]
    try:
        raw = zlib.decompress(data)
        length, rest = divmod(len(raw), sum(sizes))
        if rest or not length:
            raise ValueError(f"{len(raw)} bytes")
        columns: list[array[int]] = []
        start = 0
        for code, size in zip(stored, sizes, strict=True):
            column = array(code)
            column.frombytes(raw[start : start + size * length])
            start += size * length
            if _SWAPPED:
                column.byteswap()
            columns.append(column)
        if kind in _DIFFERENCES:
            columns[0] = array(types[0], accumulate(columns[0]))
    except (zlib.error, ValueError, OverflowError) as error:
        raise SnapshotBroken(f"a segment of {kind}: {error}") from error
    return tuple(columns)


def head_json(base: Base) -> bytes:
    """What a snapshot tells beside its segments, but the last event's hash."""
    told: dict[str, Any] = {name: getattr(base, name) for name in _HEAD}
    told["ranked"] = {kind: sorted(numbers) for kind, numbers in base.ranked.items()}
    return orjson.dumps(told)


def read_head(head: bytes, hash_: bytes) -> Base:
    """The Base of a stored head. Raises SnapshotBroken."""
    try:
        told = orjson.loads(head)
        ranked = {kind: frozenset(numbers) for kind, numbers in told.pop("ranked").items()}
        for name in ("firsts", "lasts", "starts"):
            told[name] = tuple(told[name])
        return Base(hash=hash_, ranked=ranked, **told)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SnapshotBroken(f"the head: {error!r}") from error


def whole(structure: Structure) -> Structure:
    """The same thread on no snapshot, to be folded on and written down: every segment of comments is loaded.

    What was folded onto it since is in it. It keeps no orders.
    """
    found = Structure(orders=False)
    for name in ("version", "last_hash", "site", "key", "title", "url", "described_by", "closed"):
        setattr(found, name, getattr(structure, name))
    found.visible, found.size = structure.visible, structure.size
    for kind in OF_COMMENTS:
        columns = found.new[kind]
        for number in range(len(structure.base.firsts)):
            for column, part in zip(columns, structure.segments[kind, number], strict=True):
                column.extend(part)
        for column, part in zip(columns, structure.new[kind], strict=True):
            column.extend(part)
    return found


def written(structure: Structure) -> tuple[Base, Iterator[tuple[Key, bytes]]]:
    """A snapshot of what `whole` gave, or of what was folded from the start without orders; its segments are
    made as they are asked for, and the thread may not be folded on meanwhile."""
    size = structure.size
    _count_below(structure)
    counts, starts, roots, order = _order(structure)
    numbers = structure.new[NUMBERS][0]
    edges = range(0, size, SEGMENT)
    ranks = {RANK_KINDS[sort]: _ranks(structure, sort, counts, starts, roots, order) for sort in RANKED}
    base = Base(
        version=structure.version,
        hash=structure.last_hash,
        site=structure.site,
        key=structure.key,
        title=structure.title,
        url=structure.url,
        described_by=structure.described_by,
        closed=structure.closed,
        visible=structure.visible,
        size=size,
        roots=roots,
        placed=len(order),
        firsts=tuple(numbers[edge] for edge in edges),
        lasts=tuple(numbers[min(edge + SEGMENT, size) - 1] for edge in edges),
        starts=tuple(starts[edge] for edge in edges),
        ranked={kind: frozenset(parts) for kind, parts in ranks.items()},
    )
    return base, _segments(structure, counts, order, ranks)


def _segments(
    structure: Structure, counts: array[int], order: array[int], ranks: dict[str, dict[int, array[int]]]
) -> Iterator[tuple[Key, bytes]]:
    kinds: list[tuple[str, Columns]] = [(kind, structure.new[kind]) for kind in OF_COMMENTS]
    kinds += [(COUNTS, (counts,)), (ORDER, (order,))]
    for kind, columns in kinds:
        for edge in range(0, len(columns[0]), SEGMENT):
            part = tuple(column[edge : edge + SEGMENT] for column in columns)
            yield (kind, edge // SEGMENT), encode(kind, part)
    for kind, parts in ranks.items():
        for number, ranked in parts.items():
            yield (kind, number), encode(kind, (ranked,))


def _count_below(structure: Structure) -> None:
    tree, marks = structure.new[TREE][0], structure.new[MARKS]
    states = marks[STATE]
    below = [0] * len(tree)
    for ordinal in range(len(tree) - 1, -1, -1):
        if (parent := tree[ordinal]) and states[ordinal] != HELD:
            below[parent - 1] += below[ordinal] + 1
    marks[BELOW][:] = array("I", below)


def _order(structure: Structure) -> tuple[array[int], array[int], int, array[int]]:
    """How many replies each comment has in the order, where they begin there, how many roots, the order."""
    tree, states = structure.new[TREE][0], structure.new[MARKS][STATE]
    created = structure.new[PLACES][CREATED]
    is_any_held = HELD in states
    placed = [p for p, s in zip(tree, states, strict=True) if s != HELD] if is_any_held else tree
    counted = Counter(placed)
    roots = counted[0]
    counts = array("I", (counted[ordinal] for ordinal in range(1, len(tree) + 1)))
    starts = array("I", islice(accumulate(counts, initial=roots), len(tree)))
    order = array("I", bytes(4 * len(placed)))
    free = [0, *starts]
    last: dict[int, int] = {}
    late: set[int] = set()
    for ordinal, parent in enumerate(tree):
        if is_any_held and states[ordinal] == HELD:
            continue
        place = free[parent]
        order[place] = ordinal
        free[parent] = place + 1
        when = created[ordinal]
        if when < last.get(parent, when):
            late.add(parent)
        last[parent] = when
    for parent in late:
        first, count = (starts[parent - 1], counts[parent - 1]) if parent else (0, roots)
        siblings = sorted(order[first : first + count], key=lambda ordinal: float(created[ordinal]))
        order[first : first + count] = array("I", siblings)
    return counts, starts, roots, order


def _ranks(
    structure: Structure,
    sort: RankedSort,
    counts: array[int],
    starts: array[int],
    roots: int,
    order: array[int],
) -> dict[int, array[int]]:
    """The segments of a ranked order in which a list is not in order of time."""
    tree, marks = structure.new[TREE][0], structure.new[MARKS]
    up, down, below, states = marks[UP], marks[DOWN], marks[BELOW], marks[STATE]
    counted = below if sort == "replies" else up
    parents = {tree[o] for o, value in enumerate(counted) if value and states[o] != HELD}
    parts: dict[int, array[int]] = {}
    changed: dict[int, list[tuple[int, list[int]]]] = {}
    for parent in parents:
        first, count = (starts[parent - 1], counts[parent - 1]) if parent else (0, roots)
        if count == 1:
            continue
        scores = [-score(sort, up[o], down[o], below[o]) for o in order[first : first + count]]
        ranked = sorted(range(count), key=scores.__getitem__)
        if any(place != number for number, place in enumerate(ranked)):
            changed.setdefault(first // SEGMENT, []).append((first, ranked))
            for number in range(first // SEGMENT, (first + count - 1) // SEGMENT + 1):
                parts[number] = array("I")
    if not parts:
        return parts
    # Beside those lists, the others in their segments: each in order of time.
    for number in parts:
        edge = number * SEGMENT
        parts[number] = _in_time(edge, min(edge + SEGMENT, len(order)), tree, starts, order)
    for lists in changed.values():
        for first, ranked in lists:
            for number in range(first // SEGMENT, (first + len(ranked) - 1) // SEGMENT + 1):
                edge = number * SEGMENT
                begin, end = max(first, edge), min(first + len(ranked), edge + SEGMENT)
                parts[number][begin - edge : end - edge] = array("I", ranked[begin - first : end - first])
    return parts


def _in_time(begin: int, end: int, tree: array[int], starts: array[int], order: array[int]) -> array[int]:
    """The number among its siblings of each comment in these places of the order."""
    firsts = ((starts[parent - 1] if parent else 0) for parent in (tree[o] for o in order[begin:end]))
    return array("I", (place - first for place, first in zip(range(begin, end), firsts, strict=True)))
