"""The events that people may be told of, or whose telling must wait, as the notifier reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from schema.events.envelope import Recorded
from schema.events.registry import CONTRACTS, UPCASTERS, TypeUnknown

What = Literal["post", "edit", "hide", "show", "remove", "delete", "erase"]

_ABOUT: Final[dict[str, What]] = {
    "CommentEdited": "edit",
    "CommentHidden": "hide",
    "CommentApproved": "show",
    "CommentRestored": "show",
    "CommentRemoved": "remove",
    "CommentDeleted": "delete",
    "CommentErased": "erase",
}
_POSTED: Final = frozenset({"CommentPosted", "ReplyPosted"})

READ: Final = (*_POSTED, *_ABOUT)
"""The types whose data are read; of all others the type alone."""
TEXTS: Final = (*_POSTED, "CommentEdited")
"""The types that bring a text."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an event did to one comment, which was posted at the version `posted`."""

    event: Recorded
    what: What
    comment_id: UUID
    posted: int
    parent_id: UUID | None = None
    imported: bool = False


def step_of(event: Recorded) -> Step | None:
    """What an event did; None where nobody is ever told of its like.

    Raises TypeUnknown for what a newer release wrote: whom that concerns is for it to say. Raises whatever
    else may come of data that are not as they should be.
    """
    type_ = event.type
    if type_ in _POSTED:
        payload = UPCASTERS.payload(type_, event.schema_version, event.data)
        parent_id = UUID(payload["parent_id"]) if type_ == "ReplyPosted" else None
        return Step(event, "post", event.event_id, event.version, parent_id, "imported" in payload)
    if (what := _ABOUT.get(type_)) is not None:
        payload = UPCASTERS.payload(type_, event.schema_version, event.data)
        return Step(event, what, UUID(payload["comment_id"]), payload["posted"])
    if type_ not in CONTRACTS or event.schema_version > CONTRACTS[type_].schema_version:
        raise TypeUnknown(f"{type_} at schema version {event.schema_version}")
    return None
