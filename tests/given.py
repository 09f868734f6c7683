"""Given what happened, when a command comes, then these events or this refusal.

A `Fact` is an event without its place; `folded` places facts one after the other, as the log would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from schema.events.envelope import GENESIS, Recorded, canonical, chain_of
from services.core.commands import Rules, Sealed, ThreadCommand
from services.core.decide import decide
from services.core.deciding.events import NewEvent
from services.core.site import SiteSettings
from services.core.thread import ThreadState, evolve, timestamp
from services.errors import Refusal
from tests.factories import BLOG, LONG_AGO, Named, Place, at, id_of, key_id_of, mac_of, words

Data = dict[str, Any]
A_MINUTE_LATER = at(60)


@dataclass(frozen=True, slots=True)
class Fact:
    """What an event says; `data` may need the thread before it. `second`: after START."""

    type: str
    data: Callable[[ThreadState], Data]
    event_id: UUID
    by: str | None
    second: float = 0
    text: Sealed | None = None
    schema_version: int = 1


def recorded(fact: Fact, thread: ThreadState, *, place: Place = BLOG, version: int | None = None) -> Recorded:
    """The fact as the log would record it behind `thread`."""
    version = thread.version + 1 if version is None else version
    event = Recorded(
        stream_id=place.stream_id,
        version=version,
        event_id=fact.event_id,
        type=fact.type,
        schema_version=fact.schema_version,
        actor_id=fact.by,
        correlation_id=None,
        causation_id=None,
        recorded_at=at(fact.second),
        data=canonical(fact.data(thread)),
        sealed=None if fact.text is None else fact.text.ciphertext,
        key_id=None if fact.text is None else fact.text.key_id,
        hash=GENESIS,
        lane=0,
        position=version,
    )
    return event._replace(hash=chain_of(thread.last_hash, event))


def folded(given: Iterable[Fact], place: Place = BLOG) -> ThreadState:
    """The thread after these facts."""
    thread = ThreadState(place.stream_id, place.site, place.key)
    for fact in given:
        evolve(thread, recorded(fact, thread, place=place))
    return thread


def then(
    given: Iterable[Fact],
    when: ThreadCommand,
    *,
    refuses: Refusal | None = None,
    events: Iterable[NewEvent] | None = None,
    now: datetime = A_MINUTE_LATER,
    **settings: Any,
) -> None:
    """Assert what `when` leads to: `refuses` is compared by type and message, `events` one by one."""
    decision = decide(when, folded(given), now, Rules(SiteSettings(**settings)))
    if refuses is not None:
        assert isinstance(decision, Refusal), f"not refused: {decision}"
        assert (type(decision), str(decision), vars(decision)) == (
            type(refuses),
            str(refuses),
            vars(refuses),
        )
    else:
        assert not isinstance(decision, Refusal), f"refused: {decision!r}"
        assert list(decision) == list(events or ())


def _about(name: Named) -> Callable[[ThreadState], Data]:
    def data(thread: ThreadState) -> Data:
        comment = thread.comments.get(id_of(name))
        return {"comment_id": str(id_of(name)), "posted": 0 if comment is None else comment.posted}

    return data


def _event(name: str, what: str) -> UUID:
    return id_of(f"{what} of {name}")


def posted(
    name: str, *, by: str = "ann", second: float = 0, when: datetime | None = None, tombstone: bool = False
) -> Fact:
    """A comment at the root; its text is its name. `when`: it was imported, from that time."""
    data: Data = {"text_mac": "" if tombstone else mac_of(name)}
    if tombstone or when is not None:
        data["imported"] = {"created_at": timestamp(when or LONG_AGO), "source_id": name}
    if tombstone:
        data["tombstone"] = True
        return Fact("CommentPosted", lambda _: data, id_of(name), None, second)
    return Fact("CommentPosted", lambda _: data, id_of(name), by, second, words(name, by))


def replied(name: str, *, to: str, by: str = "bob", second: float = 0) -> Fact:
    """A comment below another."""

    def data(thread: ThreadState) -> Data:
        parent = thread.comments[id_of(to)]
        return {
            "parent_id": str(parent.id),
            "parent": parent.posted,
            "depth": parent.depth + 1,
            "text_mac": mac_of(name),
        }

    return Fact("ReplyPosted", data, id_of(name), by, second, words(name, by))


def edited(name: str, text: str, *, revision: int = 2, by: str = "author", second: float = 0) -> Fact:
    """A new text."""
    data = _about(name)
    said = {"revision": revision, "by": by, "text_mac": mac_of(text)}
    sealed = words(text)._replace(key_id=key_id_of("ann"))
    return Fact(
        "CommentEdited", lambda t: data(t) | said, _event(name, f"edit {revision}"), "ann", second, sealed
    )


def deleted(name: str, *, by: str = "ann", second: float = 0) -> Fact:
    """Taken back by its author."""
    return Fact("CommentDeleted", _about(name), _event(name, "deletion"), by, second)


def removed(name: str, *, second: float = 0) -> Fact:
    """Removed by a moderator."""
    return Fact("CommentRemoved", _about(name), _event(name, "removal"), "mod", second)


def hidden(name: str, *, second: float = 0) -> Fact:
    """Hidden by reports."""
    data = _about(name)
    said = {"rule": "reports", "threshold": 5.0, "total": 5.0}
    return Fact("CommentHidden", lambda t: data(t) | said, _event(name, "hiding"), None, second)


def hidden_by_moderator(name: str, *, second: float = 0) -> Fact:
    """Hidden by a moderator."""
    data = _about(name)
    what = _event(name, "hiding by a moderator")
    return Fact(
        "CommentHidden", lambda t: data(t) | {"rule": "moderator"}, what, "mod", second, schema_version=2
    )


def approved(name: str, *, second: float = 0) -> Fact:
    """Approved by a moderator."""
    data = _about(name)

    def said(thread: ThreadState) -> Data:
        comment = thread.comments.get(id_of(name))
        return data(thread) | {"from": "visible" if comment is None else comment.state.value}

    return Fact("CommentApproved", said, _event(name, "approval"), "mod", second)


def restored(name: str, *, second: float = 0) -> Fact:
    """Made visible again by a moderator."""
    return Fact("CommentRestored", _about(name), _event(name, "restoring"), "mod", second)


def reported(name: str, *, by: str, weight: float = 1.0, second: float = 0) -> Fact:
    """Reported once."""
    data = _about(name)
    said = {"revision": 1, "reason": "spam", "weight": weight}
    return Fact("CommentReported", lambda t: data(t) | said, _event(name, f"report by {by}"), by, second)


def voted(name: str, value: int, *, by: str, previous: int = 0, second: float = 0) -> Fact:
    """A vote, changed from `previous`."""
    data = _about(name)
    said = {"value": value, "previous": previous}
    what = f"vote {previous} {value} by {by}"
    return Fact("CommentVoted", lambda t: data(t) | said, _event(name, what), by, second)


def erased(name: str, *, second: float = 0) -> Fact:
    """Its author was erased."""
    return Fact("CommentErased", _about(name), _event(name, "erasure"), None, second)


def described(title: str | None, url: str | None, *, by: str = "client", second: float = 0) -> Fact:
    """The page was described, by a client or by the site."""
    data = {"title": title, "url": url, "by": by}
    return Fact("ThreadDescribed", lambda _: data, id_of(f"{title} {url}"), by, second)


def closed(*, second: float = 0) -> Fact:
    """The thread was closed."""
    return Fact("ThreadClosed", lambda _: {}, id_of("closing"), "mod", second)


def reopened(*, second: float = 0) -> Fact:
    """The thread was reopened."""
    return Fact("ThreadReopened", lambda _: {}, id_of("reopening"), "mod", second)
