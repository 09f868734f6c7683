"""`threadlog thread`: a thread as its readers have it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
import typer

from services.core.page import PageRequest, Place
from services.core.pagejson import Reader, page_json
from services.errors import CommentNotFound
from services.ops.exits import run
from services.ops.output import print_json, say
from services.ops.selection import thread_named
from services.settings import Settings
from services.wiring import resources

_LIMIT: Final = 100
_REPLIES: Final = 20
_LEVELS: Final = 10

app = typer.Typer(help="Look at threads.", no_args_is_help=True)

Ask = Callable[[PageRequest], Awaitable[dict[str, Any]]]
"""Gives a page as the contract has it; its cursors are posting versions."""


@app.command(epilog="Example: threadlog thread show blog article-17")
def show(
    site: Annotated[str, typer.Argument(help="The site.")],
    thread: Annotated[str, typer.Argument(help="The thread's key.")],
    moderator: Annotated[
        bool, typer.Option("--moderator", help="With the texts that only a moderator sees.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many comments.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print a thread as an indented tree, from its view."""
    run(_show(Settings.load(), site, thread, moderator, limit, as_json))


async def _show(
    settings: Settings, site: str, thread: str, moderator: bool, limit: int, as_json: bool
) -> None:
    async with resources(settings) as found:
        name = await thread_named(found, site, thread)
        known = await found.sites.get(site)
        assert known is not None
        comment_url = known.settings.comment_url

        async def ask(request: PageRequest) -> dict[str, Any]:
            page = await found.reader.page(name.stream_id, request)
            if page.head is None:  # the log has events: thread_named saw them
                raise CommentNotFound("any")
            made = page_json(
                page.selection,
                page.head,
                cursor=_named,
                comment_url=comment_url,
                reader=Reader(moderator=moderator),
            )
            answer: dict[str, Any] = orjson.loads(made)
            answer["stale"] = page.stale
            return answer

        whole = await whole_thread(ask, limit)
    if as_json:
        print_json(whole)
    else:
        print_tree(whole)


async def whole_thread(ask: Ask, limit: int) -> dict[str, Any]:
    """All comments of a thread, at most `limit`, as one page: lists that were cut are completed."""
    left = [limit]
    page = await _rest(ask, None, None, left)
    stack = list(page["comments"])
    while stack and left[0] > 0:
        comment = stack.pop()
        replies = comment["replies"]
        if replies["more"]:
            rest = await _rest(ask, UUID(comment["id"]), replies["after"], left)
            replies["items"] += rest["comments"]
            replies["more"] -= len(rest["comments"])
            replies["after"] = rest["after"]
        stack.extend(replies["items"])
    return page


def _named(_parent: int, posted: int, _score: float) -> str:
    return str(posted)


async def _rest(ask: Ask, parent: UUID | None, after: str | None, left: list[int]) -> dict[str, Any]:
    """The comments below `parent` behind `after`, page by page, while any are `left` to show."""
    first: dict[str, Any] | None = None
    while first is None or (first["after"] is not None and left[0] > 0):
        request = PageRequest(
            limit=max(1, min(_LIMIT, left[0])),
            replies=_REPLIES,
            depth=_LEVELS,
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
    say(f"{title}  ({thread['comments']:,} comments, {thread['state']}, version {thread['version']:,})")
    if page.get("stale"):
        say("stale: the view is parked, or Redis is away")
    # A thread may be a thousand replies deep: no recursion.
    stack: list[tuple[dict[str, Any], int]] = [(comment, 0) for comment in reversed(page["comments"])]
    while stack:
        comment, depth = stack.pop()
        say(tree_line(comment, depth))
        replies = comment["replies"]
        if replies["more"]:
            say(f"{'  ' * (depth + 1)}… {replies['more']:,} more replies")
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
