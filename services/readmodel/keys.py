"""The key map of the views.

FORMAT names the layout below and the renderer of the text inside it. Another format is another prefix: a
release that changes it meets a cold cache, not keys that it would misread.
Every key of a thread carries the thread's stream id as its hash tag, so that all of them lie in one slot of a
cluster and a script may name those it finds out on its way.
Inside a view a comment is known by its posting version (the version of the event that posted it).

    tl:<format>:{<stream>}:head            hash   version, hash (of the event at version), build, meta (JSON
                                                  list: site, key, title, url, described_by, closed, visible),
                                                  stale ("1" where the view is parked, else ""), size
                                                  (the numbers of nodes, ids, descendants, roots)
    tl:<format>:{<stream>}:<build>:n       hash   posting version -> node (services/core/node.py)
    tl:<format>:{<stream>}:<build>:i       hash   comment id, 16 bytes -> posting version
    tl:<format>:{<stream>}:<build>:d       hash   posting version -> how many comments lie below it; only
                                                  where there are any, so that its fields name every :k: key
    tl:<format>:{<stream>}:<build>:k:<p>   zset   the replies to p, the roots for p = 0: member = posting
                                                  version, 4 bytes big-endian; score = created_at in µs
    tl:<format>:builds                     zset   builds that are not, or no longer, a view: member =
                                                  <stream>:<build>; score = when last written, Unix seconds

The head is written last and read first, in the same script as what it stands for. A build without a head is
nobody's; `builds` remembers it until its keys are unlinked.
Redis drops whole keys or none. A lost :n, :i, :d or :k:0 differs from `size`; a lost :k:<p> from :d, which
counts what lies below p. Every script that reads or writes a view looks before it does, so that a write never
begins a lost key anew.
Equal scores are ordered by member, and big-endian bytes compare as the numbers do.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from services.core.markup import RENDERER

LAYOUT: Final = 3
FORMAT: Final = f"{LAYOUT}.{RENDERER}"
BUILDS: Final = f"tl:{FORMAT}:builds"


def prefix(stream_id: UUID) -> str:
    """What all keys of the thread begin with."""
    return f"tl:{FORMAT}:{{{stream_id.hex}}}:"


def head(stream_id: UUID) -> str:
    return prefix(stream_id) + "head"


def nodes(stream_id: UUID, build: str) -> str:
    return f"{prefix(stream_id)}{build}:n"


def ids(stream_id: UUID, build: str) -> str:
    return f"{prefix(stream_id)}{build}:i"


def descendants(stream_id: UUID, build: str) -> str:
    return f"{prefix(stream_id)}{build}:d"


def children(stream_id: UUID, build: str, parent: int | str = "") -> str:
    """The key of the replies to `parent`; without it, what all such keys of the build begin with."""
    return f"{prefix(stream_id)}{build}:k:{parent}"
