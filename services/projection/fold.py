"""Folding events into what the view stores: structure first, then text.

`evolve` folds the structure without opening anything. `Texts` then opens and renders the texts of the
comments that are to be written, each once, in its last version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import orjson

from schema.events.envelope import Recorded, chain_of
from schema.events.registry import UPCASTERS
from services.core.node import (
    NO_AUTHOR,
    NO_TEXT,
    author_fragment,
    decode,
    encode,
    said_in_prose,
    text_fragment,
)
from services.core.thread import Comment, CommentState, ThreadState, evolve
from services.errors import PoisonEvent, StreamBroken, where
from services.eventlog.keys import AuthorKey, Keyring, SealBroken
from services.eventlog.log import EventLog
from services.readmodel.records import Touched

CHUNK: Final = 1000
"""Events read, folded and written together."""

OFF_LOOP: Final = 100
"""Events or comments that are worked on at a stretch. More of them go in slices, between which the event loop
has its turn, or in a thread."""

TEXTS: Final = 1 << 20
"""Bytes of sealed text that one step brings into a view, at most, beside a single longer one."""

_BADGE: Final = b'{"badge":'
"""What canonical JSON begins with where it has such a member: no other of a posting comes before it."""

Fragments = tuple[bytes, bytes]
"""A comment's author and text, as its node holds them."""


@dataclass(slots=True)
class Folded:
    """One chunk folded: the comments it touched by posting version, which of them are new, and by how much
    the number of comments below each ancestor grew."""

    touched: dict[int, Comment] = field(default_factory=dict)
    added: list[Comment] = field(default_factory=list)
    descendants: dict[int, int] = field(default_factory=dict)
    voted: set[int] = field(default_factory=set)
    """Those whose votes changed."""


def verify_chain(previous: bytes, version: int, events: Iterable[Recorded]) -> None:
    """Check that `events` follow version `version`, whose hash is `previous`, densely and chained.

    Raises StreamBroken at the first that does not.
    """
    for event in events:
        version += 1
        if event.version != version:
            raise StreamBroken(event.stream_id, version, "the version is missing")
        if chain_of(previous, event) != event.hash:
            raise StreamBroken(event.stream_id, version, "the hash chain does not hold")
        previous = event.hash


def at_once(events: list[Recorded]) -> list[Recorded]:
    """The first of these events, as far as their texts may be written to Redis in one call."""
    size = 0
    for count, event in enumerate(events):
        size += len(event.sealed or b"")
        if size > TEXTS and count:
            return events[:count]
    return events


def subjects(events: Sequence[Recorded]) -> tuple[set[UUID], set[int]]:
    """What a chunk needs of the view: the ids of the older comments that it is about, and the posting
    versions of those that it replies to."""
    first = events[0].version
    ids: set[UUID] = set()
    parents: set[int] = set()
    for event in events:
        try:
            payload = orjson.loads(event.data)
            if event.type == "ReplyPosted":
                if isinstance(payload["parent"], int) and 0 < payload["parent"] < first:
                    parents.add(payload["parent"])
            elif "comment_id" in payload and payload["posted"] < first:
                ids.add(UUID(payload["comment_id"]))
        except (AttributeError, KeyError, TypeError, ValueError):
            continue  # the fold meets it again, and names it as poison
    return ids, parents


def resume(thread: ThreadState, touched: Touched) -> tuple[dict[int, int], dict[int, Fragments]]:
    """Lay what the view holds into `thread`; the parent of each posting version, and the known fragments."""
    parents: dict[int, int] = {}
    known: dict[int, Fragments] = {}
    for comment_id, (posted, raw) in touched.nodes.items():
        node = decode(raw)
        thread.comments[comment_id] = node.comment(posted)
        known[posted] = (node.author, node.text)
    for posted, chain in touched.chains.items():
        below = posted
        for above in (*chain, 0):
            parents[below] = above
            below = above
    return parents, known


def evolve_all(thread: ThreadState, events: Iterable[Recorded]) -> None:
    """Fold events onto the whole state of a thread. Raises PoisonEvent, UnknownEventType."""
    if not thread.version and thread.posted is None:
        thread.posted = {}
    for event in events:
        evolve(thread, event)


def fold(thread: ThreadState, parents: dict[int, int], events: Sequence[Recorded]) -> Folded:
    """Fold a chunk's structure onto the part of `thread` that a view gave; `parents` grows by what is posted.

    Raises PoisonEvent, UnknownEventType.
    """
    folded = Folded()
    for event in events:
        comment = evolve(thread, event)
        if comment is None:
            continue
        try:
            _take(folded, parents, event, comment)
        except (PoisonEvent, MemoryError):
            raise
        except Exception as error:  # no I/O here either: it is this event that cannot be applied
            raise PoisonEvent(event.stream_id, event.version, event.event_id, where(error)) from error
    return folded


def _take(folded: Folded, parents: dict[int, int], event: Recorded, comment: Comment) -> None:
    """Note what an event that was applied did to the view."""
    folded.touched[comment.posted] = comment
    if event.type == "CommentVoted":
        folded.voted.add(comment.posted)
    if comment.posted != event.version:
        return
    folded.added.append(comment)
    parents[comment.posted] = above = comment.parent
    while above:
        folded.descendants[above] = folded.descendants.get(above, 0) + 1
        if above not in parents:
            reason = f"no comment was posted at version {above}"
            raise PoisonEvent(event.stream_id, event.version, event.event_id, reason)
        above = parents[above]


class Texts:
    """Opens and renders the texts of comments."""

    def __init__(self, log: EventLog, keyring: Keyring) -> None:
        self._log = log
        self._keyring = keyring

    async def nodes(
        self,
        stream_id: UUID,
        comments: Sequence[Comment],
        *,
        events: Mapping[int, Recorded],
        known: Mapping[int, Fragments],
    ) -> dict[int, bytes]:
        """The node of each comment, by posting version.

        `known` holds the fragments of comments whose text a view has, `events` those events that are at hand;
        the others are read from the log. Raises PoisonEvent where a text does not open.
        """
        wanted = {version for comment in comments for version in _sources(comment, known)}
        missing = [version for version in wanted if version not in events]
        if missing:
            found = await self._log.events_at(stream_id, sorted(missing))
            events = {**events, **{event.version: event for event in found}}
        key_ids = {events[version].key_id for version in wanted if version in events}
        keys = await self._keyring.by_id(key_id for key_id in key_ids if key_id is not None)
        nodes: dict[int, bytes] = {}
        # In slices, as the fold, rather than in a thread: see `Projector.structure`.
        for begin in range(0, len(comments), OFF_LOOP):
            if begin:
                await asyncio.sleep(0)
            nodes |= _nodes(comments[begin : begin + OFF_LOOP], events, keys, known)
        return nodes


def _sources(comment: Comment, known: Mapping[int, Fragments]) -> tuple[int, ...]:
    """The versions of the events that a comment's author and text are taken from."""
    if comment.state is CommentState.ERASED:
        return ()
    if comment.posted in known:
        return (comment.text_version,) if comment.text_version else ()
    if comment.posted == comment.text_version:
        return (comment.posted,)
    return (comment.posted, comment.text_version)


def _nodes(
    comments: Sequence[Comment],
    events: Mapping[int, Recorded],
    keys: Mapping[UUID, AuthorKey],
    known: Mapping[int, Fragments],
) -> dict[int, bytes]:
    nodes: dict[int, bytes] = {}
    for comment in comments:
        try:
            nodes[comment.posted] = encode(comment, *_fragments(comment, events, keys, known))
        except (PoisonEvent, MemoryError):
            raise
        except Exception as error:  # no I/O here: whatever it is, this comment cannot be shown
            sources = _sources(comment, known)
            if not sources or any(version not in events for version in sources):
                raise
            event = events[max(sources)]
            raise PoisonEvent(event.stream_id, event.version, event.event_id, where(error)) from error
    return nodes


def _fragments(
    comment: Comment,
    events: Mapping[int, Recorded],
    keys: Mapping[UUID, AuthorKey],
    known: Mapping[int, Fragments],
) -> Fragments:
    if comment.state is CommentState.ERASED:
        return NO_AUTHOR, NO_TEXT  # whoever still has the key, or the fragments
    edited = comment.text_version not in (0, comment.posted)
    kept = known.get(comment.posted)
    if kept is not None:
        author, text = kept
    else:
        posting = events[comment.posted]
        sealed = _open(posting, keys)
        if sealed is None:
            return NO_AUTHOR, NO_TEXT
        if not edited and comment.author_id is not None and not posting.data.startswith(_BADGE):
            found = said_in_prose(comment.author_id, sealed)
            if found is not None:
                return found
        said = orjson.loads(sealed)
        author = author_of(comment, posting, said)
        text = NO_TEXT if edited else text_fragment(said["body"])
    if edited:
        edit = open_text(events[comment.text_version], keys)
        text = NO_TEXT if edit is None else text_fragment(edit["body"])
    return author, text


def author_of(comment: Comment, posting: Recorded, text: Mapping[str, str]) -> bytes:
    """The author's fragment of a comment, from the event that posted it and what was sealed there."""
    badge = None
    if posting.data.startswith(_BADGE):  # in very few: no other event is parsed once more
        badge = UPCASTERS.payload(posting.type, posting.schema_version, posting.data).get("badge")
    return author_fragment(comment.author_id, text["name"], text.get("avatar"), badge)


def open_text(event: Recorded, keys: Mapping[UUID, AuthorKey]) -> dict[str, str] | None:
    """What is sealed in an event; None where nothing is, or where its key is destroyed.

    Raises PoisonEvent where it does not open.
    """
    sealed = _open(event, keys)
    return None if sealed is None else orjson.loads(sealed)


def _open(event: Recorded, keys: Mapping[UUID, AuthorKey]) -> bytes | None:
    """As `open_text`, as JSON."""
    if event.sealed is None or event.key_id is None:
        return None
    key = keys.get(event.key_id)
    if key is None:
        return None
    try:
        return key.open_json(event.event_id, event.stream_id, event.sealed)
    except SealBroken as error:
        raise PoisonEvent(event.stream_id, event.version, event.event_id, str(error)) from error
