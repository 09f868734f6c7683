"""Comparing a thread's snapshots with its log: what a fold makes of it at each of their versions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import fields
from typing import Final
from uuid import UUID

from services.core.segments import SEGMENT, TYPES, Base, Columns, Key
from services.core.snapshot import SnapshotBroken, decode, written
from services.core.structure import Structure
from services.eventlog.snapshots import Snapshots
from services.eventlog.state import Difference
from services.projection.snapshotting import fold_on

KIND: Final = "snapshot"
_CHUNK: Final = 5_000


async def differences(snapshots: Snapshots, stream_id: UUID) -> list[Difference]:
    """What of the stream's snapshots is not as the log has it. The log can be folded up to each of them."""
    found: list[Difference] = []
    thread = Structure(orders=False)
    for version in await snapshots.versions(stream_id):
        while thread.version < version:
            steps = await snapshots.steps(stream_id, thread.version, version, _CHUNK)
            if not steps or not await asyncio.to_thread(fold_on, thread, steps):
                break
        if thread.version < version:
            found.append(Difference(KIND, str(version), version, thread.version))
            break
        found += await _compared(snapshots, stream_id, thread)
    return found


async def _compared(snapshots: Snapshots, stream_id: UUID, thread: Structure) -> list[Difference]:
    version = thread.version
    base, segments = await asyncio.to_thread(written, thread)
    try:
        stored = await snapshots.at(stream_id, version)
    except SnapshotBroken as error:
        return [Difference(KIND, str(version), str(error), "a snapshot")]
    if stored is None or stored.version != version:
        return []  # a later one has taken its place
    found = list(_heads(stored, base))
    replayed = await asyncio.to_thread(dict, segments)
    for kind in TYPES:
        kept: dict[Key, bytes] = {}
        async for some in snapshots.all_segments(stream_id, version, kind):
            kept.update(some)
        wanted = {key: data for key, data in replayed.items() if key[0] == kind}
        found += await asyncio.to_thread(lambda: list(_kinds(version, kept, wanted)))  # noqa: B023 - awaited
    return found


def _heads(stored: Base, replayed: Base) -> Iterator[Difference]:
    for one in fields(Base):
        before, after = getattr(stored, one.name), getattr(replayed, one.name)
        if before != after:
            yield Difference(KIND, f"{replayed.version}.{one.name}", before, after)


def _kinds(version: int, kept: dict[Key, bytes], wanted: dict[Key, bytes]) -> Iterator[Difference]:
    for key in sorted(kept.keys() | wanted.keys()):
        before, after = kept.get(key), wanted.get(key)
        if before == after:
            continue
        path = f"{version}.{key[0]}.{key[1]}"
        if before is None or after is None:
            yield Difference(KIND, path, _there(before), _there(after))
            continue
        try:
            stored = decode(key[0], before)
        except SnapshotBroken as error:
            yield Difference(KIND, path, str(error), "a segment")
            continue
        yield from _elements(f"{version}.{key[0]}", key[1] * SEGMENT, stored, decode(key[0], after))


def _elements(path: str, first: int, stored: Columns, replayed: Columns) -> Iterator[Difference]:
    for column, (before, after) in enumerate(zip(stored, replayed, strict=True)):
        if len(before) != len(after):
            yield Difference(KIND, f"{path}.{first}", f"{len(before)} elements", f"{len(after)} elements")
            continue
        for place, (was, is_) in enumerate(zip(before, after, strict=True)):
            if was != is_:
                yield Difference(KIND, f"{path}.{first + place}.{column}", was, is_)


def _there(data: bytes | None) -> str:
    return "no segment" if data is None else "a segment"
