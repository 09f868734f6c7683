"""What all writes share: the Idempotency-Key, the event's id, the way into the log."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypedDict
from uuid import UUID

from aiohttp import hdrs, web
from asyncpg.pgproto import pgproto

from services.api.auth import Caller
from services.api.context import IDEMPOTENCY_KEY, REQUEST_ID, Thread, Visit, single
from services.api.deps import API, Api
from services.api.problems import Problem
from services.core.addresses import event_id_bytes
from services.core.commands import Actor, Command, Idempotency
from services.core.thread import CommentState
from services.errors import CommentNotFound, CommentNotOpen, KeyDestroyed
from services.eventlog.batch import Appended
from services.eventlog.keys import AuthorKey

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_KEYS: Final = 3
"""How often somebody's key may be destroyed while a text of theirs is being written."""
_REVISION: Final = re.compile(r'"([1-9][0-9]{0,8})"')


def event_id() -> UUID:
    """A new UUIDv7. It is a UUID of asyncpg's, which is made, hashed and written ten times as fast as the
    standard library's."""
    return pgproto.UUID(event_id_bytes(time.time_ns() // 1_000_000, os.urandom(10)))


def correlation_id(request: web.Request) -> str:
    """What the events of this request are found by."""
    return request[REQUEST_ID]


def idempotency(request: web.Request, stream_id: UUID, actor_id: str, body: bytes) -> Idempotency | None:
    """The MACs of the Idempotency-Key, in its scope of stream and author, and of the request.

    The request is its method, its route and what the path names, If-Match and body. Raises Problem
    `bad-header` for a key that is none.
    """
    key = single(request, IDEMPOTENCY_KEY)
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise Problem("bad-header", "an Idempotency-Key is 1 to 255 visible ASCII characters")
    secret = request.app[API].idempotency_key
    named = request.match_info
    resource = named.route.resource
    path = (
        "" if resource is None else resource.canonical,
        named["site"],
        stream_id.hex,
        named["comment"].lower() if "comment" in named else "",
    )
    return Idempotency(
        _mac(secret, b"key", stream_id.bytes, actor_id.encode(), key.encode()),
        _mac(
            secret,
            b"request",
            request.method.encode(),
            "\n".join(path).encode(),
            request.headers.get(hdrs.IF_MATCH, "").encode("utf-8", "surrogateescape"),
            body,
        ),
    )


def _mac(secret: bytes, *parts: bytes) -> bytes:
    """Keyed BLAKE2b (RFC 7693) over the parts, each behind its length, so that no two lists look alike."""
    framed = b"".join([len(part).to_bytes(4, "big") + part for part in parts])
    return hashlib.blake2b(framed, digest_size=32, key=secret).digest()


def expected_revision(request: web.Request) -> int:
    """The revision in If-Match. Raises Problem `revision-required` or `bad-header`."""
    given = single(request, hdrs.IF_MATCH)
    if given is None:
        raise Problem("revision-required")
    found = _REVISION.fullmatch(given.strip())
    if found is None:
        raise Problem("bad-header", 'If-Match takes one revision, as in "1"')
    return int(found[1])


class CommandFields(TypedDict):
    """What all commands to a thread have in common."""

    site: str
    stream_id: UUID
    key: str
    event_id: UUID
    actor: Actor
    correlation_id: str
    idempotency: Idempotency | None


def command_fields(
    request: web.Request, here: Visit, thread: Thread, caller: Caller, body: bytes
) -> CommandFields:
    """The common part of the command that this request asks for. Raises Problem `bad-header`."""
    return {
        "site": here.site.name,
        "stream_id": thread.stream_id,
        "key": thread.key,
        "event_id": event_id(),
        "actor": caller.actor,
        "correlation_id": correlation_id(request),
        "idempotency": idempotency(request, thread.stream_id, caller.id, body),
    }


async def key_of_comment(
    api: Api, here: Visit, caller: Caller, thread: Thread, comment_id: UUID
) -> AuthorKey:
    """The key of a comment's author, which its texts and what is decided of it are sealed under. Raises
    CommentNotFound, CommentNotOpen."""
    sealed_under = await api.log.comment_key(thread.stream_id, comment_id)
    if sealed_under is None:
        raise CommentNotFound(comment_id)
    key_id = sealed_under[1]
    if key_id is None:
        # A placeholder without a text or an author: the decision refuses, whatever the key.
        return await api.keyring.for_author(here.site.name, caller.id)
    try:
        return await api.keyring.one(key_id)
    except KeyDestroyed:
        raise CommentNotOpen(comment_id, CommentState.ERASED) from None


async def submit(api: Api, command: Callable[[], Awaitable[Command]]) -> Appended:
    """Append what the command adds. Where the key that it was sealed under is gone, it is made anew.

    Raises what `Appenders.submit` raises.
    """
    for _ in range(_KEYS):
        try:
            return await api.appenders.submit(await command())
        except KeyDestroyed as gone:
            api.keyring.forget(gone.key_id)
    return await api.appenders.submit(await command())
