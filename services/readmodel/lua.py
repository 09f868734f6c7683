"""The scripts, loaded from the package, and how changes are laid out as their arguments."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from importlib.resources import files
from typing import Final, Protocol, cast

from redis.asyncio import Redis

from services.readmodel.packing import pack_by_hiredis
from services.readmodel.records import Changes, Head

Argument = str | bytes | int
NOTHING: Final[Mapping[int, int]] = {}
NOBODY: Final[tuple[Argument, ...]] = ("", "", "")
"""Expected of the head where there is to be none."""


class Call(Protocol):
    """A script: sent by its digest, and as a whole where the server does not know it."""

    def __call__(self, keys: Sequence[str], args: Sequence[Argument]) -> Awaitable[object]: ...


class Scripts:
    """The scripts of one client. Each file says what its keys and arguments are."""

    __slots__ = ("comment", "mark", "page", "retire", "switch", "touch", "write")

    def __init__(self, redis: Redis) -> None:
        pack_by_hiredis(redis.connection_pool)

        def load(name: str) -> Call:
            path = files("services.readmodel").joinpath("scripts", f"{name}.lua")
            return cast(Call, redis.register_script(path.read_text(encoding="utf-8")))

        self.comment = load("comment")
        self.mark = load("mark")
        self.page = load("page")
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


def changed(changes: Changes, written: Mapping[int, int] = NOTHING) -> list[Argument]:
    """The arguments of write.lua from the eighth on. `written` is how many replies to each parent a build has
    already."""
    arguments: list[Argument] = [2 * len(changes.nodes), 2 * len(changes.added), 2 * len(changes.descendants)]
    for node in changes.nodes.items():
        arguments += node
    orders: dict[int, list[Argument]] = {}
    for parent, posted, created, comment_id in changes.added:
        arguments += (comment_id.bytes, posted)
        order = orders.get(parent)
        if order is None:
            orders[parent] = order = []
        order += (created, posted.to_bytes(4, "big"))
    for count in changes.descendants.items():
        arguments += count
    for parent, order in orders.items():
        arguments += (parent, written.get(parent, 0), len(order))
        arguments += order
    return arguments
