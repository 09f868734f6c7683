"""Reading a request's body, and the models of what it may hold.

The same models validate and describe: `/openapi.json` is made from them. Texts are normalised by
`services.core.text` after the shape is right.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar

import orjson
from aiohttp import hdrs, web
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from services.api.deps import API
from services.api.problems import Problem, wrong_fields
from services.core.addresses import THREAD_KEY_BYTES
from services.core.commands import Action
from services.core.text import SUB_CODE_POINTS
from services.eventlog.preferences import BLOCKED, Mode, zones
from services.eventlog.subscriptions import Level

MAX_BODY: Final = 256 * 1024
"""The largest body, in bytes."""

MAX_DEPTH: Final = 32
"""How deep arrays and objects may nest."""

_JSON: Final = "application/json"
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.?+)*+"?+', re.DOTALL)
"""A string, also one that does not end: so that no attempt fails, and none is made twice."""
_BRACES: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACES: Final = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_Body = TypeVar("_Body", bound="Body")


class Body(BaseModel):
    """A JSON object without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ThreadMetadata(Body):
    """What the page is called and where it is; counts with a thread's first comment."""

    title: str | None = Field(None, description="One line of at most 300 code points.")
    url: str | None = Field(None, description="An http or https address of at most 2,048 code points.")


class NewGuest(Body):
    """Who a guest says they are."""

    name: str = Field(description="One line of at most 100 code points.", json_schema_extra={"minLength": 1})
    email: str | None = Field(None, description="A mail address, never shown.")


class NewComment(Body):
    """A comment to post."""

    body: str = Field(
        description="Markdown: in NFC at most 10,000 code points and 40,000 bytes, some of them visible.",
        json_schema_extra={"minLength": 1},
    )
    parent_id: str | None = Field(
        None, description="The id of the comment that this one answers; 404 where there is none."
    )
    thread: ThreadMetadata | None = None


class CommentEdit(Body):
    """A comment's new text."""

    body: str = Field(
        description="Markdown: in NFC at most 10,000 code points and 40,000 bytes, some of them visible.",
        json_schema_extra={"minLength": 1},
    )


class Report(Body):
    """Why a comment is reported."""

    reason: str = Field(description="One of the site's `report_reasons`.", json_schema_extra={"minLength": 1})
    detail: str | None = Field(None, description="At most 2,000 code points.")


class Decision(Body):
    """What a moderator decides of a comment."""

    action: Action
    reason: str | None = Field(None, description="One line of at most 300 code points.")


class Vote(Body):
    """A vote on a comment; 0 withdraws it."""

    value: Literal[-1, 0, 1]

    @field_validator("value", mode="before")
    @classmethod
    def _a_number(cls, value: object) -> object:
        if isinstance(value, bool):  # which Python takes for 1 or 0
            raise ValueError("is not a number")  # noqa: TRY004 - pydantic takes no TypeError
        return value


class ThreadChange(Body):
    """What is to change of a thread; null clears."""

    title: str | None = Field(None, description="One line of at most 300 code points.")
    url: str | None = Field(None, description="An http or https address of at most 2,048 code points.")
    state: Literal["open", "closed"] = Field("open", description="Whether it takes new comments.")


class CountsAsked(Body):
    """The threads whose comments are to be counted."""

    threads: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=THREAD_KEY_BYTES)]],
        Field(max_length=200),
    ] = Field(description="Keys of threads, as they are: not percent-encoded, and without `~`.")


class Subscription(Body):
    """How somebody follows a thread."""

    level: Level = Field(
        description="Told of every comment; of what concerns oneself, as without a subscription; of nothing."
    )


class ReasonsChange(Body):
    """What one is told of; null is the default, and what is left out stays as it is."""

    reply: bool | None = None
    mention: bool | None = None
    follow: bool | None = None
    ancestor: bool | None = None
    moderation: bool | None = None


_Clock = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class QuietHours(Body):
    """When no mail goes, each day; past midnight where `to` is not after `from`."""

    model_config = ConfigDict(serialize_by_alias=True)
    since: _Clock = Field(alias="from")
    to: _Clock
    zone: Annotated[str, StringConstraints(max_length=64)] = Field(
        description="An IANA time zone, as in Europe/Berlin."
    )

    @model_validator(mode="after")
    def _is_some_time(self) -> QuietHours:
        if self.since == self.to:
            raise ValueError("from and to are the same")
        return self

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        if value not in zones():
            raise ValueError("is no time zone")
        return value


class PreferencesChange(Body):
    """What is to change of somebody's preferences: null is the default, what is left out stays as it is."""

    email: str | None = Field(
        None, description="Where mail is to go, once a mail to it was confirmed; null: where the token says."
    )
    mail: Mode | None = None
    reasons: ReasonsChange | None = None
    quiet: QuietHours | None = None
    blocked: (
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=SUB_CODE_POINTS)]],
            Field(max_length=BLOCKED),
        ]
        | None
    ) = Field(None, description="Ids of people of whose comments one is not told.")


class NotificationsRead(Body):
    """Which notifications were read: exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["ids"], "properties": {"ids": {"type": "array"}, "through": {"type": "null"}}},
                {
                    "required": ["through"],
                    "properties": {"through": {"type": "string"}, "ids": {"type": "null"}},
                },
            ]
        }
    )
    ids: Annotated[list[str], Field(max_length=1000)] | None = None
    through: str | None = Field(None, description="This one and every earlier one.")

    @model_validator(mode="after")
    def _exactly_one(self) -> NotificationsRead:
        if (self.ids is None) == (self.through is None):
            raise ValueError("takes exactly one of ids and through")
        return self


async def raw_body(request: web.Request) -> bytes:
    """The body's bytes, at most 256 KiB. Raises Problem `too-large`, `request-timeout`, `not-json`."""
    if not request.body_exists:
        return b""
    if request.content_length is not None and request.content_length > MAX_BODY:
        raise Problem("too-large", f"a request has at most {MAX_BODY:,} bytes")
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise Problem("not-json", "compressed bodies are not taken")
    if request.content.is_eof():
        # All of it has come with the headers: there is nothing to wait for, and no more than a buffer of it.
        raw = request.content.read_nowait()
        if len(raw) > MAX_BODY:
            raise Problem("too-large", f"a request has at most {MAX_BODY:,} bytes")
        return raw
    try:
        async with asyncio.timeout(request.app[API].body_timeout):
            return await request.read()
    except TimeoutError:
        raise Problem("request-timeout") from None


async def body_of(request: web.Request, model: type[_Body]) -> tuple[_Body, bytes]:
    """The body as `model`, and its bytes. Raises Problem."""
    value, raw = await json_body(request)
    try:
        return model.model_validate(value), raw
    except ValidationError as error:
        raise wrong_fields(error) from None


async def json_body(request: web.Request) -> tuple[Any, bytes]:
    """The body's JSON value, and its bytes. Raises Problem `not-json`, `malformed-json`, `too-large`."""
    if request.headers.get(hdrs.CONTENT_TYPE) != _JSON and (
        request.content_type != _JSON or (request.charset or "utf-8").lower() not in ("utf-8", "utf8")
    ):
        raise Problem("not-json")
    raw = await raw_body(request)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(raw)
    try:
        return orjson.loads(raw), raw
    except orjson.JSONDecodeError:
        if not _SURROGATE.search(raw):
            raise Problem("malformed-json") from None
    return _lone_surrogates(raw), raw


def _check_depth(raw: bytes) -> None:
    """Raises Problem `malformed-json` where JSON nests too deep, or its brackets do not match.

    Each round takes the innermost level away, so that nothing as flat as it must be is left in the end.
    """
    brackets = _STRING.sub(b"", raw).translate(_BRACES, _NO_BRACES)
    for _ in range(MAX_DEPTH):
        before = len(brackets)
        brackets = brackets.replace(b"[]", b"")
        if len(brackets) == before:
            break
    if brackets:
        raise Problem("malformed-json", f"JSON nests at most {MAX_DEPTH} deep")


def _lone_surrogates(raw: bytes) -> Any:
    """JSON that names half of a surrogate pair is JSON all the same (RFC 8259, section 8.2), with a text that
    is refused where it stands. orjson refuses the whole, so the standard library reads it."""
    try:
        return json.loads(raw.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Problem("malformed-json") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
