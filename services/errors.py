"""Every error threadlog raises or returns, in one tree. None of them knows of HTTP.

A `Refusal` is the answer of `decide` to a command that adds no event. It is returned as a value through the
batch, so that one refused command never disturbs another; only the edge raises it. The other branches are
faults: of configuration, of a dependency, or of the log itself.
"""

from __future__ import annotations

import traceback
from datetime import timedelta
from pathlib import Path
from uuid import UUID


class ThreadlogError(Exception):
    """The root of the tree."""


def where(error: BaseException) -> str:
    """An error by its kind and place alone: its message may quote what it met, and that may be a text."""
    frames = traceback.extract_tb(error.__traceback__)
    kind = type(error).__name__
    return f"{kind} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else kind


class ConfigurationError(ThreadlogError):
    """A setting is missing or wrong; the message names the variable and what it takes."""


# --- refusals: a command that adds no event -----------------------------------------------------------


class Refusal(ThreadlogError):
    """A command that the rules refuse. Nothing was written."""


class ThreadNotOpen(Refusal):
    """The thread takes no new comments."""


class ParentNotFound(Refusal):
    """The parent is not a comment of this thread."""

    def __init__(self, parent_id: UUID | str) -> None:
        super().__init__(f"no comment {parent_id} in this thread")
        self.parent_id = parent_id


class ParentNotOpen(Refusal):
    """The parent is not visible, and takes no replies."""

    def __init__(self, parent_id: UUID, state: str) -> None:
        super().__init__(f"comment {parent_id} is {state} and takes no replies")
        self.parent_id = parent_id
        self.state = state


class TooDeep(Refusal):
    """The reply would lie deeper than the deepest level, 1,000."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"replies nest at most {limit:,} deep")
        self.limit = limit


class CommentNotFound(Refusal):
    """No such comment in this thread."""

    def __init__(self, comment_id: UUID | str) -> None:
        super().__init__(f"no comment {comment_id} in this thread")
        self.comment_id = comment_id


class CommentNotOpen(Refusal):
    """The comment's state (hidden, deleted, removed, erased) does not allow the command."""

    def __init__(self, comment_id: UUID, state: str) -> None:
        super().__init__(f"comment {comment_id} is {state}")
        self.comment_id = comment_id
        self.state = state


class DecisionNotPossible(Refusal):
    """A comment in this state cannot be decided about in this way."""

    def __init__(self, comment_id: UUID, state: str, action: str) -> None:
        super().__init__(f"comment {comment_id} is {state}: {action} does not apply")
        self.comment_id = comment_id
        self.state = state
        self.action = action


class NotAuthor(Refusal):
    """Only the comment's author, or a moderator, may do this."""


class OwnComment(Refusal):
    """Nobody reports or votes on their own comment."""


class EditWindowClosed(Refusal):
    """The site's edit window for this comment has passed."""

    def __init__(self, window: timedelta) -> None:
        super().__init__(f"comments can be edited for {int(window.total_seconds())} seconds")
        self.window = window


class RevisionMismatch(Refusal):
    """The comment was changed since the reader saw it."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"the comment is at revision {actual}, not {expected}")
        self.expected = expected
        self.actual = actual


class AlreadyReported(Refusal):
    """This person reported this comment before."""


class Forbidden(Refusal):
    """The role does not allow it."""


class FieldInvalid(Refusal):
    """A value is not one that the rules take."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class IdempotencyKeyReused(Refusal):
    """The key was used for another request on this thread."""


class SiteNotFound(Refusal):
    """No such site."""

    def __init__(self, site: str) -> None:
        super().__init__(f"no site {site!r}")
        self.site = site


# --- operating ----------------------------------------------------------------------------------------


class TemplateRefused(ThreadlogError):
    """A site's own template that cannot take the place of ours; the message says where and why."""


class CredentialRefused(ThreadlogError):
    """A site's secret or server key that is not added, or not ended; the message names the way out."""


# --- reading ------------------------------------------------------------------------------------------


class VersionNotReached(ThreadlogError):
    """`min_version` lies past the thread's head."""

    def __init__(self, asked: int, head: int) -> None:
        super().__init__(f"the thread is at version {head}; {asked} is not reached")
        self.asked = asked
        self.head = head


class CursorInvalid(ThreadlogError):
    """The cursor was not made by this list."""


class ThreadParked(ThreadlogError):
    """The thread's projection met an event that it cannot apply, and waits as a dead letter."""

    def __init__(self, stream_id: UUID, version: int) -> None:
        super().__init__(f"thread {stream_id} is parked at version {version}")
        self.stream_id = stream_id
        self.version = version


# --- faults -------------------------------------------------------------------------------------------


class Overloaded(ThreadlogError):
    """A bounded queue is full; `retry_after` is in seconds. The command was not taken."""

    def __init__(self, what: str, retry_after: int = 1) -> None:
        super().__init__(f"{what} is full")
        self.retry_after = retry_after


class Unavailable(ThreadlogError):
    """A dependency did not answer in time. A write that meets this may or may not be in the log: repeat it
    with its Idempotency-Key."""

    def __init__(self, what: str, retry_after: int = 1) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class WriteFailed(ThreadlogError):
    """Postgres refused this command with a value that the checks missed. Nothing of it was written."""


class KeyDestroyed(ThreadlogError):
    """The author's key no longer exists; what it sealed cannot be read or added to."""

    def __init__(self, key_id: UUID) -> None:
        super().__init__(f"key {key_id} was destroyed")
        self.key_id = key_id


class SchemaMismatch(ThreadlogError):
    """The database's schema or lane count is not what this code runs on."""


class LetterMoved(ThreadlogError):
    """The dead letter is not what it was when it was looked at."""

    def __init__(self, stream_id: UUID, version: int) -> None:
        super().__init__(f"the dead letter of {stream_id} at version {version} has changed: look again")


class StreamBroken(ThreadlogError):
    """A stream is not dense, or its hash chain does not hold."""

    def __init__(self, stream_id: UUID, version: int, reason: str) -> None:
        super().__init__(f"stream {stream_id} at version {version}: {reason}")
        self.stream_id = stream_id
        self.version = version
        self.reason = reason


class PoisonEvent(ThreadlogError):
    """An event that a projection cannot apply."""

    def __init__(self, stream_id: UUID, version: int, event_id: UUID, reason: str) -> None:
        super().__init__(f"event {event_id} (stream {stream_id}, version {version}): {reason}")
        self.stream_id = stream_id
        self.version = version
        self.event_id = event_id
        self.reason = reason


class UnknownEventType(PoisonEvent):
    """An event type, or a later schema version of one, that this release does not know: a newer release
    wrote it. The view stays behind until this release is replaced; it is no dead letter."""
