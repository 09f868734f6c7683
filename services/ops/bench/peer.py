"""The `eventsourcing` package's own way to the same comments: an aggregate, rebuilt from its stored events.

It keeps them in memory, as it does by default, so that nothing but its own work counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

import orjson
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from schema.events.envelope import Recorded
from services.core.thread import CommentState
from services.eventlog.keys import AuthorKey
from services.projection.fold import open_text

NAME: Final = "its aggregate, by eventsourcing"


class Talk(Aggregate):
    """A thread's comments, by id, as its events left them."""

    def __init__(self) -> None:
        self.comments: dict[str, dict[str, Any]] = {}

    @event("Posted")
    def post(self, comment_id: str, parent_id: str | None, author_id: str, name: str, body: str) -> None:
        """A comment or a reply."""
        self.comments[comment_id] = {
            "parent_id": parent_id,
            "author": {"id": author_id, "name": name},
            "body": body,
            "state": CommentState.VISIBLE,
            "revision": 1,
            "reports": 0,
        }

    @event("Edited")
    def edit(self, comment_id: str, revision: int, body: str) -> None:
        """A comment's text is another."""
        self.comments[comment_id] |= {"body": body, "revision": revision}

    @event("Deleted")
    def delete(self, comment_id: str) -> None:
        """A comment was deleted."""
        self.comments[comment_id]["state"] = CommentState.DELETED

    @event("Reported")
    def report(self, comment_id: str, reason: str) -> None:
        """A comment was reported."""
        self.comments[comment_id]["reports"] += 1


class Peer:
    """The aggregate of one thread, saved."""

    def __init__(self, events: Iterable[Recorded], keys: dict[UUID, AuthorKey]) -> None:
        self._application = Application[UUID]()
        talk = Talk()
        self._id = talk.id
        for one in events:
            _apply(talk, one, keys)
        self._application.save(talk)

    def rebuild(self) -> int:
        """Rebuild the aggregate; how many events it is made of."""
        talk: Talk = self._application.repository.get(self._id)
        return talk.version


def _apply(talk: Talk, one: Recorded, keys: dict[UUID, AuthorKey]) -> None:
    payload, text = orjson.loads(one.data), open_text(one, keys) or {}
    match one.type:
        case "CommentPosted" | "ReplyPosted":
            author = one.actor_id or ""
            talk.post(str(one.event_id), payload.get("parent_id"), author, text["name"], text["body"])
        case "CommentEdited":
            talk.edit(payload["comment_id"], payload["revision"], text["body"])
        case "CommentDeleted":
            talk.delete(payload["comment_id"])
        case "CommentReported":
            talk.report(payload["comment_id"], payload["reason"])
