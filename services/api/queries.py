"""The query parameters of each list, as models that validate and describe them.

Out of range, unknown or given twice is 400 `bad-query`: nothing is clamped or guessed.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import cache
from typing import Annotated, Final, Literal, Self, TypeVar
from uuid import UUID

from aiohttp import web
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from services.api.problems import FieldError, Problem, wrong_fields
from services.core.addresses import THREAD_KEY_BYTES
from services.core.ranking import Sort
from services.eventlog.maillinks import TOKEN

MINE: Final = 500
"""Comments that `T/mine` may be asked about at once: as many as a page holds."""
COUNTED: Final = 100
"""Threads whose numbers of comments may be asked for in an address."""

_ID: Final = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_IDS: Final = f"^({_ID}(,{_ID})*)?$"
_DIGITS: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_Query = TypeVar("_Query", bound="Query")


def _number(value: object) -> object:
    # pydantic alone would also take " 5", "+5", "5.0" and "5_0".
    if isinstance(value, str):
        if not _DIGITS.fullmatch(value):
            raise ValueError("takes a whole number")
        return int(value)
    return value


def _ids(value: str) -> str:
    if not re.fullmatch(_IDS, value):
        raise ValueError("takes ids of comments, divided by commas")
    if value.count(",") >= MINE:
        raise ValueError(f"takes at most {MINE} ids")
    return value


_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _as_of(value: object) -> object:
    if not isinstance(value, str):
        return value
    if _DIGITS.fullmatch(value):
        return int(value)
    if not _TIME.fullmatch(value):
        raise ValueError("takes a version, or a time as in 2026-11-23T05:00:00Z (a + is written %2B)")
    return datetime.fromisoformat(value.upper())


_WHOLE: Final = BeforeValidator(_number)
Version = Annotated[int, Field(ge=0), _WHOLE]
AsOf = Annotated[
    int | datetime,
    BeforeValidator(_as_of),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "format": "date-time"}]}),
]
Cursor = Annotated[str, Field(max_length=256)]


class Query(BaseModel):
    """The parameters of a request, each at most once."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ReadQuery(Query):
    """Of a single thing of a thread."""

    min_version: Version | None = Field(None, description="The answer includes everything up to it.")


class HistoryQuery(ReadQuery):
    """Of what may be read as it once was."""

    as_of: AsOf | None = Field(
        None,
        description="As it was at this version, or at this time (RFC 3339 with zone); not with min_version. "
        "For moderators and operators, and for all where the site sets public_history.",
    )

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.as_of is not None and self.min_version is not None:
            raise ValueError("as_of goes without min_version")
        return self


class PageQuery(HistoryQuery):
    """Of a page of comments."""

    sort: Sort = Field("oldest", description="Of the replies too.")
    limit: Annotated[int, Field(ge=1, le=100), _WHOLE] = Field(50, description="Comments at the top.")
    replies: Annotated[int, Field(ge=0, le=20), _WHOLE] = Field(3, description="First replies below each.")
    depth: Annotated[int, Field(ge=0, le=10), _WHOLE] = Field(3, description="Levels of replies.")
    parent: str | None = Field(None, max_length=100, description="Page through this comment's replies.")
    after: Cursor | None = Field(None, description="The cursor of the page before.")
    focus: str | None = Field(
        None, max_length=100, description="One root with the path to this comment; neither parent nor after."
    )


class EventsQuery(ReadQuery):
    """Of a thread's events."""

    after: Version = Field(0, description="The version of the last event seen.")
    limit: Annotated[int, Field(ge=1, le=1000), _WHOLE] = 100


class LogQuery(Query):
    """Of the whole log."""

    # It holds a place for each lane.
    after: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="The cursor of the answer before; without it, from the beginning."
    )
    limit: Annotated[int, Field(ge=1, le=1000), _WHOLE] = 100
    site: str | None = Field(None, max_length=63, description="Of this site alone.")
    open: Literal["0", "1"] = Field("0", description="1: with what is sealed, as far as its key lives.")


class LiveQuery(Query):
    """Of a thread's live stream."""

    after: Version | None = Field(
        None, description="The version of the last event seen; Last-Event-ID goes before it."
    )
    access_token: str | None = Field(
        None,
        description="A JWT with at most five minutes left, for clients that cannot send Authorization.",
    )


class InboxLiveQuery(Query):
    """Of an inbox's live stream."""

    # It names transactions that were under way when it was made: some hundred fit.
    after: Annotated[str, StringConstraints(max_length=4096, pattern="^[A-Za-z0-9_-]*$")] | None = Field(
        None, description="The id of the last event seen; Last-Event-ID goes before it."
    )
    access_token: str | None = Field(
        None,
        description="A JWT with at most five minutes left, for clients that cannot send Authorization.",
    )


class ListQuery(ReadQuery):
    """Of a plain list of a thread."""

    after: Cursor | None = Field(None, description="The cursor of the page before.")
    limit: Annotated[int, Field(ge=1, le=1000), _WHOLE] = 100


class NotificationsQuery(Query):
    """Of the inbox."""

    state: Literal["unread", "read", "all"] = "all"
    bundles: Literal["true", "false"] = Field(
        "false", description="Whether to say too which of the items belong together, and in a sentence how."
    )
    after: Cursor | None = Field(None, description="The cursor of the page before.")
    limit: Annotated[int, Field(ge=1, le=1000), _WHOLE] = 100


class NewestQuery(Query):
    """Of a list of comments that belongs to no thread."""

    after: Cursor | None = Field(None, description="The cursor of the page before.")
    limit: Annotated[int, Field(ge=1, le=1000), _WHOLE] = 100


class MineQuery(ReadQuery):
    """Of what the caller did in a thread."""

    ids: Annotated[str, AfterValidator(_ids)] | None = Field(
        None,
        description=f"At most {MINE} comments, by commas; without it, all that there is, up to {MINE}.",
        json_schema_extra={"pattern": _IDS},
    )

    @property
    def comments(self) -> list[UUID] | None:
        """The ids, as they are."""
        return None if self.ids is None else [UUID(one) for one in self.ids.split(",") if one]


class LinkQuery(Query):
    """Of a link in a mail."""

    token: Annotated[str, Field(max_length=TOKEN)] = Field("", description="The link's, as the mail has it.")


class CountsQuery(Query):
    """Of the numbers of comments; the only parameter that may be repeated."""

    thread: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=THREAD_KEY_BYTES)]],
        Field(max_length=COUNTED),
    ] = Field([], description=f"A thread's key, as it is; up to {COUNTED} times.")


class NoQuery(Query):
    """Where no parameter is taken."""


@cache
def _defaults(model: type[Query]) -> Query:
    """What a request without a query asks for: every parameter has a default."""
    return model()


def query_of(request: web.Request, model: type[_Query]) -> _Query:
    """The query as `model`. Raises Problem `bad-query`."""
    if not request.rel_url.raw_query_string:
        defaults = _defaults(model)
        assert isinstance(defaults, model)
        return defaults
    given = request.rel_url.query
    values = dict(given)
    if len(values) != len(given):
        twice = next(name for name in values if len(given.getall(name)) > 1)
        raise Problem("bad-query", errors=[FieldError(twice[:100], "is given more than once")])
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise wrong_fields(error, "bad-query") from None
