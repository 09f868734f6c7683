"""`threadlog thread`: a thread as its readers have it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
import typer

from services.core.addresses import parse_comment_id
from services.core.page import PageRequest, Place
from services.core.pagejson import Reader, page_json
from services.errors import CommentNotFound, VersionNotReached
from services.eventlog.log import ThreadName
from services.ops.choosing import time_of
from services.ops.exits import UsageRefused, run
from services.ops.output import print_json, say
from services.ops.selection import thread_named
from services.settings import Settings
from services.wiring import Resources, resources

_LIMIT: Final = 100
_REPLIES: Final = 20
_LEVELS: Final = 10
DEEPEST: Final = 80
"""Levels of replies shown, at most: no JSON is written that nests deeper, and no screen has room for it."""

app = typer.Typer(help="Look at threads.", no_args_is_help=True)

Ask = Callable[[PageRequest], Awaitable[dict[str, Any]]]
"""Gives a page as the contract has it; its cursors are posting versions."""


@app.command(epilog="Example: threadlog thread show blog article-17 --as-of 2026-11-23T05:00:00Z")
def show(
    site: Annotated[str, typer.Argument(help="The site.")],
    thread: Annotated[str, typer.Argument(help="The thread's key.")],
    as_of: Annotated[
        str | None,
        typer.Option(help="As it was at this version, or at this time: 2026-11-23T05:00:00Z, or 2h, 3d ago."),
    ] = None,
    below: Annotated[str | None, typer.Option(help="The replies to this comment alone.")] = None,
    depth: Annotated[
        int, typer.Option(min=0, max=DEEPEST, help="Levels of replies; what lies deeper is counted.")
    ] = 60,
    moderator: Annotated[
        bool, typer.Option("--moderator", help="With the texts that only a moderator sees.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many comments.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print a thread as an indented tree: from its view, or from the log, as it once was.

    What was removed, deleted or erased since has no text in the past either.
    """
    when = None if as_of is None else moment_of(as_of)
    parent = None if below is None else parse_comment_id(below)
    if below is not None and parent is None:
        raise CommentNotFound(below)
    shown = Shown(site, thread, when, parent, depth, limit, Reader(moderator=moderator))
    page = run(_show(Settings.load(), shown))
    if as_json:
        print_json(page)
    else:
        print_tree(page)


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a thread is to be shown, and to whom."""

    site: str
    key: str
    when: int | datetime | None
    parent: UUID | None
    depth: int
    limit: int
    reader: Reader


def moment_of(told: str) -> int | datetime:
    """A version, or a time with its zone. Raises UsageRefused."""
    return int(told) if told.isascii() and told.isdigit() else time_of(told)


async def _show(settings: Settings, shown: Shown) -> dict[str, Any]:
    from services.api.history import as_shown

    async with resources(settings) as found:
        name = await thread_named(found, shown.site, shown.key)
        known = await found.sites.get(shown.site)
        assert known is not None
        comment_url = known.settings.comment_url
        version = None if shown.when is None else await _version(found, name, shown.when)

        async def ask(request: PageRequest) -> dict[str, Any]:
            stale = False
            if version is None:
                page = await found.reader.page(name.stream_id, request)
                head, selection, stale = page.head, page.selection, page.stale
            else:
                head, selection = await found.log_pages.page(name.stream_id, request, version)
                picked, _ = await as_shown(found.log_pages, selection.picked, shown.reader)
                selection = replace(selection, picked=tuple(picked))
            if head is None:  # the log has events: thread_named saw them
                raise CommentNotFound("any")
            made = page_json(selection, head, cursor=_named, comment_url=comment_url, reader=shown.reader)
            answer: dict[str, Any] = orjson.loads(made)
            return answer | {"stale": stale}

        whole = await whole_thread(ask, shown.limit, shown.depth, shown.parent)
        return whole if version is None else whole | {"as_of": version}


async def _version(found: Resources, name: ThreadName, when: int | datetime) -> int:
    """The version that the thread had. Raises VersionNotReached, and UsageRefused where it had none yet."""
    if isinstance(when, datetime):
        version = await found.log.version_at(name.stream_id, when)
    else:
        version = when
        if version > name.version:
            raise VersionNotReached(version, name.version)
    if version == 0:
        raise UsageRefused(f"the thread {name.key!r} of {name.site} had no events then")
    return version


async def whole_thread(
    ask: Ask, limit: int, depth: int = DEEPEST, parent: UUID | None = None
) -> dict[str, Any]:
    """All comments of a thread, or below one of them, at most `limit`, as one page: lists that were cut are
    completed, down to `depth` levels of replies."""
    left = [limit]
    page = await _rest(ask, parent, None, left, depth)
    stack = [(comment, depth) for comment in page["comments"]]
    while stack and left[0] > 0:
        comment, levels = stack.pop()
        replies = comment["replies"]
        if replies["more"] and levels > 0:
            rest = await _rest(ask, UUID(comment["id"]), replies["after"], left, levels - 1)
            replies["items"] += rest["comments"]
            replies["more"] -= len(rest["comments"])
            replies["after"] = rest["after"]
        stack.extend((reply, levels - 1) for reply in replies["items"])
    return page


def _named(_parent: int, posted: int, _score: float) -> str:
    return str(posted)


async def _rest(
    ask: Ask, parent: UUID | None, after: str | None, left: list[int], levels: int
) -> dict[str, Any]:
    """The comments below `parent` behind `after`, page by page, while any are `left` to show."""
    first: dict[str, Any] | None = None
    while first is None or (first["after"] is not None and left[0] > 0):
        request = PageRequest(
            limit=max(1, min(_LIMIT, left[0])),
            replies=_REPLIES,
            depth=min(_LEVELS, levels),
            parent_id=parent,
            after=None if after is None else Place(int(after)),
        )
        page = await ask(request)
        left[0] -= _count(page["comments"])
        if first is None:
            first = page
        else:
            first["comments"] += page["comments"]
            first["after"] = page["after"]
        after = page["after"]
    return first


def _count(comments: list[dict[str, Any]]) -> int:
    counted, stack = 0, list(comments)
    while stack:
        comment = stack.pop()
        counted += 1
        stack.extend(comment["replies"]["items"])
    return counted


def print_tree(page: dict[str, Any]) -> None:
    """The thread's head line, then its comments, indented by their depth."""
    thread = page["thread"]
    title = thread["title"] or thread["key"]
    then = "as of version" if "as_of" in page else "version"
    say(f"{title}  ({thread['comments']:,} comments, {thread['state']}, {then} {thread['version']:,})")
    if page.get("stale"):
        say("stale: the view is parked, or Redis is away")
    # A thread may be a thousand replies deep: no recursion.
    stack: list[tuple[dict[str, Any], int]] = [(comment, 0) for comment in reversed(page["comments"])]
    while stack:
        comment, depth = stack.pop()
        say(tree_line(comment, depth))
        replies = comment["replies"]
        if replies["more"]:
            say(f"{'  ' * (depth + 1)}… {replies['more']:,} more: --below {comment['id']}")
        stack.extend((reply, depth + 1) for reply in reversed(replies["items"]))
    if page["after"] is not None:
        say("… and more; --limit shows them")


def tree_line(comment: dict[str, Any], depth: int, width: int = 100) -> str:
    """One comment on one line: who, its votes, what."""
    indent = "  " * depth
    if comment["body"] is None:
        said = f"[{comment['state']}]"
    else:
        who = comment["author"]["name"] if comment["author"] else "nobody"
        state = "" if comment["state"] == "visible" else f" [{comment['state']}]"
        edited = " (edited)" if comment["revision"] > 1 else ""
        up, down = comment["votes"]["up"], comment["votes"]["down"]
        votes = f" +{up:,} -{down:,}" if up or down else ""
        said = f"{who}{state}{edited}{votes}: {' '.join(comment['body'].split())}"
    room = max(40, width - len(indent))
    if len(said) > room:
        said = said[: room - 1].rstrip() + "…"
    return f"{indent}• {said}"
