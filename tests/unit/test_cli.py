"""The command line without servers: its help, its refusals, its exit codes, what it prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import redis.exceptions
from typer.main import get_command
from typer.testing import CliRunner

from schema.events.envelope import GENESIS, Recorded
from services.core.addresses import BadAddress
from services.dev import story
from services.errors import ConfigurationError, SchemaMismatch, SiteNotFound, Unavailable
from services.ops import output
from services.ops.cli import app
from services.ops.commands.log import line
from services.ops.commands.thread import print_tree
from services.ops.exits import Exit, UsageRefused, exit_of
from services.projection.opening import Opened
from services.settings import Settings

KEY = "A" * 43 + "="


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every verb that does something, with the groups that lead to it."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path
        return
    for name, child in below.items():
        yield from verbs(child, (*path, name))


VERBS = sorted(verbs(get_command(app)))


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Runs verbs in an environment without any of our variables."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"THREADLOG_{name.upper()}", raising=False)
    return CliRunner()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, runner: CliRunner) -> CliRunner:
    """Runs verbs with settings that are well-formed and lead nowhere."""
    monkeypatch.setenv("THREADLOG_DATABASE_URL", "postgresql://nobody:hush@127.0.0.1:1/none")
    monkeypatch.setenv("THREADLOG_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("THREADLOG_MASTER_KEY", KEY)
    return runner


def test_the_verbs_of_the_contract_are_there() -> None:
    first = {verb[0] for verb in VERBS}
    assert first >= {
        "demo",
        "api",
        "worker",
        "migrate",
        "site",
        "token",
        "import",
        "log",
        "replay",
        "verify",
        "lag",
        "thread",
        "doctor",
        "bench",
    }


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_with_an_example(runner: CliRunner, verb: tuple[str, ...]) -> None:
    answer = runner.invoke(app, [*verb, "--help"])
    assert answer.exit_code == Exit.DONE
    assert f"threadlog {' '.join(verb)}" in " ".join(answer.output.replace("│", " ").split())
    assert "Example" in answer.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate"],
        ["api"],
        ["worker"],
        ["site", "list"],
        ["token", "blog", "ann"],
        ["verify", "--all"],
        ["lag"],
        ["log", "stats"],
        ["thread", "show", "blog", "t"],
    ],
    ids=" ".join,
)
def test_missing_configuration_is_wrong_usage_and_named_line_by_line(
    runner: CliRunner, arguments: list[str]
) -> None:
    answer = runner.invoke(app, arguments)
    assert answer.exit_code == Exit.USAGE
    for name in ("DATABASE_URL", "REDIS_URL", "MASTER_KEY"):
        assert f"threadlog: THREADLOG_{name}: is not set" in answer.stderr.splitlines()


def test_the_doctor_finds_missing_configuration(runner: CliRunner) -> None:
    answer = runner.invoke(app, ["doctor"])
    assert answer.exit_code == Exit.FOUND
    assert "THREADLOG_DATABASE_URL: is not set" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["replay"], "which threads?"),
        (["replay", "--thread", "t"], "--thread needs --site"),
        (["verify", "--all", "--site", "blog"], "--all stands alone"),
        (["site", "add", "No Spaces"], "a site's name"),
        (["site", "secret", "add", "blog", "--public-key", "k.pem"], "HS256 takes a --secret"),
        (["site", "secret", "add", "blog", "--alg", "RS256"], "RS256 takes a --public-key"),
        (["site", "secret", "add", "blog", "--alg", "EdDSA", "--public-key", "/no/file"], "No such file"),
        (["site", "key", "add", "blog", "--name", "x" * 101], "longer than 100"),
        (["token", "blog", "ann", "--role", "king"], "no such role: king"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    nowhere: CliRunner, arguments: list[str], reason: str
) -> None:
    answer = nowhere.invoke(app, arguments)
    assert answer.exit_code == Exit.USAGE
    assert reason in answer.stderr


@pytest.mark.parametrize("arguments", [["no-such-verb"], ["migrate", "--no-such-option"], ["token", "blog"]])
def test_a_line_that_does_not_parse_is_wrong_usage(runner: CliRunner, arguments: list[str]) -> None:
    assert runner.invoke(app, arguments).exit_code == Exit.USAGE


@pytest.mark.parametrize(
    "arguments", [["migrate", "--check"], ["verify", "--all"], ["lag"], ["site", "list"], ["api"], ["worker"]]
)
def test_a_database_that_is_away_is_unreachable(nowhere: CliRunner, arguments: list[str]) -> None:
    answer = nowhere.invoke(app, arguments)
    assert answer.exit_code == Exit.UNREACHABLE
    assert "a dependency does not answer" in answer.stderr
    assert "hush" not in answer.output


def test_the_doctor_finds_what_is_away_and_says_what_to_do(nowhere: CliRunner) -> None:
    answer = nowhere.invoke(app, ["doctor"])
    assert answer.exit_code == Exit.FOUND
    for variable in ("THREADLOG_DATABASE_URL", "THREADLOG_REDIS_URL", "THREADLOG_BROKER_URL"):
        assert f"correct {variable}" in answer.stdout
    assert "hush" not in answer.output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("x"), Exit.USAGE),
        (UsageRefused("x"), Exit.USAGE),
        (SiteNotFound("x"), Exit.USAGE),
        (BadAddress("x"), Exit.USAGE),
        (Unavailable("x"), Exit.UNREACHABLE),
        (ConnectionRefusedError("x"), Exit.UNREACHABLE),
        (TimeoutError(), Exit.UNREACHABLE),
        (asyncpg.CannotConnectNowError("x"), Exit.UNREACHABLE),
        (redis.exceptions.ConnectionError("x"), Exit.UNREACHABLE),
        (SchemaMismatch("x"), Exit.FAILED),
        (RuntimeError("x"), Exit.FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_each_error_has_its_exit_code(error: Exception, code: Exit) -> None:
    assert exit_of(error)[0] is code


def test_a_table_has_its_columns_under_their_headings(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("what", "count"), [("apples", 1200), ("[bold]pears", 3)])
    assert capsys.readouterr().out.splitlines() == [
        "what         count",
        "apples       1,200",
        "[bold]pears      3",
    ]


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with output.Progress("replay", 10, unit="threads") as progress:
        progress.advance()
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(output, "EVERY", 0.0)
        progress.advance(4)
    told = capsys.readouterr()
    assert told.err.startswith("replay: 5 of 10 threads, ")
    assert told.err.endswith(" s left\n")
    assert told.out == ""


def test_an_event_is_one_line_for_a_person() -> None:
    event = Recorded(
        stream_id=UUID(int=1),
        version=17,
        event_id=UUID(int=2),
        type="CommentReported",
        schema_version=1,
        actor_id="u-1",
        correlation_id=None,
        causation_id=None,
        recorded_at=datetime(2026, 11, 23, 5, tzinfo=UTC),
        data=b'{"comment_id":"c","posted":3,"reason":"spam"}',
        sealed=b"1234",
        key_id=None,
        hash=GENESIS,
        lane=0,
        position=99,
    )
    sealed = line(event, None)
    assert re.split(" {2,}", sealed.strip()) == [
        "17",
        "2026-11-23 05:00:00Z",
        "CommentReported",
        "u-1",
        "comment_id=c reason=spam",
        "sealed=4 bytes",
    ]
    opened = line(event, Opened({"detail": "two\nlines"}), stream="blog/on bees")
    assert opened.startswith("0:99       blog/on bees ")
    assert opened.endswith(r'detail="two\nlines"')
    assert line(event, Opened(shut="no key")).endswith("sealed=4 bytes (no key)")
    assert "data=odd (no JSON object)" in line(event._replace(data=b"odd"), None)
    assert "\x1b" not in line(event._replace(actor_id="\x1b[2J"), Opened({"detail": "\x1b[2J"}))


def comment(
    body: str | None, *replies: dict[str, Any], state: str = "visible", up: int = 0
) -> dict[str, Any]:
    return {
        "author": {"name": "Ann"},
        "body": body,
        "state": state,
        "revision": 1,
        "votes": {"up": up, "down": 0},
        "replies": {"items": list(replies), "after": None, "more": 0},
    }


def page(*comments: dict[str, Any]) -> dict[str, Any]:
    thread = {"key": "t", "title": None, "comments": len(comments), "state": "open", "version": 1}
    return {"thread": thread, "comments": list(comments), "after": None}


def test_a_tree_is_indented_and_says_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    print_tree(page(comment("One\n\nand more.", comment(None, state="deleted")), comment("Two.", up=1200)))
    assert capsys.readouterr().out.splitlines()[1:] == [
        "• Ann: One and more.",
        "  • [deleted]",
        "• Ann +1,200 -0: Two.",
    ]


def test_a_tree_a_thousand_replies_deep_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    deep = comment("the deepest")
    for _ in range(1500):
        deep = comment("deep", deep)
    print_tree(page(deep))
    assert capsys.readouterr().out.splitlines()[-1].strip() == "• Ann: the deepest"


def test_the_story_has_the_shape_of_a_real_thread() -> None:
    depths: dict[str, int] = {}
    for said in story.STORY:
        assert said.by in story.PEOPLE
        depths[said.label] = 0 if said.to is None else depths[said.to] + 1
    assert len(depths) == len(story.STORY) >= 18
    assert max(depths.values()) >= 5
    names = [f"@{name}" for name in story.PEOPLE.values()]
    assert sum(any(name in said.body for name in names) for said in story.STORY) >= 5
    for label in (story.TYPO, story.REPORTED, story.TAKEN_BACK, story.REMOVED, story.ANSWERED):
        assert label in depths
    assert any(said.to == story.TAKEN_BACK for said in story.STORY)
    reported = next(said for said in story.STORY if said.label == story.REPORTED)
    assert reported.by not in story.REPORTERS
