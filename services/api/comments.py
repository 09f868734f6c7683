"""Writing comments: post, edit, delete."""

from __future__ import annotations

from aiohttp import web

from services.api import outcomes
from services.api.answers import written
from services.api.bodies import CommentEdit, NewComment, ThreadMetadata, body_of, raw_body
from services.api.context import Thread, Visit, comment_of, thread_of, visit
from services.api.deps import API
from services.api.problems import text_refused
from services.api.queries import NoQuery, query_of
from services.api.writing import (
    command_fields,
    correlation_id,
    event_id,
    expected_revision,
    idempotency,
    key_of_comment,
    submit,
)
from services.core.addresses import parse_comment_id
from services.core.commands import DeleteComment, Description, EditComment, PostComment
from services.core.text import TITLE_CODE_POINTS, TextRefused, check_url, normalise_body, normalise_line
from services.errors import ParentNotFound


async def post(request: web.Request) -> web.Response:
    """Post a comment, below another where `parent_id` names it; a thread's first one opens the thread."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    caller = here.writer()
    query_of(request, NoQuery)
    asked, raw = await body_of(request, NewComment)
    body = body_text(asked.body)
    parent_id = None if asked.parent_id is None else parse_comment_id(asked.parent_id)
    if asked.parent_id is not None and parent_id is None:
        raise ParentNotFound("by that name")
    describe = None if asked.thread is None else _description(asked.thread)
    key = idempotency(request, thread.stream_id, caller.id, raw)
    new_id = event_id()
    text = {"body": body, "name": caller.name}
    if caller.avatar is not None:
        text["avatar"] = caller.avatar

    async def command() -> PostComment:
        author_key = await api.keyring.for_author(here.site.name, caller.id)
        return PostComment(
            site=here.site.name,
            stream_id=thread.stream_id,
            event_id=new_id,
            actor=caller.actor,
            correlation_id=correlation_id(request),
            idempotency=key,
            key=thread.key,
            text=author_key.sealed(new_id, thread.stream_id, text),
            parent_id=parent_id,
            describe=describe,
        )

    appended = await submit(api, command)
    if caller.guest and caller.email is not None:
        api.token_addresses.note(here.site.name, caller.id, caller.email)
    location = f"{_comments_path(here, thread)}/{appended.event_id}"
    if appended.comment is None or appended.repeated:
        answer = await outcomes.comment_now(api, here, thread, appended.event_id, appended, body)
    else:
        answer = outcomes.posted(here, thread, caller, appended, appended.comment, body)
    return written(appended.status, appended.version, answer, location)


async def edit(request: web.Request) -> web.Response:
    """Give a comment a new text, sealed under its author's key whoever edits."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    caller = here.member()
    comment_id = comment_of(request)
    query_of(request, NoQuery)
    revision = expected_revision(request)
    asked, raw = await body_of(request, CommentEdit)
    body = body_text(asked.body)
    key = idempotency(request, thread.stream_id, caller.id, raw)
    new_id = event_id()

    async def command() -> EditComment:
        author_key = await key_of_comment(api, here, caller, thread, comment_id)
        return EditComment(
            site=here.site.name,
            stream_id=thread.stream_id,
            event_id=new_id,
            actor=caller.actor,
            correlation_id=correlation_id(request),
            idempotency=key,
            key=thread.key,
            comment_id=comment_id,
            revision=revision,
            text=author_key.sealed(new_id, thread.stream_id, {"body": body}),
        )

    appended = await submit(api, command)
    answer = await outcomes.comment_now(api, here, thread, comment_id, appended, body)
    return written(appended.status, appended.version, answer)


async def delete(request: web.Request) -> web.Response:
    """Take one's comment back; by a moderator on another's, remove it. Again is 204 and writes nothing."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    caller = here.writer()
    comment_id = comment_of(request)
    query_of(request, NoQuery)
    raw = await raw_body(request)
    appended = await api.appenders.submit(
        DeleteComment(**command_fields(request, here, thread, caller, raw), comment_id=comment_id)
    )
    return written(appended.status, appended.version)


def body_text(raw: str) -> str:
    """A comment's text as it is stored. Raises Problem `invalid`."""
    try:
        return normalise_body(raw)
    except TextRefused as refused:
        raise text_refused("body", refused) from None


def title_text(raw: str | None, field: str) -> str | None:
    """A thread's title as it is stored. Raises Problem `invalid`."""
    try:
        return None if raw is None else normalise_line(raw, what="the title", limit=TITLE_CODE_POINTS)
    except TextRefused as refused:
        raise text_refused(field, refused) from None


def url_text(raw: str | None, field: str) -> str | None:
    """A thread's address as it is stored. Raises Problem `invalid`."""
    try:
        return None if raw is None else check_url(raw)
    except TextRefused as refused:
        raise text_refused(field, refused) from None


def _description(asked: ThreadMetadata) -> Description | None:
    described = Description(title_text(asked.title, "thread.title"), url_text(asked.url, "thread.url"))
    return None if described == Description(None, None) else described


def _comments_path(here: Visit, thread: Thread) -> str:
    return f"/v1/sites/{here.site.name}/threads/{thread.segment}/comments"
