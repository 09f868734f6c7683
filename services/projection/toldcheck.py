"""Comparing notifications with the replies that caused them.

Who is told is decided on the comments as they stood when the notifier came by, which nobody knows any more.
But what everyone can see, below somebody who is still known, was told then or must have been since; and what
was told names its event truly. Which notifications were read is no event's, and not compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg

from services.core.recipients import Notice, Reply, Standing, recipients
from services.core.thread import CommentState, ThreadState
from services.eventlog.state import Difference

KIND = "notifications"


def differences(row: asyncpg.Record, thread: ThreadState) -> Iterator[Difference]:
    """What is wrong with the notification of one reply, as the query `untold` gives it."""
    reply, parent = thread.comments.get(row["event_id"]), thread.comments.get(row["parent_id"])
    must_be = (
        reply is not None
        and reply.state is CommentState.VISIBLE
        and parent is not None
        and parent.state is not CommentState.ERASED
    )
    for notice in _notices(row):
        path = f"{notice.recipient_id} of {notice.event_id} (version {row['version']})"
        if row["notification_id"] is None:
            if must_be:
                yield Difference(KIND, path, "no row", "a row")
            continue
        for name, stored, replayed in (
            ("stream_id", row["told_stream"], thread.stream_id),
            ("comment_id", row["comment_id"], notice.comment_id),
            ("reason", row["reason"], notice.reason.value),
            ("actor_id", row["told_actor"], notice.actor_id),
            ("created_at", row["created_at"], notice.created_at),
        ):
            if stored != replayed:
                yield Difference(KIND, f"{path}: {name}", stored, replayed)


def _notices(row: asyncpg.Record) -> tuple[Notice, ...]:
    """Who is told of the reply where everyone may see it and its parent."""
    reply = Reply(
        id=row["event_id"],
        parent_id=row["parent_id"],
        author_id=row["actor_id"],
        imported=False,
        created_at=row["recorded_at"],
    )
    standing = {
        reply.id: Standing(reply.author_id, visible=True),
        reply.parent_id: Standing(row["parent_author"], visible=True),
    }
    return recipients(reply, standing)
