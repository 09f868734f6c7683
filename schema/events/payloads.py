"""What each event says: the contracts of `data`, and of the part that is sealed.

They are TypedDicts, so that the folds read them at no cost, and pydantic validates them and writes their
JSON Schema (`schema.events.registry`). A comment is known by the id of the event that posted it; in the
events about it `posted` is that event's version, which is how the view knows the comment.
Times are RFC 3339 in UTC. `sealed` holds what is personal and dies with the author's key.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

STRICT = ConfigDict(extra="forbid")

Badge = Literal["moderator", "admin"]
"""What an author was on the site when they posted, shown beside their name; an admin is a moderator too."""


@with_config(STRICT)
class Opens(TypedDict):
    """Names the stream, in its first event: the log describes itself."""

    site: str
    key: str


@with_config(STRICT)
class Imported(TypedDict):
    """Marks a comment that comes from another system: nobody is told of it."""

    created_at: str
    source_id: str


@with_config(STRICT)
class CommentPosted(TypedDict):
    """A comment at the root of a thread. Sealed: `Text`, absent in a tombstone.

    Schema version 1 knew no badge, 2 said `badge: true` of moderators and admins alike.
    """

    text_mac: str
    badge: NotRequired[Badge]
    opens: NotRequired[Opens]
    imported: NotRequired[Imported]
    tombstone: NotRequired[Literal[True]]


@with_config(STRICT)
class ReplyPosted(TypedDict):
    """A comment below another. Sealed: `Text`. Its schema versions are those of CommentPosted."""

    parent_id: str
    parent: int
    depth: int
    text_mac: str
    badge: NotRequired[Badge]
    imported: NotRequired[Imported]


@with_config(STRICT)
class CommentEdited(TypedDict):
    """A new revision of a comment's text. Sealed, under the author's key whoever edits: `Body`."""

    comment_id: str
    posted: int
    revision: int
    by: Literal["author", "moderator"]
    text_mac: str


@with_config(STRICT)
class CommentDeleted(TypedDict):
    """The author took the comment back. Its place stays."""

    comment_id: str
    posted: int


@with_config(STRICT)
class CommentReported(TypedDict):
    """Somebody reported the comment, as it stood at `revision`. Sealed under the reporter's key: `Detail`."""

    comment_id: str
    posted: int
    revision: int
    reason: str
    weight: float


@with_config(STRICT)
class CommentVoted(TypedDict):
    """Somebody's vote on the comment is `value` now (0: withdrawn) and was `previous` before, so that counts
    fold without knowing who voted."""

    comment_id: str
    posted: int
    value: Literal[-1, 0, 1]
    previous: Literal[-1, 0, 1]


_From = TypedDict("_From", {"from": Literal["visible", "held", "hidden"]})
"""The state that a comment was in. The word is Python's, too."""


@with_config(STRICT)
class CommentApproved(_From):
    """A moderator approved the comment: all see it, and reports never hide it again. Sealed, under the key of
    the comment's author, as in all that moderators decide of it: `Reason`, where one was given."""

    comment_id: str
    posted: int


@with_config(STRICT)
class CommentHidden(TypedDict):
    """The comment was taken out of sight until a moderator decides: by reports, whose weight reached `total`
    where the site's `threshold` lay, or by a moderator. Sealed: `Reason`.

    Schema version 1 knew reports only.
    """

    comment_id: str
    posted: int
    rule: Literal["reports", "moderator"]
    threshold: NotRequired[float]
    total: NotRequired[float]


@with_config(STRICT)
class CommentRestored(TypedDict):
    """A moderator made a hidden comment visible again. Sealed: `Reason`."""

    comment_id: str
    posted: int


@with_config(STRICT)
class CommentRemoved(TypedDict):
    """A moderator removed the comment. Sealed: `Reason`."""

    comment_id: str
    posted: int


@with_config(STRICT)
class CommentErased(TypedDict):
    """The key that the comment was sealed under is destroyed: it has neither text nor author any more."""

    comment_id: str
    posted: int


@with_config(STRICT)
class ThreadDescribed(TypedDict):
    """Title and address of the page, from a client's first comment or from the site itself."""

    title: str | None
    url: str | None
    by: Literal["client", "site"]
    opens: NotRequired[Opens]


@with_config(STRICT)
class ThreadClosed(TypedDict):
    """The thread takes no more comments."""


@with_config(STRICT)
class ThreadReopened(TypedDict):
    """The thread takes comments again."""


@with_config(STRICT)
class OpensSite(TypedDict):
    """Names a site's stream in its first event."""

    site: str


@with_config(STRICT)
class SiteSettingsChanged(TypedDict):
    """The settings named in `changes` have the values given there; all others stay."""

    changes: dict[str, str | int | float | bool | list[str] | None]
    opens: NotRequired[OpensSite]


@with_config(STRICT)
class AuthorErased(TypedDict):
    """An author's key was destroyed. CommentErased follows in every thread that they wrote in under it."""

    author_id: str
    key_id: str
    opens: NotRequired[OpensSite]


@with_config(STRICT)
class Text(TypedDict):
    """Sealed in CommentPosted and ReplyPosted. Name and avatar are as they were when posting."""

    body: str
    name: str
    avatar: NotRequired[str]


@with_config(STRICT)
class Body(TypedDict):
    """Sealed in CommentEdited."""

    body: str


@with_config(STRICT)
class Detail(TypedDict):
    """Sealed in CommentReported."""

    detail: str


@with_config(STRICT)
class Reason(TypedDict):
    """Sealed in what moderators decide of a comment, under the key of its author: it may name them, and goes
    with them."""

    reason: str
