"""The key map of the views.

FORMAT names the layout below, the renderer of the text inside it, and the dictionary that it is compressed
with. Another format is another prefix: a release that changes it meets a cold cache, not keys that it would
misread.
Every key of a thread carries the thread's stream id as its hash tag, so that all of them lie in one slot of a
cluster and a script may name those it finds out on its way.
Inside a view a comment is known by its posting version (the version of the event that posted it): <p>, 4
bytes big-endian, in the names of keys too; the roots stand below the posting version 0.

    tl:<format>:{<stream>}:head            hash   version, hash (of the event at version), build, meta (JSON
                                                  list: site, key, title, url, described_by, closed, visible),
                                                  stale ("1" where the view is parked, else ""), size
                                                  (the numbers of elements in :n, :i, :d, :o, and in the lists
                                                  of the roots, :k, :b, :c, :r)
    tl:<format>:{<stream>}:<build>:n       hash   <p> -> node as stored (frames.py)
    tl:<format>:{<stream>}:<build>:i       hash   comment id, 16 bytes -> <p>
    tl:<format>:{<stream>}:<build>:d       hash   <p> -> how many replies it has, 4 bytes; how many comments
                                                  lie below it, 4 bytes; which ranked lists its replies
                                                  have, 1 byte (1 :b, 2 :c, 4 :r); the first 5 replies by
                                                  time, 4 bytes each: most pages need no other list. Only
                                                  where there are any replies, so that its fields name every
                                                  key of a list
    tl:<format>:{<stream>}:<build>:o       hash   <p> -> the author who alone sees its text (hidden comments)
    tl:<format>:{<stream>}:<build>:k:<p>   zset   the replies to p: member = posting version; score =
                                                  created_at in µs
    tl:<format>:{<stream>}:<build>:b:<p>   zset   the replies to p that have a score other than 0 in `best`:
                                                  score = that score, negative; member = created_at in µs,
                                                  8 bytes big-endian, and posting version
    tl:<format>:{<stream>}:<build>:c:<p>   zset   the same for `controversial`
    tl:<format>:{<stream>}:<build>:r:<p>   zset   the same for `replies`
    tl:<format>:{<stream>}:<build>:h       hash   size, as in the head, of a build that is not yet a view
    tl:<format>:builds                     zset   builds that are not, or no longer, a view: member =
                                                  <stream>:<build>; score = when last written, Unix seconds
    tl:<format>:{<stream>}:lease, :wanted  who builds the view, and that it is missed (leases.py)
    tl:reads                               zset   every view, and when it was read last (recency.py)
    tl:log                                 hash   of which log the views are, by format (recency.py)
    tl:live:{<stream>}                     channel  hints that the view moved: its version (announcements.py);
                                                  without the format, so that releases hear each other
    tl:told                                channel  hints that people were told of something (told.py)

The head is written last and read first, in the same script as what it stands for. A build without a head is
nobody's; `builds` remembers it until its keys are unlinked.
Redis drops whole keys or none. A lost :n, :i, :d, :o or list of the roots differs from `size`, a lost list of
replies from :d. Every script that reads or writes a view looks before it does, so that a write never begins a
lost key anew.
Equal scores are ordered by member, and big-endian bytes compare as the numbers do: in every list equal ones
go by time, oldest first. Most comments have no score in the ranked orders, and stand in no ranked list: they
follow behind it, in the order of time.
"""

from __future__ import annotations

from typing import Final, Literal
from uuid import UUID

from services.core.markup import RENDERER
from services.core.ranking import RankedSort
from services.readmodel.frames import DIGEST

LAYOUT: Final = 4
FORMAT: Final = f"{LAYOUT}.{RENDERER}.{DIGEST}"
POSTED_BYTES: Final = 4
BUILDS: Final = f"tl:{FORMAT}:builds"


def prefix(stream_id: UUID) -> str:
    """What all keys of the thread begin with."""
    return f"tl:{FORMAT}:{{{stream_id.hex}}}:"


def head(stream_id: UUID) -> str:
    return prefix(stream_id) + "head"


def build(stream_id: UUID, token: str) -> str:
    """What all keys of a build begin with."""
    return f"{prefix(stream_id)}{token}:"


def nodes(stream_id: UUID, token: str) -> str:
    return build(stream_id, token) + "n"


def ids(stream_id: UUID, token: str) -> str:
    return build(stream_id, token) + "i"


def descendants(stream_id: UUID, token: str) -> str:
    return build(stream_id, token) + "d"


def overlay(stream_id: UUID, token: str) -> str:
    return build(stream_id, token) + "o"


def unfinished(stream_id: UUID, token: str) -> str:
    """Where a build keeps its size until it is a view."""
    return build(stream_id, token) + "h"


LISTS: Final[dict[RankedSort | Literal["order"], str]] = {
    "order": "k",
    "best": "b",
    "controversial": "c",
    "replies": "r",
}
"""The letter of each list's keys: "order" is the one by time."""


def children(stream_id: UUID, token: str, parent: int, of: RankedSort | Literal["order"] = "order") -> bytes:
    """The list of the replies to the comment posted at `parent` (0: the roots)."""
    return f"{build(stream_id, token)}{LISTS[of]}:".encode() + posted(parent)


def lists(stream_id: UUID, token: str) -> list[bytes]:
    """What the keys of `children` begin with, of each kind: the parent follows."""
    prefix = build(stream_id, token).encode()
    return [prefix + letter.encode() + b":" for letter in LISTS.values()]


def posted(version: int) -> bytes:
    """A posting version, as a field, a member or the end of a key."""
    return version.to_bytes(POSTED_BYTES, "big")


def channel(stream_id: UUID) -> str:
    """Where it is published that the thread's view moved on."""
    return f"tl:live:{{{stream_id.hex}}}"
