"""Every error as `application/problem+json` (RFC 9457): which code, which status, and what it says.

This is the one place where an error of threadlog meets HTTP. `CODES` is section 8 of the contract;
`CODE_OF` gives the code of each error of `services.errors` that reaches the edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import asyncpg
import orjson
import redis.exceptions
from aiohttp import web
from pydantic import ValidationError

from services.core.addresses import BadAddress
from services.core.text import TextRefused
from services.errors import (
    AlreadyReported,
    CommentNotFound,
    CommentNotOpen,
    CursorInvalid,
    DecisionNotPossible,
    EditWindowClosed,
    FieldInvalid,
    Forbidden,
    IdempotencyKeyReused,
    KeyDestroyed,
    NotAuthor,
    Overloaded,
    OwnComment,
    ParentNotFound,
    ParentNotOpen,
    PoisonEvent,
    RevisionMismatch,
    SiteNotFound,
    ThreadlogError,
    ThreadNotOpen,
    ThreadParked,
    TooDeep,
    Unavailable,
    UnknownEventType,
    VersionNotReached,
)

Code = Literal[
    "malformed-json",
    "bad-path",
    "bad-query",
    "bad-header",
    "cursor-invalid",
    "version-not-reached",
    "unauthenticated",
    "token-invalid",
    "token-expired",
    "forbidden",
    "not-author",
    "own-comment",
    "edit-window-closed",
    "guests-not-allowed",
    "site-not-found",
    "comment-not-found",
    "parent-not-found",
    "route-not-found",
    "method-not-allowed",
    "not-acceptable",
    "request-timeout",
    "too-large",
    "uri-too-long",
    "not-json",
    "headers-too-large",
    "thread-closed",
    "parent-not-open",
    "already-reported",
    "comment-hidden",
    "comment-deleted",
    "comment-removed",
    "comment-erased",
    "decision-not-possible",
    "revision-mismatch",
    "revision-required",
    "invalid",
    "idempotency-key-reused",
    "too-deep",
    "rate-limited",
    "internal",
    "overloaded",
    "unavailable",
]

CODES: Final[Mapping[Code, tuple[int, str]]] = {
    "malformed-json": (400, "The body is not JSON"),
    "bad-path": (400, "The path is malformed"),
    "bad-query": (400, "The query is malformed"),
    "bad-header": (400, "A header is malformed"),
    "cursor-invalid": (400, "The cursor was not made by this list"),
    "version-not-reached": (400, "The thread has not reached this version"),
    "unauthenticated": (401, "Sign in"),
    "token-invalid": (401, "The token is not valid"),
    "token-expired": (401, "The token has expired"),
    "forbidden": (403, "Your role does not allow this"),
    "not-author": (403, "Only the author may do this"),
    "own-comment": (403, "The comment is your own"),
    "edit-window-closed": (403, "The comment can no longer be edited"),
    "guests-not-allowed": (403, "This site takes nothing from guests"),
    "site-not-found": (404, "There is no such site"),
    "comment-not-found": (404, "There is no such comment"),
    "parent-not-found": (404, "There is no such parent"),
    "route-not-found": (404, "There is nothing at this address"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "not-acceptable": (406, "The answer is application/json"),
    "request-timeout": (408, "The request took too long to arrive"),
    "too-large": (413, "The request is too large"),
    "uri-too-long": (414, "The address is too long"),
    "not-json": (415, "The body must be application/json"),
    "headers-too-large": (431, "The headers are too large"),
    "thread-closed": (409, "The thread takes no new comments"),
    "parent-not-open": (409, "The parent takes no replies"),
    "already-reported": (409, "You have reported this comment before"),
    "comment-hidden": (409, "The comment is hidden"),
    "comment-deleted": (409, "The comment is deleted"),
    "comment-removed": (409, "The comment is removed"),
    "comment-erased": (409, "The comment is erased"),
    "decision-not-possible": (409, "This cannot be decided of the comment as it is"),
    "revision-mismatch": (412, "The comment was changed meanwhile"),
    "revision-required": (428, "If-Match with the comment's revision is required"),
    "invalid": (422, "A value is not valid"),
    "idempotency-key-reused": (422, "The Idempotency-Key was used for another request"),
    "too-deep": (422, "Replies do not nest deeper"),
    "rate-limited": (429, "Too many writes"),
    "internal": (500, "Something went wrong here"),
    "overloaded": (503, "Too much to do at once"),
    "unavailable": (503, "A service that this needs does not answer"),
}
"""Each code's status and title."""

CODE_OF: Final[Mapping[type[ThreadlogError], Code]] = {
    ThreadNotOpen: "thread-closed",
    ParentNotFound: "parent-not-found",
    ParentNotOpen: "parent-not-open",
    TooDeep: "too-deep",
    CommentNotFound: "comment-not-found",
    NotAuthor: "not-author",
    OwnComment: "own-comment",
    EditWindowClosed: "edit-window-closed",
    RevisionMismatch: "revision-mismatch",
    AlreadyReported: "already-reported",
    DecisionNotPossible: "decision-not-possible",
    Forbidden: "forbidden",
    FieldInvalid: "invalid",
    IdempotencyKeyReused: "idempotency-key-reused",
    SiteNotFound: "site-not-found",
    VersionNotReached: "version-not-reached",
    CursorInvalid: "cursor-invalid",
    ThreadParked: "unavailable",
    PoisonEvent: "unavailable",
    UnknownEventType: "unavailable",
    Overloaded: "overloaded",
    Unavailable: "unavailable",
    KeyDestroyed: "unavailable",
}
"""The code of each error; a CommentNotOpen's follows from the state that it carries."""

NOT_OPEN: Final[Mapping[str, Code]] = {
    "hidden": "comment-hidden",
    "deleted": "comment-deleted",
    "removed": "comment-removed",
    "erased": "comment-erased",
}

_AIOHTTP: Final[Mapping[int, Code]] = {
    404: "route-not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    408: "request-timeout",
    413: "too-large",
    414: "uri-too-long",
    415: "not-json",
    417: "bad-header",
    431: "headers-too-large",
}
_HALF_READ: Final = frozenset({408, 413})
MAX_ERRORS: Final = 20
"""How many wrong fields an answer names: 256 KiB of them fit into a request."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field of the body, or one parameter."""

    field: str
    message: str


class Problem(ThreadlogError):
    """A request that is answered with a problem. `detail` never quotes a body or a token."""

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        errors: Iterable[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail or CODES[code][1])
        self.code: Code = code
        self.errors = tuple(errors)[:MAX_ERRORS]
        self.headers = dict(headers or {})
        if CODES[code][0] == 401:
            self.headers.setdefault("WWW-Authenticate", "Bearer")
        if CODES[code][0] == 503:
            self.headers.setdefault("Retry-After", "1")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return CODES[self.code][0]

    def response(self, request_id: str) -> web.Response:
        """The answer."""
        body: dict[str, object] = {
            "type": f"urn:threadlog:problem:{self.code}",
            "title": CODES[self.code][1],
            "status": self.status,
            "detail": _printable(str(self), 2000),
            "request_id": request_id,
        }
        if self.errors:
            body["errors"] = [
                {"field": one.field, "message": _printable(one.message, 2000)} for one in self.errors
            ]
        response = web.Response(
            status=self.status,
            body=orjson.dumps(body),
            content_type="application/problem+json",
            headers={"Cache-Control": "private, no-store", **self.headers},
        )
        if self.status in _HALF_READ:
            response.force_close()  # the rest of the body may still come, and is no request
        return response


def invalid(field: str, message: str) -> Problem:
    """A 422 about one field."""
    return Problem("invalid", f"{field}: {message}", errors=[FieldError(field, message)])


def text_refused(field: str, refused: TextRefused) -> Problem:
    """A 422 for a text that section 3 of the contract does not take."""
    return invalid(field, refused.reason)


def wrong_fields(error: ValidationError, code: Code = "invalid") -> Problem:
    """What pydantic found, without the values that it found."""
    found = [
        FieldError(_printable(".".join(map(str, one["loc"]))), one["msg"].removeprefix("Value error, "))
        for one in error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
    ]
    first = found[0]
    detail = f"{first.field}: {first.message}" if first.field else first.message
    return Problem(code, detail, errors=found)


def _printable(text: str, limit: int = 100) -> str:
    """Text that may hold what the client sent, which may be anything."""
    return text[:limit].encode("utf-8", "replace").decode()


def _of_aiohttp(error: web.HTTPException) -> Problem | None:
    """What the framework refuses by itself."""
    if not 400 <= error.status < 500:
        return None
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return Problem(_AIOHTTP.get(error.status, "bad-header"), headers=allow)


def _of_dependency(error: BaseException) -> Problem | None:
    """What a client of Redis or Postgres raises where its server does not answer."""
    match error:
        case redis.exceptions.RedisError():
            return Problem("unavailable", "the views do not answer")
        case (
            asyncpg.DataError() | asyncpg.SyntaxOrAccessError() | asyncpg.IntegrityConstraintViolationError()
        ):
            return None  # Postgres answers: it is we who ask wrongly
        case asyncpg.PostgresError() | asyncpg.InterfaceError() | OSError() | TimeoutError():
            return Problem("unavailable", "the log does not answer")
        case _:
            return None


def problem_of(error: BaseException) -> Problem | None:
    """The problem that an error is answered with; None for one that nobody foresaw."""
    match error:
        case Problem():
            return error
        case CommentNotOpen():
            return Problem(NOT_OPEN.get(error.state, "comment-hidden"), str(error))
        case FieldInvalid():
            return invalid(error.field, error.message)
        case Overloaded() | Unavailable():
            return Problem(CODE_OF[type(error)], str(error), headers={"Retry-After": str(error.retry_after)})
        case ThreadParked() | PoisonEvent():
            return Problem("unavailable", "the view is being repaired", headers={"Retry-After": "30"})
        case KeyDestroyed():
            return Problem("unavailable", "the author's key is being replaced")
        case ThreadlogError():
            code = CODE_OF.get(type(error))
            return None if code is None else Problem(code, str(error))
        case BadAddress():
            return Problem("bad-path", error.reason)
        case web.HTTPException():
            return _of_aiohttp(error)
        case _:
            return _of_dependency(error)
