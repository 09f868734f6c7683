"""The decisions: what a command adds to its stream, or why it adds nothing. Pure.

`decide` sees the state under the lane's lock. Whatever it takes from outside the stream (a setting, a
report's weight) is written into the event, so that a replay repeats the decision without asking again.
The parts are in `services.core.deciding`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from services.core.commands import (
    ChangeSettings,
    ChangeThread,
    DeleteComment,
    EditComment,
    EraseAuthor,
    EraseComments,
    ModerateComment,
    PostComment,
    ReportComment,
    Rules,
    ThreadCommand,
    VoteComment,
)
from services.core.deciding.events import Decision, first
from services.core.deciding.moderating import change_thread, moderate
from services.core.deciding.posting import delete, edit, erase, post
from services.core.deciding.reporting import report, vote
from services.core.site import SiteState
from services.core.thread import ThreadState
from services.errors import FieldInvalid


def decide(command: ThreadCommand, thread: ThreadState, now: datetime, rules: Rules) -> Decision:
    """The events that `command` adds to `thread` at `now` (UTC), none for a no-op, or why it is refused."""
    match command:
        case PostComment():
            return post(command, thread, rules)
        case EditComment():
            return edit(command, thread, now, rules)
        case DeleteComment():
            return delete(command, thread)
        case ReportComment():
            return report(command, thread, rules)
        case VoteComment():
            return vote(command, thread)
        case ModerateComment():
            return moderate(command, thread)
        case ChangeThread():
            return change_thread(command, thread)
        case EraseComments():
            return erase(command, thread)
        case _:
            raise TypeError(f"no decision for {type(command).__name__}")


def decide_site(command: ChangeSettings | EraseAuthor, site: SiteState) -> Decision:
    """The events that `command` adds to the site's stream."""
    if isinstance(command, EraseAuthor):
        erased: dict[str, Any] = {"author_id": command.author_id, "key_id": str(command.key_id)}
        if site.version == 0:
            erased["opens"] = {"site": command.site}
        return (first(command, "AuthorErased", erased),)
    try:
        changed = site.settings.changed(command.changes)
    except ValidationError as error:
        wrong = error.errors()[0]
        return FieldInvalid(".".join(map(str, wrong["loc"])), wrong["msg"])
    if changed == site.settings:
        return ()
    data: dict[str, Any] = {"changes": command.changes}
    if site.version == 0:
        data["opens"] = {"site": command.site}
    return (first(command, "SiteSettingsChanged", data),)
