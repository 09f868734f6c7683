"""What `threadlog verify` says of differences, and which command it says comes next."""

from __future__ import annotations

import pytest

from services.eventlog.state import Difference
from services.ops.choosing import Choice
from services.ops.differences import Text
from services.ops.exits import Exit

ROW = Difference("streams", "visible", 9, 3)
BROKEN = Difference("event", "version 7", "no comment was posted at version 9", None)
UNCHAINED = Difference("chain", "version 8", "the hash chain does not hold", None)


def told(choice: Choice, *found: tuple[str | None, str | None, Difference]) -> Text:
    text = Text(choice)
    for site, key, difference in found:
        text.differ(site, key, [difference])
    return text


def test_an_event_that_cannot_be_applied_is_told_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(Choice(), ("blog", "a", BROKEN), ("blog", "b", UNCHAINED))
    assert text.end(chain=True) is Exit.FOUND
    said = capsys.readouterr().out.splitlines()
    assert "  event version 7: no comment was posted at version 9" in said
    assert "  chain version 8: the hash chain does not hold" in said


def test_a_value_is_told_as_stored_and_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    told(Choice(), ("blog", "a", ROW))
    assert "  streams visible: stored 9, replayed 3" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("choice", "found", "command"),
    [
        (Choice(), [("blog", "a", ROW)], "threadlog replay --site blog --thread a"),
        (Choice(), [("blog", "a", ROW), ("x", "b", ROW)], "threadlog replay --all --differing --dry-run"),
        (
            Choice("the blog"),
            [("the blog", "a", ROW), ("the blog", "b", ROW)],
            "threadlog replay --site 'the blog' --differing --dry-run",
        ),
        (Choice("blog"), [("blog", None, ROW)], "threadlog replay --site blog --differing --dry-run"),
        (
            Choice(),
            [("blog", "a", ROW), (None, None, Difference("votes", "x by ann", "a row", "no event"))],
            "threadlog replay --all --differing --dry-run",
        ),
        (Choice("blog"), [("blog", "a", BROKEN), ("blog", "b", BROKEN)], "threadlog dead-letters list"),
        (
            Choice("blog"),
            [("blog", "a", BROKEN), ("blog", "b", ROW)],
            "threadlog replay --site blog --differing --dry-run",
        ),
        (Choice(), [("blog", "a", UNCHAINED)], None),
    ],
)
def test_the_next_step_is_about_what_was_looked_at(
    choice: Choice, found: list[tuple[str | None, str | None, Difference]], command: str | None
) -> None:
    assert told(choice, *found).next_step == command
