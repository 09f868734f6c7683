"""The scripts, loaded from the package, and how changes are laid out as their arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Sequence
from importlib.resources import files
from typing import Any, Final, Protocol, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.core.node import hidden_author
from services.readmodel import keys
from services.readmodel.frames import Frames
from services.readmodel.line import Line, packed
from services.readmodel.packing import pack_by_hiredis
from services.readmodel.records import Changes, Head

Argument = str | bytes | int
NOBODY: Final[tuple[Argument, ...]] = ("", "", "")
"""Expected of the head where there is to be none."""


class Call(Protocol):
    """A script: sent by its digest, and as a whole where the server does not know it."""

    def __call__(self, keys: Sequence[str], args: Sequence[Argument]) -> Awaitable[object]: ...


class LineScript:
    """A script asked over a line: by its digest, and as a whole where the server does not know it."""

    __slots__ = ("_digest", "_line", "_source")

    def __init__(self, name: str, line: Line) -> None:
        self._line = line
        self._source = _source(name)
        self._digest = hashlib.sha1(self._source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[Argument]) -> object:
        """Its answer. Raises redis.exceptions.RedisError."""
        [answer] = await self.together([(keys, args)])
        return answer

    async def together(self, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """The answers to several calls, by their keys and arguments, made at once. Raises
        redis.exceptions.RedisError."""
        asked = [packed("EVALSHA", self._digest, len(keys), *keys, *args) for keys, args in calls]
        answers = await self._line.tell(*asked) if asked else []
        unknown = [place for place, answer in enumerate(answers) if _is_unknown(answer)]
        if unknown:
            await self._line.ask(packed("SCRIPT", "LOAD", self._source))
            again = await self._line.tell(*(asked[place] for place in unknown))
            for place, answer in zip(unknown, again, strict=True):
                answers[place] = answer
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers


def _is_unknown(answer: object) -> bool:
    return isinstance(answer, ResponseError) and str(answer).startswith("NOSCRIPT")


def _source(name: str) -> str:
    return files("services.readmodel").joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")


class Scripts:
    """The scripts of one client. Each file says what its keys and arguments are."""

    __slots__ = ("clear", "comment", "mark", "retire", "switch", "touch", "write")

    def __init__(self, redis: Redis) -> None:
        pack_by_hiredis(redis.connection_pool)

        def load(name: str) -> Call:
            return cast(Call, redis.register_script(_source(name)))

        self.clear = load("clear")
        self.comment = load("comment")
        self.mark = load("mark")
        self.retire = load("retire")
        self.switch = load("switch")
        self.touch = load("touch")
        self.write = load("write")


def expectation(head: Head | None) -> tuple[Argument, ...]:
    """The first three arguments of every compare-and-set."""
    return NOBODY if head is None else (head.version, head.hash, head.build)


def described(head: Head) -> tuple[Argument, ...]:
    """Meta and stale, as the head keeps them."""
    return (head.meta(), "1" if head.stale else "")


def changed(changes: Changes, frames: Frames) -> list[Argument]:
    """The arguments of write.lua from the eighth on."""
    nodes: list[Argument] = []
    ids: list[Argument] = []
    seen_by: list[Argument] = []
    seen: list[Argument] = []
    listed: list[Argument] = []
    unlisted: list[Argument] = []
    for version, parent, created, raw, comment_id, scores in changes.comments:
        posted = keys.posted(version)
        above = keys.posted(parent)
        nodes += (posted, frames.pack(parent, created, raw))
        if comment_id is not None:
            ids += (comment_id.bytes, posted)
            listed += (b"k:" + above, created, posted)
        author = hidden_author(raw)
        if author is not None:
            seen_by += (posted, author)
        elif comment_id is None:
            seen.append(posted)
        if scores is not None:
            member = created.to_bytes(8, "big") + posted
            for letter, score in zip((b"b:", b"c:"), scores, strict=True):
                if score:
                    listed += (letter + above, repr(-score), member)
                else:
                    unlisted += (letter + above, member)
    below: list[Argument] = []
    for version, count in changes.descendants.items():
        below += (keys.posted(version), count)
    parts = (nodes, ids, seen_by, seen, listed, unlisted, below)
    return [*map(len, parts), *(value for part in parts for value in part)]
