"""Folding events into a thread's structure: as `services.core.thread.evolve` does, column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from schema.events.envelope import micros
from schema.events.registry import UPCASTERS, PayloadInvalid, TypeUnknown
from services.core.segments import EDITED, EDITOR, EDITORS, MARKS, REVISION, SINCE, TEXT
from services.core.structure import AnyStep, Payload, Structure
from services.core.thread import TALLY, CommentState


class Unfoldable(Exception):
    """The event at `version` cannot be folded; `unknown`: a newer release wrote it."""

    def __init__(self, version: int, reason: str, *, unknown: bool = False) -> None:
        super().__init__(reason)
        self.version = version
        self.reason = reason
        self.unknown = unknown


def read_payloads(steps: Iterable[AnyStep]) -> tuple[list[Payload], Unfoldable | None]:
    """What the events hold, up to the first that this release does not know."""
    read: list[Payload] = []
    payload_of = UPCASTERS.payload
    for step in steps:
        try:
            read.append(payload_of(step.type, step.schema_version, step.data))
        except TypeUnknown as error:
            return read, Unfoldable(step.version, str(error), unknown=True)
        except PayloadInvalid as error:
            return read, Unfoldable(step.version, f"PayloadInvalid: {error}")
    return read, None


def fold(thread: Structure, steps: Iterable[AnyStep], payloads: Iterable[Payload]) -> None:
    """Fold the steps that have payloads, which follow on the thread's version, in place.

    Raises Missing and Unfoldable: the steps before are folded then.
    """
    thread.later.clear()
    for step, payload in zip(steps, payloads, strict=False):
        version = step.version
        if version != thread.version + 1:
            raise Unfoldable(version, f"follows version {thread.version}")
        apply = APPLY.get(step.type)
        if apply is None:
            raise Unfoldable(version, f"{step.type} is no event of a thread")
        try:
            apply(thread, step, payload)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise Unfoldable(version, f"{type(error).__name__}: {error}") from error
        thread.version, thread.last_hash = version, step.hash


def _comment_posted(thread: Structure, step: AnyStep, payload: Payload) -> None:
    tombstone = payload.get("tombstone")
    thread.add(step, payload, 0, 0, CommentState.DELETED if tombstone else CommentState.VISIBLE)


def _reply_posted(thread: Structure, step: AnyStep, payload: Payload) -> None:
    above = thread.ordinal(payload["parent"])
    if above is None:
        raise ValueError(f"no comment was posted at version {payload['parent']}")
    thread.add(step, payload, above + 1, payload["depth"], CommentState.VISIBLE)


def _comment_edited(thread: Structure, step: AnyStep, payload: Payload) -> None:
    ordinal = thread.subject(payload)
    marks, index = thread.column(MARKS, ordinal)
    revision, editor = int(payload["revision"]), EDITORS.index(payload["by"])
    since = step.version - thread.posted(ordinal)
    marks[EDITED][index], marks[EDITOR][index] = micros(step.recorded_at), editor
    marks[REVISION][index], marks[TEXT][index], marks[SINCE][index] = revision, since, since


def _moved_to(state: CommentState) -> Callable[[Structure, AnyStep, Payload], None]:
    def moved(thread: Structure, step: AnyStep, payload: Payload) -> None:
        ordinal = thread.subject(payload)
        thread.move(ordinal, state)
        thread.touch(ordinal, step.version)

    return moved


def _comment_reported(thread: Structure, step: AnyStep, payload: Payload) -> None:
    thread.touch(thread.subject(payload), step.version)


def _comment_voted(thread: Structure, step: AnyStep, payload: Payload) -> None:
    ordinal = thread.subject(payload)
    (up, down), (up_before, down_before) = TALLY[payload["value"]], TALLY[payload["previous"]]
    thread.vote(ordinal, up - up_before, down - down_before)
    thread.touch(ordinal, step.version)


def _thread_described(thread: Structure, _step: AnyStep, payload: Payload) -> None:
    title, url, by = payload["title"], payload["url"], payload["by"]
    if opens := payload.get("opens"):
        thread.site, thread.key = opens["site"], opens["key"]
    thread.title, thread.url, thread.described_by = title, url, by


def _thread_closed(thread: Structure, _step: AnyStep, _payload: Payload) -> None:
    thread.closed = True


def _thread_reopened(thread: Structure, _step: AnyStep, _payload: Payload) -> None:
    thread.closed = False


APPLY: Final[dict[str, Callable[[Structure, AnyStep, Payload], None]]] = {
    "CommentPosted": _comment_posted,
    "ReplyPosted": _reply_posted,
    "CommentEdited": _comment_edited,
    "CommentDeleted": _moved_to(CommentState.DELETED),
    "CommentRemoved": _moved_to(CommentState.REMOVED),
    "CommentApproved": _moved_to(CommentState.VISIBLE),
    "CommentHidden": _moved_to(CommentState.HIDDEN),
    "CommentRestored": _moved_to(CommentState.VISIBLE),
    "CommentErased": _moved_to(CommentState.ERASED),
    "CommentReported": _comment_reported,
    "CommentVoted": _comment_voted,
    "ThreadDescribed": _thread_described,
    "ThreadClosed": _thread_closed,
    "ThreadReopened": _thread_reopened,
}
"""The same events as `services.core.thread.evolve` knows; a test holds the two together."""
