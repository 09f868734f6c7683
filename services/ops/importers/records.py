"""What a reader makes of a file: threads, comments, and what it had to leave out or change.

Everything a file says is untrusted. A comment that cannot be taken is a `Skipped`, and the file goes on; a
file that is damaged as a whole is an `ImportRefused`. A reader never drops anything without one of the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeAlias

from services.core.text import NAME_CODE_POINTS, TextRefused, normalise_body, normalise_line
from services.errors import ThreadlogError

AUTHOR_PREFIX: Final = "import:"
"""What the id of an imported author begins with; no token may carry such a `sub`."""

ANONYMOUS: Final = "Anonymous"
"""The name of an author whom the file does not name."""

EXAMPLES_KEPT: Final = 20
"""Places remembered for each reason of a report."""

REASONS_KEPT: Final = 100
"""Reasons told apart in a report; further ones are counted as `OTHER_REASONS`."""

OTHER_REASONS: Final = "other reasons"

_ID_CHARS: Final = 128
_PLACE_CHARS: Final = 120
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

AuthorId: TypeAlias = Callable[[str, str], str]
"""A keyed hash, in hex, of an e-mail address ("" where there is none) and a name; the log holds only this."""


class ImportRefused(ThreadlogError, ValueError):
    """The file is damaged or hostile at `where`; what lies behind that place was not read."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.where = where


class CommentRefused(ValueError):
    """This comment cannot be taken. Readers turn it into a `Skipped`; it does not leave them."""


@dataclass(frozen=True, slots=True)
class ImportedThread:
    """A page of the file that has comments. `title` and `url` are None where absent or over the limits."""

    key: str
    title: str | None
    url: str | None


@dataclass(frozen=True, slots=True)
class ImportedComment:
    """One comment, ready for the log: `body` is normalised Markdown, `created_at` the original time in UTC.

    `source_id` and `parent_source_id` are the file's own ids, meaningful within `thread_key` only.
    """

    source_id: str
    parent_source_id: str | None
    thread_key: str
    author_id: str
    author_name: str
    created_at: datetime
    body: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A comment that is not imported. `where` is its id or its line, `reason` one of few fixed phrases."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Noted:
    """Something of the file that is left out although its comments are imported."""

    where: str
    reason: str


Record: TypeAlias = ImportedThread | ImportedComment | Skipped | Noted


@dataclass(slots=True)
class Tally:
    """How often each reason was met, and where first: at most `REASONS_KEPT` times `EXAMPLES_KEPT` places."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, where: str, reason: str) -> None:
        if reason not in self.counts and len(self.counts) >= REASONS_KEPT:
            reason = OTHER_REASONS
        self.counts[reason] += 1
        places = self.examples.setdefault(reason, [])
        if len(places) < EXAMPLES_KEPT:
            places.append(where[:_PLACE_CHARS])

    @property
    def total(self) -> int:
        return self.counts.total()


@dataclass(slots=True)
class Report:
    """The account of one import: what was read, written, skipped and noted. Its size does not grow with the
    file's.

    `threads` and `comments` were read and could be taken; `added` of the comments, and `placeholders` beside
    them, are new in the log, and `existing`, placeholders included, were there already.
    """

    threads: int = 0
    comments: int = 0
    added: int = 0
    existing: int = 0
    placeholders: int = 0
    skipped: Tally = field(default_factory=Tally)
    noted: Tally = field(default_factory=Tally)

    def skip(self, skipped: Skipped) -> None:
        self.skipped.add(skipped.where, skipped.reason)

    def note(self, noted: Noted) -> None:
        self.noted.add(noted.where, noted.reason)


def comment_id(raw: str, what: str) -> str:
    """The file's id of a comment: 1 to 128 printable ASCII characters. Raises `CommentRefused`."""
    found = raw.strip()
    if not found or len(found) > _ID_CHARS or not (found.isascii() and found.isprintable()):
        raise CommentRefused(f"the {what} is not an id")
    return found


def comment_time(when: datetime) -> datetime:
    """`when` in UTC. Event ids hold the time since 1970, so an earlier one raises `CommentRefused`."""
    try:
        moved = when.astimezone(UTC)
    except OverflowError as error:
        raise CommentRefused("the date is out of range") from error
    if moved < _EPOCH:
        raise CommentRefused("the date is before 1970")
    return moved


def comment_name(raw: str) -> str:
    """The author's name as the log takes it; a nameless one is `ANONYMOUS`. Raises `CommentRefused`."""
    if not raw.strip():
        return ANONYMOUS
    try:
        return normalise_line(raw.strip(), what="the author's name", limit=NAME_CODE_POINTS)
    except TextRefused as refused:
        raise CommentRefused(refused.reason) from refused


def comment_body(markdown: str) -> str:
    """The text as the log takes it. Raises `CommentRefused`, also when it is over the limits."""
    try:
        return normalise_body(markdown)
    except TextRefused as refused:
        raise CommentRefused(refused.reason) from refused
