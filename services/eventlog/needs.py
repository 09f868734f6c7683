"""What the load must bring for a batch: found in its commands, before the lane is locked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from services.core.addresses import site_stream_id
from services.core.commands import (
    Command,
    DeleteComment,
    EditComment,
    EraseComments,
    ModerateComment,
    PostComment,
    ReportComment,
    Sealed,
    ThreadCommand,
    VoteComment,
)


@dataclass(slots=True)
class Needs:
    """What the load must bring for a batch."""

    streams: set[UUID] = field(default_factory=set)
    comments: set[UUID] = field(default_factory=set)
    parents: set[UUID] = field(default_factory=set)
    reports: set[tuple[UUID, str]] = field(default_factory=set)
    votes: set[tuple[UUID, str]] = field(default_factory=set)
    key_macs: set[bytes] = field(default_factory=set)
    keys: set[UUID] = field(default_factory=set)


def text_of(command: Command) -> Sealed | None:
    """What a command has sealed."""
    match command:
        case PostComment(text=sealed) | EditComment(text=sealed) | ReportComment(detail=sealed):
            return sealed
        case ModerateComment(reason=sealed):
            return sealed
        case _:
            return None


def needs_of(commands: Iterable[Command]) -> Needs:
    """What deciding `commands` takes from the decision state."""
    needs = Needs()
    for command in commands:
        needs.streams.add(command.stream_id)
        if isinstance(command, ThreadCommand):
            needs.streams.add(site_stream_id(command.site))
        if command.idempotency is not None:
            needs.key_macs.add(command.idempotency.key_mac)
        if (sealed := text_of(command)) is not None:
            needs.keys.add(sealed.key_id)
        _add_comments(needs, command)
    return needs


def _add_comments(needs: Needs, command: Command) -> None:
    match command:
        case PostComment():
            if command.parent_id is not None:
                needs.parents.add(command.parent_id)
            if command.imported is not None:
                needs.comments.add(command.event_id)
        case EditComment() | DeleteComment() | ModerateComment():
            needs.comments.add(command.comment_id)
        case ReportComment():
            needs.comments.add(command.comment_id)
            if command.actor.id is not None:
                needs.reports.add((command.comment_id, command.actor.id))
        case VoteComment():
            needs.comments.add(command.comment_id)
            if command.actor.id is not None:
                needs.votes.add((command.comment_id, command.actor.id))
        case EraseComments():
            needs.comments.update(command.comment_ids)
        case _:
            pass
