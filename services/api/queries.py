"""The query parameters of each list, as models that validate and describe them.

Out of range, unknown or given twice is 400 `bad-query`: nothing is clamped or guessed.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Final, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from services.api.problems import FieldError, Problem, wrong_fields

_DIGITS: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_Query = TypeVar("_Query", bound="Query")


def _number(value: object) -> object:
    # pydantic alone would also take " 5", "+5", "5.0" and "5_0".
    if isinstance(value, str):
        if not _DIGITS.fullmatch(value):
            raise ValueError("takes a whole number")
        return int(value)
    return value


_WHOLE: Final = BeforeValidator(_number)
Version = Annotated[int, Field(ge=0), _WHOLE]
Cursor = Annotated[str, Field(max_length=256)]


class Query(BaseModel):
    """The parameters of a request, each at most once."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ReadQuery(Query):
    """Of a single thing of a thread."""

    min_version: Version | None = Field(None, description="The answer includes everything up to it.")


class PageQuery(ReadQuery):
    """Of a page of comments."""

    sort: Literal["oldest", "newest"] = Field("oldest", description="Of the replies too.")
    limit: Annotated[int, Field(ge=1, le=100), _WHOLE] = Field(50, description="Comments at the top.")
    replies: Annotated[int, Field(ge=0, le=20), _WHOLE] = Field(3, description="First replies below each.")
    depth: Annotated[int, Field(ge=0, le=10), _WHOLE] = Field(3, description="Levels of replies.")
    parent: str | None = Field(None, max_length=100, description="Page through this comment's replies.")
    after: Cursor | None = Field(None, description="The cursor of the page before.")


class EventsQuery(ReadQuery):
    """Of a thread's events."""

    after: Version = Field(0, description="The version of the last event seen.")
    limit: Annotated[int, Field(ge=1, le=1000), _WHOLE] = 100


class ListQuery(ReadQuery):
    """Of a plain list of a thread."""

    after: Cursor | None = Field(None, description="The cursor of the page before.")
    limit: Annotated[int, Field(ge=1, le=1000), _WHOLE] = 100


class NotificationsQuery(Query):
    """Of the inbox."""

    state: Literal["unread", "read", "all"] = "all"
    after: Cursor | None = Field(None, description="The cursor of the page before.")
    limit: Annotated[int, Field(ge=1, le=1000), _WHOLE] = 100


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
