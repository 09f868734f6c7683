"""A small model of a thread, written from the contract and nothing else: what the system must agree with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

THRESHOLD = 2


@dataclass
class Said:
    """One comment of the model."""

    id: UUID
    author: str
    body: str
    parent: UUID | None
    state: str = "visible"
    revision: int = 1
    edited_by: str | None = None
    reporters: set[str] = field(default_factory=set)
    approved: bool = False
    votes: dict[str, int] = field(default_factory=dict)


@dataclass
class Model:
    """A thread as the contract describes it. Each method gives the name of the refusal, or None."""

    closed: bool = False
    comments: dict[UUID, Said] = field(default_factory=dict)

    def post(self, comment_id: UUID, author: str, body: str, parent: UUID | None) -> str | None:
        if self.closed:
            return "ThreadNotOpen"
        if parent is not None:
            if parent not in self.comments:
                return "ParentNotFound"
            if self.comments[parent].state != "visible":
                return "ParentNotOpen"
        self.comments[comment_id] = Said(comment_id, author, body, parent)
        return None

    def edit(
        self, comment_id: UUID, author: str, body: str, revision: int, *, moderator: bool = False
    ) -> str | None:
        comment = self.comments.get(comment_id)
        if comment is None:
            return "CommentNotFound"
        if comment.state == "erased":
            return "CommentNotOpen"
        if comment.author != author and not moderator:
            return "NotAuthor"
        if comment.state != "visible":
            return "CommentNotOpen"
        if revision != comment.revision:
            return "RevisionMismatch"
        if body != comment.body:
            comment.body = body
            comment.revision += 1
            comment.edited_by = "author" if comment.author == author else "moderator"
        return None

    def delete(self, comment_id: UUID, author: str, *, moderator: bool = False) -> str | None:
        comment = self.comments.get(comment_id)
        if comment is None:
            return "CommentNotFound"
        if comment.state == "erased":
            return "CommentNotOpen"
        if comment.author != author and not moderator:
            return "NotAuthor"
        wanted = "deleted" if comment.author == author else "removed"
        if comment.state in ("deleted", "removed"):
            return None if comment.state == wanted else "CommentNotOpen"
        comment.state = wanted
        return None

    def report(self, comment_id: UUID, reporter: str) -> str | None:
        comment = self.comments.get(comment_id)
        if comment is None:
            return "CommentNotFound"
        if comment.author == reporter and comment.state != "erased":
            return "OwnComment"
        if reporter in comment.reporters:
            return "AlreadyReported"
        if comment.state != "visible":
            return "CommentNotOpen"
        comment.reporters.add(reporter)
        if len(comment.reporters) >= THRESHOLD and not comment.approved:
            comment.state = "hidden"
        return None

    def moderate(self, comment_id: UUID, action: str, *, moderator: bool) -> str | None:
        if not moderator:
            return "Forbidden"
        comment = self.comments.get(comment_id)
        if comment is None:
            return "CommentNotFound"
        if comment.state not in ("visible", "hidden"):
            return "CommentNotOpen"
        if action == "restore" and comment.state == "visible":
            return "DecisionNotPossible"
        comment.approved |= action == "approve"
        comment.state = {"hide": "hidden", "remove": "removed"}.get(action, "visible")
        return None

    def vote(self, comment_id: UUID, voter: str, value: int) -> str | None:
        comment = self.comments.get(comment_id)
        if comment is None:
            return "CommentNotFound"
        if voter.startswith("guest:"):
            return "Forbidden"
        if comment.author == voter and comment.state != "erased":
            return "OwnComment"
        if comment.state != "visible":
            return "CommentNotOpen"
        comment.votes[voter] = value
        return None

    def erase(self, author: str) -> list[UUID]:
        """Everything that the author wrote so far; what of it was not erased before."""
        due = [one for one in self.comments.values() if one.author == author and one.state != "erased"]
        for comment in due:
            comment.state = "erased"
        return [comment.id for comment in due]

    def known_now(self, tree: dict[str, Any]) -> dict[str, Any]:
        """What is left to tell of a tree as it stood once: nothing of whom was erased since."""

        def node(comment: dict[str, Any]) -> dict[str, Any]:
            gone = self.comments[UUID(comment["id"])].state == "erased"
            hidden = {"author": None, "body": None} if gone else {}
            return {**comment, **hidden, "replies": [node(reply) for reply in comment["replies"]]}

        return {**tree, "roots": [node(comment) for comment in tree["roots"]]}

    def tally(self, comment_id: UUID) -> dict[str, int]:
        """The votes on a comment, whatever became of it."""
        votes = list(self.comments[comment_id].votes.values())
        return {"up": votes.count(1), "down": votes.count(-1)}

    def tree(self) -> dict[str, Any]:
        """The thread as a reader sees it."""
        below: dict[UUID | None, list[Said]] = {}
        for comment in self.comments.values():
            below.setdefault(comment.parent, []).append(comment)

        def nodes(parent: UUID | None) -> list[dict[str, Any]]:
            return [node(comment) for comment in below.get(parent, [])]

        def node(comment: Said) -> dict[str, Any]:
            shown = comment.state == "visible"
            replies = nodes(comment.id)
            return {
                "id": str(comment.id),
                "author": comment.author if shown else None,
                "body": comment.body if shown else None,
                "state": comment.state,
                "revision": comment.revision,
                "edited_by": comment.edited_by,
                "votes": self.tally(comment.id),
                "children": len(replies),
                "descendants": sum(1 + reply["descendants"] for reply in replies),
                "replies": replies,
            }

        return {
            "state": "closed" if self.closed else "open",
            "comments": sum(comment.state == "visible" for comment in self.comments.values()),
            "roots": nodes(None),
        }


def simplified(page: dict[str, Any]) -> dict[str, Any]:
    """A page of the API, with as much of it as the model knows."""

    def node(comment: dict[str, Any]) -> dict[str, Any]:
        assert comment["replies"]["more"] == 0
        author = comment["author"]
        kept = ("id", "body", "state", "revision", "edited_by", "votes", "children", "descendants")
        return {
            **{name: comment[name] for name in kept},
            "author": None if author is None else author["id"],
            "replies": [node(reply) for reply in comment["replies"]["items"]],
        }

    assert page["after"] is None
    return {
        "state": page["thread"]["state"],
        "comments": page["thread"]["comments"],
        "roots": [node(comment) for comment in page["comments"]],
    }
