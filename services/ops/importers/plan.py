"""The order in which imported comments enter the log: thread by thread, parents before children.

A file may put children first, lack parents, repeat ids and close circles. Its records are spooled to a
temporary SQLite database on disk, so bodies are never held; of one thread at a time only ids, parents and
times are in memory. Reading the whole file before the first comment is written also means that a damaged
file, which raises `ImportRefused` in `Spool.load`, can be refused before anything of it is in the log.

Event ids follow from site, thread, source id and time (of a placeholder without its time) alone: the same
file again gives the same ids.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self, TypeAlias
from uuid import UUID

from schema.events.envelope import EPOCH, micros
from services.core.addresses import event_id_at
from services.ops.importers.records import (
    ImportedComment,
    ImportedThread,
    ImportRefused,
    Noted,
    Record,
    Report,
    Skipped,
)

DEEPEST: Final = 1_000
"""Deepest level of a comment (contract, 2); roots lie at 0."""

THREAD_COMMENTS: Final = 2_000_000
"""Most comments of one thread; planning holds some 500 bytes of each."""

PROGRESS_EVERY: Final = 1_000
"""Records between two calls of `progress`."""

_CACHE_KIB: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Stands for a parent that the file lacks: a deleted root, as old as its first child."""

    source_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Planned:
    """One comment to write. `parent_id` is the event id of one planned earlier in the same thread."""

    comment: ImportedComment | Placeholder
    event_id: UUID
    parent_id: UUID | None
    depth: int


@dataclass(frozen=True, slots=True)
class Node:
    """The shape of a comment without its text; `place` is where the file has it, ascending."""

    place: int
    source_id: str
    parent: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Step:
    """Node or placeholder in its turn, below `parent`."""

    node: Node | Placeholder
    parent: Node | Placeholder | None
    depth: int


Fetch: TypeAlias = Callable[[int], ImportedComment]


def import_event_id(site: str, thread_key: str, source_id: str, created_at: datetime) -> UUID:
    """The event id of an imported comment: the same on every run."""
    # None of the three can hold a NUL, so two different triples never share a seed.
    return event_id_at(created_at, f"import\0{site}\0{thread_key}\0{source_id}".encode())


def _event_id(site: str, thread_key: str, node: Node | Placeholder) -> UUID:
    # A later export may have an older child of the same missing comment: its placeholder's id holds no time.
    created_at = EPOCH if isinstance(node, Placeholder) else node.created_at
    return import_event_id(site, thread_key, node.source_id, created_at)


def arrange(nodes: Iterable[Node]) -> Iterator[Step | Skipped]:
    """`nodes`, the comments of one thread, oldest first as far as parents stand before their children.

    Equal times keep the order of the file. A parent that is nowhere becomes a `Placeholder`, right before
    the first of its children. A second comment with an id, the comments of a circle, and those below
    `DEEPEST` are skipped; what hangs on a circle goes below a placeholder.
    """
    known: dict[str, Node] = {}
    for node in nodes:
        if node.source_id in known:
            yield Skipped(f"comment {node.source_id}", "another comment has the same id")
        else:
            known[node.source_id] = node
    circular = _circular(known)
    for source_id in circular:
        yield Skipped(f"comment {source_id}", "its parents form a circle")
        del known[source_id]

    children: dict[str, list[Node]] = {}
    ready: list[tuple[datetime, int, int, Step]] = []
    for node in known.values():
        if node.parent is None:
            ready.append((node.created_at, node.place, 1, Step(node, None, 0)))
        else:
            children.setdefault(node.parent, []).append(node)
    for missing, orphans in children.items():
        if missing not in known:
            first = min(orphans, key=lambda node: (node.created_at, node.place))
            step = Step(Placeholder(missing, first.created_at), None, 0)
            ready.append((first.created_at, first.place, 0, step))

    # The oldest of those whose parent is out comes next. The third of the key puts a placeholder before the
    # child whose time and place it borrowed, and makes keys unique, so that steps are never compared.
    heapq.heapify(ready)
    while ready:
        _, _, _, step = heapq.heappop(ready)
        if step.depth > DEEPEST:
            yield Skipped(f"comment {step.node.source_id}", f"lies more than {DEEPEST:,} levels deep")
        else:
            yield step
        for node in children.pop(step.node.source_id, ()):
            heapq.heappush(ready, (node.created_at, node.place, 1, Step(node, step.node, step.depth + 1)))


def _circular(known: dict[str, Node]) -> list[str]:
    """The ids of the comments that are their own ancestors, in file order."""
    circular: set[str] = set()
    settled: set[str] = set()
    for start in known:
        trail: dict[str, None] = {}
        at: str | None = start
        while at is not None and at in known and at not in settled and at not in trail:
            trail[at] = None
            at = known[at].parent
        if at is not None and at in trail:
            ids = list(trail)
            circular.update(ids[ids.index(at) :])
        settled.update(trail)
    return [source_id for source_id in known if source_id in circular]


def plan(comments: Iterable[ImportedComment], *, site: str) -> Iterator[Planned | Skipped]:
    """The plan of one thread that is small enough to be held; `Spool.plan` gives the same of any."""
    held = list(comments)
    nodes = (Node(place, c.source_id, c.parent_source_id, c.created_at) for place, c in enumerate(held))
    key = held[0].thread_key if held else ""
    return _planned(arrange(nodes), held.__getitem__, site, key)


def _planned(
    steps: Iterable[Step | Skipped], fetch: Fetch, site: str, key: str
) -> Iterator[Planned | Skipped]:
    for step in steps:
        if isinstance(step, Skipped):
            yield step
            continue
        node, parent = step.node, step.parent
        yield Planned(
            comment=node if isinstance(node, Placeholder) else fetch(node.place),
            event_id=_event_id(site, key, node),
            parent_id=None if parent is None else _event_id(site, key, parent),
            depth=step.depth,
        )


class Spool:
    """The records of one file on disk, in a private database that is gone with this object, or the process.

    Used as a context manager and by one thread at a time. Nothing of it is kept: it exists to sort.
    """

    def __init__(self, *, site: str) -> None:
        self._site = site
        # An empty name is SQLite's own temporary file: unlinked while open, so that no crash leaves text
        # behind.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            f"""
            pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -{_CACHE_KIB}; create
            table threads (number integer primary key, key text not null unique, title text, url text);
            create table comments (place integer primary key, thread integer not null, source_id text not
            null,
                parent text, author_id text not null, author_name text not null, created_at integer not null,
                body text not null);
            create index comments_by_thread on comments (thread, place);
            begin;
            """
        )
        self._latest: tuple[str, int] | None = None
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def load(
        self, records: Iterable[Record], report: Report, progress: Callable[[Report], None] | None = None
    ) -> None:
        """Take all `records`, and count in `report` what a reader skipped or noted.

        A damaged file raises `ImportRefused` here, when its whole records before the damage are spooled;
        whether these are imported is the caller's to decide. `progress` is called now and then, with the
        report so far.
        """
        for count, record in enumerate(records, 1):
            match record:
                case ImportedComment():
                    self._add(record)
                    report.comments += 1
                case ImportedThread():
                    self._describe(record)
                case Skipped():
                    report.skip(record)
                case Noted():
                    report.note(record)
            report.threads = self._count
            if progress is not None and count % PROGRESS_EVERY == 0:
                progress(report)

    def check(self) -> None:
        """Raise `ImportRefused` where a thread has more than `THREAD_COMMENTS`; to be asked first."""
        row = self._db.execute(
            "select key from threads where number ="
            " (select thread from comments group by thread having count(*) > ? limit 1)",
            (THREAD_COMMENTS,),
        ).fetchone()
        if row is not None:
            raise ImportRefused(f"has more than {THREAD_COMMENTS:,} comments", f"thread {row[0]!r}")

    def threads(self) -> Iterator[ImportedThread]:
        """Every thread, in the order of the file."""
        # Its own steps, not one open cursor: plans are read in between.
        last = 0
        while row := self._db.execute(
            "select number, key, title, url from threads where number > ? order by number limit 1", (last,)
        ).fetchone():
            last = int(row[0])
            yield ImportedThread(row[1], row[2], row[3])

    def plan(self, thread_key: str) -> Iterator[Planned | Skipped]:
        """The comments of one thread in the order to write them in, and those that cannot be placed.

        What it holds in memory is bounded where `check` was called.
        """
        found = self._db.execute("select number from threads where key = ?", (thread_key,)).fetchone()
        if found is None:
            return
        yield from _planned(
            arrange(self._nodes(int(found[0]))),
            lambda place: self._fetch(place, thread_key),
            self._site,
            thread_key,
        )

    def _describe(self, thread: ImportedThread) -> None:
        # The first item with a key gives title and link; a later one can only fill what is missing.
        number = self._number(thread.key)
        self._db.execute(
            "update threads set title = coalesce(title, ?), url = coalesce(url, ?) where number = ?",
            (thread.title, thread.url, number),
        )

    def _number(self, key: str) -> int:
        if self._latest is not None and self._latest[0] == key:
            return self._latest[1]
        row = self._db.execute("select number from threads where key = ?", (key,)).fetchone()
        if row is None:
            row = self._db.execute("insert into threads (key) values (?) returning number", (key,)).fetchone()
            self._count += 1
        self._latest = (key, int(row[0]))
        return self._latest[1]

    def _add(self, comment: ImportedComment) -> None:
        self._db.execute(
            "insert into comments (thread, source_id, parent, author_id, author_name, created_at, body)"
            " values (?, ?, ?, ?, ?, ?, ?)",
            (
                self._number(comment.thread_key),
                comment.source_id,
                comment.parent_source_id,
                comment.author_id,
                comment.author_name,
                micros(comment.created_at),
                comment.body,
            ),
        )

    def _nodes(self, number: int) -> Iterator[Node]:
        rows = self._db.execute(
            "select place, source_id, parent, created_at from comments where thread = ? order by place",
            (number,),
        )
        for place, source_id, parent, created_at in rows:
            yield Node(place, source_id, parent, _time(created_at))

    def _fetch(self, place: int, thread_key: str) -> ImportedComment:
        row = self._db.execute(
            "select source_id, parent, author_id, author_name, created_at, body"
            " from comments where place = ?",
            (place,),
        ).fetchone()
        return ImportedComment(row[0], row[1], thread_key, row[2], row[3], _time(row[4]), row[5])


def _time(since: int) -> datetime:
    return EPOCH + timedelta(microseconds=since)
