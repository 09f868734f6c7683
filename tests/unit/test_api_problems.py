"""Every error has one answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from uuid import UUID

import orjson
import pytest
from aiohttp import web

from services.api import problems
from services.api.problems import CODE_OF, CODES, NOT_OPEN, Code, Problem, problem_of
from services.core.thread import CommentState
from services.errors import (
    CommentNotOpen,
    Overloaded,
    PoisonEvent,
    Refusal,
    StreamBroken,
    ThreadParked,
    Unavailable,
    UnknownEventType,
)

COMMENT = UUID(int=7)


def refusals(kind: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    for below in kind.__subclasses__():
        yield below
        yield from refusals(below)


def test_every_refusal_has_a_row() -> None:
    missing = [one.__name__ for one in refusals() if one not in CODE_OF and one is not CommentNotOpen]
    assert missing == []


def test_every_code_has_a_status_and_every_row_a_code() -> None:
    assert set(CODES) == set(get_args(Code))
    assert set(CODE_OF.values()) | set(NOT_OPEN.values()) <= set(CODES)


def test_a_comment_that_is_not_open_is_named_by_its_state() -> None:
    for state in (
        CommentState.HIDDEN,
        CommentState.DELETED,
        CommentState.REMOVED,
        CommentState.ERASED,
    ):
        problem = problem_of(CommentNotOpen(COMMENT, state))
        assert problem is not None
        assert (problem.code, problem.status) == (f"comment-{state}", 409)


def test_being_busy_or_away_says_when_to_come_back() -> None:
    for error, code in (
        (Overloaded("the write queue", 3), "overloaded"),
        (Unavailable("gone", 3), "unavailable"),
    ):
        problem = problem_of(error)
        assert problem is not None
        assert (problem.code, problem.status, problem.headers["Retry-After"]) == (code, 503, "3")


def test_a_thread_that_cannot_be_folded_is_being_repaired() -> None:
    for error in (
        ThreadParked(COMMENT, 3),
        PoisonEvent(COMMENT, 3, COMMENT, "no"),
        UnknownEventType(COMMENT, 3, COMMENT, "CommentPraised"),
    ):
        problem = problem_of(error)
        assert problem is not None
        assert (problem.code, problem.status, problem.headers["Retry-After"]) == ("unavailable", 503, "30")
        assert str(problem) == "the view is being repaired"
        assert type(error) in CODE_OF


def test_what_nobody_foresaw_has_no_problem() -> None:
    assert problem_of(ValueError("boom")) is None
    assert problem_of(StreamBroken(COMMENT, 3, "no")) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (web.HTTPNotFound(), "route-not-found"),
        (web.HTTPRequestEntityTooLarge(1), "too-large"),
        (web.HTTPBadRequest(), "bad-header"),
    ],
)
def test_what_the_framework_refuses_is_a_problem_too(error: web.HTTPException, code: str) -> None:
    problem = problem_of(error)
    assert problem is not None
    assert problem.code == code


def test_a_wrong_method_names_the_right_ones() -> None:
    problem = problem_of(web.HTTPMethodNotAllowed("PUT", ["GET", "POST"]))
    assert problem is not None
    assert problem.headers["Allow"] == "GET,POST"


def test_a_problem_is_problem_json() -> None:
    answer = problems.invalid("body", "is empty").response("r-1")
    assert answer.status == 422
    assert answer.content_type == "application/problem+json"
    assert isinstance(answer.body, bytes)
    assert orjson.loads(answer.body) == {
        "type": "urn:threadlog:problem:invalid",
        "title": "A value is not valid",
        "status": 422,
        "detail": "body: is empty",
        "request_id": "r-1",
        "errors": [{"field": "body", "message": "is empty"}],
    }


def test_a_401_says_how_to_sign_in() -> None:
    assert Problem("unauthenticated").headers["WWW-Authenticate"] == "Bearer"


def test_no_error_of_http_is_raised_outside_the_api() -> None:
    services = Path(problems.__file__).parents[1]
    for path in services.rglob("*.py"):
        if "api" not in path.parts and path.name != "metrics.py":
            assert "web.HTTP" not in path.read_text(), path
