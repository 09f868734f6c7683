"""Pages and comments as they once were: structure, counts and votes of a version, told from the log.

Text is that of the version too, but never what its comment's present state keeps from this reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from aiohttp import web

from services.api.answers import etag, head_of, read
from services.api.asking import AskedComment, AskedPage
from services.api.context import Visit
from services.api.deps import Api
from services.core.node import ID, LETTERS, MEMBERS, STATE, without_text
from services.core.page import Picked, Place
from services.core.pagejson import Reader, comment_json, is_shown, page_json
from services.core.thread import CommentState
from services.errors import CursorInvalid, VersionNotReached
from services.projection.logpages import LogPages

_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)


async def page(
    request: web.Request, api: Api, here: Visit, asked: AskedPage, as_of: int | datetime
) -> web.Response:
    """A page of the thread as it was.

    Raises Problem `unauthenticated` or `forbidden`, VersionNotReached, ParentNotFound, CommentNotFound,
    CursorInvalid.
    """
    stream_id, wanted = asked.thread.stream_id, asked.page
    version = await _version(api, here, stream_id, as_of)
    scope, parent = _scope(stream_id, version), None
    if asked.after is not None:
        parent, place = api.cursors.place(scope, wanted.sort, asked.after)
        wanted = replace(wanted, after=place)
    found, selection = await api.log_pages.page(stream_id, wanted, version)
    if parent is not None and parent != selection.parent:
        raise CursorInvalid("the cursor was not made by this list")
    picked, withheld = await as_shown(api.log_pages, selection.picked, here.reader)

    def cursor(parent: int, last: int, score: float) -> str:
        return api.cursors.comments(scope, wanted.sort, parent, Place(last, score))

    head = head_of(found, asked.thread.key)
    body = page_json(
        replace(selection, picked=tuple(picked)),
        head,
        cursor=cursor,
        comment_url=here.site.settings.comment_url,
        reader=here.reader,
    )
    return read(request, here, body, etag(head, scope, here, wanted, withheld), version)


async def one(
    request: web.Request, api: Api, here: Visit, asked: AskedComment, as_of: int | datetime
) -> web.Response:
    """A comment as it was. Raises as `page`, CommentNotFound where it was not there yet."""
    stream_id = asked.thread.stream_id
    version = await _version(api, here, stream_id, as_of)
    head, found, path = await api.log_pages.comment(stream_id, asked.comment_id, version)
    [picked], withheld = await as_shown(api.log_pages, [found], here.reader)
    body = comment_json(picked, path, head, comment_url=here.site.settings.comment_url, reader=here.reader)
    tag = etag(head, _scope(stream_id, version), here, asked.comment_id, withheld)
    return read(request, here, body, tag, version)


async def _version(api: Api, here: Visit, stream_id: UUID, as_of: int | datetime) -> int:
    """The version that is asked for, where this caller may ask. Raises Problem, VersionNotReached."""
    if not here.site.settings.public_history:
        here.overseer()
    if isinstance(as_of, datetime):
        return await api.log_pages.version_at(stream_id, min(max(as_of, _FIRST), _LAST))
    last = await api.log.head(stream_id)
    reached = 0 if last is None else last[0]
    if as_of > reached:
        raise VersionNotReached(as_of, reached)
    return as_of


def _scope(stream_id: UUID, version: int) -> UUID:
    """What stands for the thread at this version in cursors and tags: those of another version do not fit."""
    named = b"as of" + stream_id.bytes + version.to_bytes(8, "big")
    return UUID(bytes=hashlib.sha256(named).digest()[:16])


async def as_shown(
    log_pages: LogPages, picked: Sequence[Picked], reader: Reader
) -> tuple[list[Picked], tuple[int, ...]]:
    """The comments without the texts that their present states keep from this reader, and whose those are."""
    ids = [UUID(one.raw[ID].decode()) for one in picked]
    states = await log_pages.states(ids) if ids else {}
    shown: list[Picked] = []
    withheld: list[int] = []
    for comment_id, one in zip(ids, picked, strict=True):
        letter = LETTERS[states.get(comment_id, CommentState.ERASED)]
        if is_shown(one.raw[:STATE] + letter + one.raw[MEMBERS:], reader):
            shown.append(one)
        else:
            shown.append(one._replace(raw=one.raw[:MEMBERS] + without_text(one.raw)))
            withheld.append(one.posted)
    return shown, tuple(withheld)
