"""One batch of commands between the load and the append: pure, in memory.

`Batch` holds the partial states that the load brought, decides the commands one after the other, folds what
each adds so that the next one sees it, and gives the columns of the append statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from schema.events.envelope import EPOCH, Recorded, canonical, hash_of, micros
from schema.events.registry import CONTRACTS
from services.core.addresses import site_stream_id
from services.core.commands import (
    ChangeSettings,
    Command,
    EraseAuthor,
    PostComment,
    Rules,
    ThreadCommand,
    VoteComment,
)
from services.core.decide import decide, decide_site
from services.core.deciding.events import NewEvent
from services.core.site import DEFAULTS, SiteSettings, SiteState, evolve_site
from services.core.thread import NO_VOTE, Comment, CommentState, ThreadState, evolve
from services.errors import CommentNotOpen, IdempotencyKeyReused, KeyDestroyed, Refusal
from services.eventlog import columns
from services.eventlog.columns import Row
from services.eventlog.needs import text_of
from services.eventlog.state import site_row, stream_row

_WRITTEN = {name: contract.written for name, contract in CONTRACTS.items()}
_OUTGROWN = frozenset(name for name, c in CONTRACTS.items() if c.written < c.schema_version)
"""What is still recorded in a shape that is not the one it folds in."""
_DESCRIBING = frozenset({"ThreadDescribed", "ThreadClosed", "ThreadReopened"})
"""Events that change what a stream's row tells of the thread itself."""


@dataclass(frozen=True, slots=True)
class Tally:
    """A comment's votes, and the voter's own among them (0: none)."""

    up: int
    down: int
    value: int


class Appended(NamedTuple):
    """A command's outcome once it is durable.

    `version` is the stream's after it; `events` what it added (none for a no-op). `repeated` marks an answer
    to an Idempotency-Key that was used before: `status` is then the first answer's. `comment` is the comment
    that it was about, as far as the decision knew it. `tally` is what a vote, repeated or not, left.
    """

    event_id: UUID
    version: int
    events: tuple[Recorded, ...]
    status: int
    repeated: bool = False
    comment: Comment | None = None
    title: str | None = None
    url: str | None = None
    tally: Tally | None = None


Outcome = Appended | Refusal | KeyDestroyed


class SettingsCache:
    """Parsed settings by site stream, kept while the load confirms their version. Bounded."""

    def __init__(self, limit: int = 1024) -> None:
        self._kept: dict[UUID, tuple[int, SiteSettings]] = {}
        self._limit = limit

    def of(self, stream_id: UUID, version: int, stored: str | None) -> SiteSettings:
        """The settings of a site stream at `version`, which `stored` (JSON) holds."""
        kept = self._kept.get(stream_id)
        if kept is None or kept[0] != version:
            if len(self._kept) >= self._limit:
                self._kept.clear()
            kept = (version, SiteSettings.stored(stored))
            self._kept[stream_id] = kept
        return kept[1]


class Batch:
    """The decisions of one batch, on the state that its load brought."""

    def __init__(self, loaded: Row, lane: int, settings: SettingsCache) -> None:
        """`loaded` is the row of the `load` statement."""
        self.lane = lane
        self.head: int
        self.now: datetime
        self.head, self.now, streams, comments, parents, reports, repeats, keys, votes = loaded
        self.events: list[Recorded] = []
        self._threads: dict[UUID, ThreadState] = {}
        self._sites: dict[UUID, SiteState] = {}
        self._times: dict[UUID, datetime] = {}
        self._stored = {row[0] for row in streams}
        self._moved: set[UUID] = set()
        self._sites_of: dict[UUID, str] = {}
        """The site of each stream that moved."""
        self._described: set[UUID] = set()
        self._posted: dict[UUID, Comment] = {}
        self._changed: dict[UUID, Comment] = {}
        self._reports: list[tuple[UUID, str, UUID, int]] = []
        self._votes: dict[tuple[UUID, str], tuple[UUID, int, int]] = {}
        self._approved: list[UUID] = []
        self._kept: list[tuple[bytes, bytes, UUID, UUID, int, int]] = []
        self._micros = (EPOCH, 0)
        self._living = set(keys)
        self._repeats: dict[bytes, tuple[bytes, UUID, int, int]] = {
            key_mac: (request_mac, event_id, version, status)
            for key_mac, request_mac, event_id, version, status in repeats
        }
        for row in streams:
            self._load_stream(row, settings)
        for row in comments:
            self._load_comment(row)
        for row in parents:
            self._load_parent(row)
        for comment_id, reporter_id, version in reports:
            for thread in self._threads.values():
                if comment_id in thread.comments:
                    thread.reported[comment_id, reporter_id] = version
        for comment_id, voter_id, stream_id, value, version in votes:
            if (voted := self._threads.get(stream_id)) is not None:
                voted.votes[comment_id, voter_id] = (value, version)

    def _load_stream(self, row: Row, settings: SettingsCache) -> None:
        stream_id, version, last_hash, recorded_at, closed, visible, by, title, url, stored = row
        if stored is None:
            self._threads[stream_id] = ThreadState(
                stream_id, "", "", version, last_hash, recorded_at, title, url, by, closed, visible
            )
        else:
            self._times[stream_id] = recorded_at
            kept = settings.of(stream_id, version, stored)
            self._sites[stream_id] = SiteState(stream_id, "", version, last_hash, kept)

    def _load_parent(self, row: Row) -> None:
        """What a reply needs of its parent. Where another command asks for the whole of it, that is there."""
        comment_id, stream_id, posted, depth, state, path = row
        thread = self._threads.get(stream_id)
        if thread is not None and comment_id not in thread.comments:
            thread.comments[comment_id] = Comment(
                comment_id, posted, 0, depth, EPOCH, state=CommentState(state), path=path
            )

    def _load_comment(self, row: Row) -> None:
        thread = self._threads.get(row[1])
        if thread is not None:
            comment_id, _, posted, parent, depth, author, key_id, mac, state, *rest = row
            revision, created_at, edited_at, edited_by, version, text_version, weight, *rest = rest
            path, up, down, approved = rest
            thread.comments[comment_id] = Comment(
                id=comment_id,
                posted=posted,
                parent=parent,
                depth=depth,
                created_at=created_at,
                author_id=author,
                key_id=key_id,
                text_mac=mac,
                state=CommentState(state),
                revision=revision,
                edited_at=edited_at,
                edited_by=edited_by,
                version=version,
                text_version=text_version,
                report_weight=weight,
                approved=approved,
                path=path,
                up=up,
                down=down,
            )

    def run(self, command: Command) -> Outcome:
        """Decide one command and fold what it adds."""
        key = command.idempotency
        if key is not None and (first := self._repeats.get(key.key_mac)) is not None:
            request_mac, event_id, version, status = first
            if request_mac != key.request_mac:
                return IdempotencyKeyReused("this Idempotency-Key was used for another request")
            tally = None
            if isinstance(command, VoteComment):
                tally, voted = self._tally(command), self._comment_of(command)
                if voted is not None and voted.state is CommentState.ERASED:
                    return CommentNotOpen(voted.id, voted.state)
            return Appended(event_id, version, (), status, repeated=True, tally=tally)
        sealed = text_of(command)
        if sealed is not None and sealed.key_id not in self._living:
            return KeyDestroyed(sealed.key_id)
        if isinstance(command, ThreadCommand):
            outcome = self._run_thread(command)
        else:
            assert isinstance(command, ChangeSettings | EraseAuthor)
            outcome = self._run_site(command)
        if key is not None and isinstance(outcome, Appended):
            kept = (key.request_mac, outcome.event_id, outcome.version, outcome.status)
            self._repeats[key.key_mac] = kept
            self._kept.append((key.key_mac, key.request_mac, command.stream_id, *kept[1:]))
        return outcome

    def _run_thread(self, command: ThreadCommand) -> Outcome:
        thread = self._threads.get(command.stream_id)
        if thread is None:
            thread = ThreadState(command.stream_id, command.site, command.key)
        site = self._sites.get(site_stream_id(command.site))
        rules = Rules(DEFAULTS if site is None else site.settings)
        now = max(self.now, thread.recorded_at)
        decision = decide(command, thread, now, rules)
        if isinstance(decision, Refusal):
            return decision
        events = []
        for new in decision:
            event = self._place(command, new, thread.version + 1, thread.last_hash, now)
            self._fold(thread, event, None if new.type in _OUTGROWN else new.data)
            events.append(event)
        if events:
            self._threads[command.stream_id] = thread
            self._moved.add(command.stream_id)
            self._sites_of[command.stream_id] = command.site
        about = command.event_id if isinstance(command, PostComment) else getattr(command, "comment_id", None)
        return Appended(
            command.event_id,
            thread.version,
            tuple(events),
            command.success,
            comment=None if about is None else thread.comments.get(about),
            title=thread.title,
            url=thread.url,
            tally=self._tally(command) if isinstance(command, VoteComment) else None,
        )

    def _tally(self, command: VoteComment) -> Tally | None:
        """The votes on the comment as they are at this place of the batch."""
        comment = self._comment_of(command)
        if comment is None:
            return None
        thread = self._threads[command.stream_id]
        value, _ = thread.votes.get((comment.id, command.actor.id or ""), NO_VOTE)
        return Tally(comment.up, comment.down, value)

    def _comment_of(self, command: VoteComment) -> Comment | None:
        thread = self._threads.get(command.stream_id)
        return None if thread is None else thread.comments.get(command.comment_id)

    def _fold(self, thread: ThreadState, event: Recorded, payload: dict[str, Any] | None) -> None:
        comment = evolve(thread, event, payload)
        if comment is None:
            if event.type in _DESCRIBING:
                self._described.add(thread.stream_id)
            return
        if comment.posted == event.version:
            self._posted[comment.id] = comment
            return
        if comment.id not in self._posted:
            self._changed[comment.id] = comment
        if event.type == "CommentReported" and event.actor_id is not None:
            self._reports.append((comment.id, event.actor_id, thread.stream_id, event.version))
        elif event.type == "CommentVoted" and event.actor_id is not None:
            voter = (comment.id, event.actor_id)
            self._votes[voter] = (thread.stream_id, *thread.votes[voter])
        elif event.type == "CommentApproved":
            self._approved.append(comment.id)

    def _run_site(self, command: ChangeSettings | EraseAuthor) -> Outcome:
        site = self._sites.get(command.stream_id) or SiteState(command.stream_id, command.site)
        now = max(self.now, self._times.get(command.stream_id, self.now))
        decision = decide_site(command, site)
        if isinstance(decision, Refusal):
            return decision
        events = []
        for new in decision:
            event = self._place(command, new, site.version + 1, site.last_hash, now)
            evolve_site(site, event)
            events.append(event)
        if events:
            self._sites[command.stream_id] = site
            self._times[command.stream_id] = now
            self._moved.add(command.stream_id)
            self._sites_of[command.stream_id] = command.site
        return Appended(command.event_id, site.version, tuple(events), command.success)

    def _place(
        self, command: Command, new: NewEvent, version: int, previous: bytes, now: datetime
    ) -> Recorded:
        """Give a decided event its place: version, hash, position."""
        if self._micros[0] is not now:  # almost always that of the whole batch
            self._micros = (now, micros(now))
        fields = (
            command.stream_id,
            version,
            new.event_id,
            new.type,
            _WRITTEN[new.type],
            new.actor_id,
            command.correlation_id,
            new.causation_id,
        )
        text = (canonical(new.data), new.sealed, new.key_id)
        digest = hash_of(previous, *fields, self._micros[1], *text)
        event = Recorded(*fields, now, *text, digest, self.lane, self.head + len(self.events) + 1)
        self.events.append(event)
        return event

    @property
    def writes(self) -> bool:
        """Whether there is anything to append."""
        return bool(self.events or self._kept)

    @property
    def moved(self) -> list[UUID]:
        """The threads that the batch adds to: what a poke names."""
        return [stream_id for stream_id in self._moved if stream_id in self._threads]

    def arguments(self) -> list[Any]:
        """The arguments of the `append` statement."""
        streams = list(self._stream_rows())
        return [
            self.lane,
            self.head + len(self.events),
            self.head,
            self.now,
            *columns.of_events(self.events, self.now),
            *columns.of_posted(self.events, self._posted),
            *columns.of_moved([row for row in streams if row[0] in self._stored], self._described, self.now),
            *columns.of_rows([row for row in streams if row[0] not in self._stored], 12),
            *columns.of_changed(self._changed),
            *columns.of_rows(self._reports, 4),
            *columns.of_rows(self._kept, 6),
            *columns.of_rows([(*voter, *vote) for voter, vote in sorted(self._votes.items())], 5),
            *columns.of_sites(self.events, self._posted, self._sites_of),
            self._approved,
        ]

    def _stream_rows(self) -> Iterable[Row]:
        for stream_id in sorted(self._moved):
            if (thread := self._threads.get(stream_id)) is not None:
                yield (stream_id, *stream_row(thread))
            else:
                *row, settings = site_row(self._sites[stream_id], self._times[stream_id])
                yield (stream_id, *row, orjson.dumps(settings).decode())
