"""What a write is answered with: the comment, or the thread, as the write left it.

The write is in the log by then, so no failure of a view may turn it into an error: where the view cannot be
read, the answer is put together from the log's own events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal
from uuid import UUID

import structlog
from asyncpg.pgproto import pgproto

from schema.events.envelope import Recorded
from schema.events.registry import UPCASTERS
from services.api.answers import Unwritten, head_of
from services.api.auth import Caller
from services.api.context import Thread, Visit
from services.api.deps import Api
from services.core.node import author_fragment, decode, encode, text_fragment
from services.core.page import Picked
from services.core.pagejson import comment_json, thread_json
from services.core.thread import PATH_LENGTH, Comment, CommentState, ThreadState, evolve
from services.errors import CommentNotFound, CommentNotOpen
from services.eventlog.batch import Appended
from services.projection.fold import author_of, open_text
from services.projection.reader import OneComment

_TEXTS: Final = 1000
"""Texts of one comment that are looked through for the newest, where only the log can tell it."""

_log = structlog.get_logger("threadlog.api")


@dataclass(frozen=True, slots=True)
class _Written:
    """A thread as a write left it, as far as a comment's answer shows it."""

    key: str
    title: str | None
    url: str | None
    version: int
    closed: bool = False
    visible: int = 0


def posted(
    here: Visit, thread: Thread, caller: Caller, appended: Appended, comment: Comment, body: str
) -> bytes:
    """The answer to a post, from what the log took: no view is asked."""
    return _shaped(
        here,
        _Written(thread.key, appended.title, appended.url, appended.version),
        comment,
        author_fragment(caller.id, caller.name, caller.avatar, caller.actor.badge),
        text_fragment(body),
    )


async def comment_now(
    api: Api, here: Visit, thread: Thread, comment_id: UUID, appended: Appended, body: str | None
) -> bytes:
    """The comment as it is at the write's version or later; `body` is the text that was sent, if one was.

    Raises CommentNotOpen once it is erased, and what the log raises where only it could tell the text, or how
    a write that is repeated ended: the repeat may be repeated.
    """
    try:
        found = await api.reader.comment(thread.stream_id, comment_id, appended.version)
    except Exception as error:  # noqa: BLE001 - whatever the read fails of, the write is in the log
        _without_view(thread, error)
        try:
            return await _from_log(api, here, thread, comment_id, appended)
        except CommentNotOpen:
            raise
        except Exception:
            if appended.comment is None or body is None:
                raise
            return _from_request(here, thread, appended, appended.comment, body)
    if decode(found.picked.raw).state is CommentState.ERASED:
        raise CommentNotOpen(comment_id, CommentState.ERASED)
    return comment_json(
        found.picked,
        found.path,
        found.head,
        comment_url=here.site.settings.comment_url,
        reader=here.reader,
    )


async def thread_now(
    api: Api,
    thread: Thread,
    appended: Appended,
    described: Mapping[Literal["title", "url"], str | None],
    *,
    closed: bool | None,
) -> bytes:
    """The thread as it is at the write's version or later. `described` and `closed` are what was asked for:
    where the view does not tell, they do."""
    if not appended.version:
        return thread_json(head_of(None, thread.key))
    try:
        head, _ = await api.reader.thread(thread.stream_id, appended.version)
        return thread_json(head_of(head, thread.key))
    except Exception as error:  # noqa: BLE001 - whatever the read fails of, the write is in the log
        _without_view(thread, error)
    try:
        last, _ = await api.reader.thread(thread.stream_id)
    except Exception:  # noqa: BLE001 - neither is there an older view
        last = None
    known = Unwritten(thread.key)
    if last is not None:
        known = replace(known, title=last.title, url=last.url, closed=last.closed, visible=last.visible)
    if appended.repeated:
        title, url = described.get("title", known.title), described.get("url", known.url)
    else:
        title, url = appended.title, appended.url
    return thread_json(
        replace(
            known,
            title=title,
            url=url,
            closed=known.closed if closed is None else closed,
            version=appended.version,
        )
    )


def _without_view(thread: Thread, error: Exception) -> None:
    _log.warning(
        "a write is answered without its view", stream=str(thread.stream_id), error=type(error).__name__
    )


async def _from_log(api: Api, here: Visit, thread: Thread, comment_id: UUID, appended: Appended) -> bytes:
    """The comment from the events with its texts. What lies below it is counted as the last good view has it.

    Raises CommentNotOpen where its author's key is destroyed.
    """
    stream_id = thread.stream_id
    last = await _last_known(api, stream_id, comment_id)
    known = appended.comment
    if known is None:
        versions = await api.log.text_versions(stream_id, comment_id, 0, _TEXTS)
    else:
        versions = [known.posted, known.text_version or known.posted]
    events = {
        event.version: event for event in await api.log.events_at(stream_id, versions[:1] + versions[-1:])
    }
    if not events:
        raise CommentNotFound(comment_id)
    first, newest = events[min(events)], events[max(events)]
    keys = await api.keyring.by_id(event.key_id for event in events.values() if event.key_id is not None)
    posting, text = open_text(first, keys), open_text(newest, keys)
    if posting is None or text is None:
        raise CommentNotOpen(comment_id, CommentState.ERASED)
    comment = await _folded(api, first, newest) if known is None else known
    written = _Written(thread.key, appended.title, appended.url, appended.version)
    if last is not None and known is None:
        seen = decode(last.picked.raw)
        comment.state, comment.up, comment.down = seen.state, seen.up, seen.down
        written = replace(written, title=last.head.title, url=last.head.url)
    return _shaped(
        here,
        written,
        comment,
        author_of(comment, first, posting),
        text_fragment(text["body"]),
        counts=(0, 0) if last is None else (last.picked.children, last.picked.descendants),
    )


def _from_request(here: Visit, thread: Thread, appended: Appended, comment: Comment, body: str) -> bytes:
    """The comment from the decision and what was sent: neither view nor log can be read just now."""
    caller = here.signed_in()
    own = comment.author_id == caller.id
    told = (caller.name, caller.avatar, caller.actor.badge) if own else (None, None, None)
    return _shaped(
        here,
        _Written(thread.key, appended.title, appended.url, appended.version),
        comment,
        author_fragment(comment.author_id, *told),
        text_fragment(body),
    )


async def _last_known(api: Api, stream_id: UUID, comment_id: UUID) -> OneComment | None:
    try:
        return await api.reader.comment(stream_id, comment_id)
    except Exception:  # noqa: BLE001 - there is no view, or it ends before the comment
        return None


async def _folded(api: Api, first: Recorded, newest: Recorded) -> Comment:
    """A comment folded from its posting and its newest text alone."""
    thread = ThreadState(first.stream_id, version=first.version - 1)
    payload = UPCASTERS.payload(first.type, first.schema_version, first.data)
    if "parent" in payload:
        parent = Comment(UUID(payload["parent_id"]), payload["parent"], 0, 0, first.recorded_at)
        parent.path = await _path(api, first.stream_id, parent.posted)
        thread.comments[parent.id] = parent
    comment = evolve(thread, first)
    if newest.version != first.version:
        thread.version = newest.version - 1
        comment = evolve(thread, newest)
    assert comment is not None  # both events are about it
    return comment


async def _path(api: Api, stream_id: UUID, version: int) -> bytes:
    """The ids of the last 32 ancestors of the comment posted at `version`, root first."""
    path: list[bytes] = []
    while len(path) < PATH_LENGTH:
        (event,) = await api.log.events_at(stream_id, [version])
        payload = UPCASTERS.payload(event.type, event.schema_version, event.data)
        if "parent" not in payload:
            break
        version = payload["parent"]
        path.append(UUID(payload["parent_id"]).bytes)
    return b"".join(reversed(path))


def _shaped(
    here: Visit,
    written: _Written,
    comment: Comment,
    author: bytes,
    text: bytes,
    counts: tuple[int, int] = (0, 0),
) -> bytes:
    children, descendants = counts
    path = [pgproto.UUID(comment.path[at : at + 16]) for at in range(0, len(comment.path), 16)]
    return comment_json(
        Picked(comment.posted, comment.parent, encode(comment, author, text), children, descendants, 0),
        path,
        written,
        comment_url=here.site.settings.comment_url,
        reader=here.reader,
    )
