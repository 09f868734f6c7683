"""What a route is: how it is declared, and so described and tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from aiohttp.typedefs import Handler
from pydantic import BaseModel

from services.api import queries
from services.api.problems import Code

Who = Literal["anyone", "signed in", "member", "moderator", "overseer", "admin", "operator", "network"]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `answers` gives the model of each success, None for an empty one."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    handler: Handler
    summary: str
    who: Who = "anyone"
    query: type[queries.Query] = queries.NoQuery
    body: type[BaseModel] | None = None
    answers: Mapping[int, type[BaseModel] | None] = field(default_factory=dict)
    idempotent: bool = False
    """Whether it takes an Idempotency-Key."""
    revision: bool = False
    """Whether it needs If-Match."""
    conditional: bool = False
    """Whether it has an ETag."""
    tagged: bool = False
    """Whether it has an ETag, but belongs to no thread and so has no version."""
    reads: bool = False
    """Whether it writes nothing though it is a POST (`services.api.context.READS_BY_POST`)."""
    versioned: bool = False
    """Whether it tells Threadlog-Version; what is idempotent or conditional does."""
    media: str = "application/json"
    """What a success is that has no model and yet a body."""
    stream: bool = False
    """Whether it answers with Server-Sent Events, and with its model to who asks for JSON."""
    refusals: tuple[Code, ...] = ()
    """Codes of problems that do not follow from the rest (`services.api.route_codes`)."""


S: Final = "/v1/sites/{site}"
T: Final = S + "/threads/{thread}"
C: Final = T + "/comments/{comment}"
