"""The register of advisory locks. Each is a two-int key: a class from here, and what it locks."""

from __future__ import annotations

from enum import IntEnum


class LockClass(IntEnum):
    """First half of an advisory lock's key; the second is said beside each class."""

    LANE = 0x746C01
    """The lane's number. Held from before the load of a batch until its commit."""
    MIGRATION = 0x746C02
    """0."""
    MAINTENANCE = 0x746C03
    """0. Held by the worker that makes and drops partitions."""
    SWEEPER = 0x746C04
    """The lane's number. Held by the worker that sweeps it."""
    SNAPSHOTS = 0x746C05
    """Four bytes of a stream's id. Held by the process that writes its snapshots."""
    ROTATION = 0x746C09
    """0. Held by the run that rotates the master key."""
