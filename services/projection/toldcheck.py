"""Comparing notifications with the replies that caused them.

Who is told is decided on the comments, and on what people wanted to hear, as it was when the notifier came
by, which nobody knows any more. But a reply that everyone can see was told of then, or has been since, to the
author of its parent, if they are still known and never said what they want to hear; and what was told names
its event truly. Which notifications were read is no event's, and not compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg

from services.core.recipients import GUEST, IMPORTED, Reason
from services.core.thread import CommentState, ThreadState
from services.eventlog.state import Difference

KIND = "notifications"


def differences(row: asyncpg.Record, thread: ThreadState) -> Iterator[Difference]:
    """What is wrong with the notification of one reply, as the query `untold` gives it."""
    recipient: str = row["parent_author"]
    path = f"{recipient} of {row['event_id']} (version {row['version']})"
    if row["notification_id"] is None:
        if _must_be(row, thread):
            yield Difference(KIND, path, "no row", "a row")
        return
    for name, stored, replayed in (
        ("stream_id", row["told_stream"], thread.stream_id),
        ("comment_id", row["comment_id"], row["event_id"]),
        ("reason", row["reason"], row["reason"] if row["wished"] else Reason.REPLY.value),
        ("actor_id", row["told_actor"], row["actor_id"]),
        ("created_at", row["created_at"], row["recorded_at"]),
    ):
        if stored != replayed:
            yield Difference(KIND, f"{path}: {name}", stored, replayed)


def _must_be(row: asyncpg.Record, thread: ThreadState) -> bool:
    reply, parent = thread.comments.get(row["event_id"]), thread.comments.get(row["parent_id"])
    return (
        not (row["wished"] or row["waits"] or row["parent_author"].startswith((IMPORTED, GUEST)))
        and reply is not None
        and reply.state is CommentState.VISIBLE
        and parent is not None
        and parent.state is not CommentState.ERASED
    )
