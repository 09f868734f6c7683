"""Which problems each route can answer with: what follows from how the route is declared, and its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from services.api.problems import CODES, Code

if TYPE_CHECKING:
    from services.api.routes import Route

_EVERYWHERE: Final[tuple[Code, ...]] = ("bad-header", "uri-too-long", "headers-too-large")
_AT_SITES: Final[tuple[Code, ...]] = (
    "bad-query",
    "token-invalid",
    "token-expired",
    "site-not-found",
    "not-acceptable",
    "unavailable",
)
_OF_BODIES: Final[tuple[Code, ...]] = ("request-timeout", "too-large", "not-json")
_ROLES: Final = frozenset({"member", "moderator", "overseer", "admin", "operator", "network"})
"""Whom a route is for where others, signed in, are refused."""


def codes_by_status(route: Route) -> dict[int, tuple[Code, ...]]:
    """The codes of the problems that a route can answer with, by their status; both in order.

    `internal` is none of them: it is a fault, which nobody foresaw.
    """
    found: dict[int, set[Code]] = {}
    for code in _codes(route):
        found.setdefault(CODES[code][0], set()).add(code)
    return {status: tuple(sorted(found[status])) for status in sorted(found)}


def _codes(route: Route) -> Iterator[Code]:
    yield from _EVERYWHERE
    yield from route.refusals
    if route.who in _ROLES:
        yield "forbidden"
    if route.path.startswith("/v1/"):
        yield from _of_site(route)
    if route.body is not None:
        yield from ("malformed-json", "invalid")
    if route.body is not None or route.idempotent:
        yield from _OF_BODIES  # what takes an Idempotency-Key reads the body, which is compared
    if route.idempotent:
        yield "idempotency-key-reused"
    if route.revision:
        yield from ("revision-mismatch", "revision-required")


def _of_site(route: Route) -> Iterator[Code]:
    yield from _AT_SITES
    yield "route-not-found"  # where what stands for a name is empty, or holds a raw slash
    if route.who != "anyone":
        yield "unauthenticated"
    if route.method != "GET" and not route.reads:
        yield from ("rate-limited", "overloaded")
    if "{thread}" in route.path:
        yield "bad-path"
    if "{comment}" in route.path:
        yield "comment-not-found"
    taken = route.query.model_fields
    if "min_version" in taken:
        yield "version-not-reached"
    if "after" in taken and taken["after"].annotation is not int and not route.stream:
        yield "cursor-invalid"
