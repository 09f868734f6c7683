"""Gathering votes on a clock of the test's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from services.api.live.frames import Note, latest_votes
from services.api.live.votes import LATELY, Votes, may_have_waited

BEGAN = datetime(2026, 11, 23, tzinfo=UTC)
A, B = UUID(int=1), UUID(int=2)


class Scene:
    """Votes, the clock they go by, and the events of a thread."""

    def __init__(self) -> None:
        self.now = 0.0
        self.votes = Votes(lambda: self.now)

    def note(self, version: int, of: UUID | None = A, type_: str = "CommentVoted") -> Note:
        """An event that was recorded just now."""
        return Note(version, type_, of, BEGAN + timedelta(seconds=self.now))

    def told(self, *notes: Note) -> list[int]:
        return [note.version for note in self.votes.pass_on(notes, notes[-1])]


def test_the_first_vote_is_told_at_once_and_the_next_ones_wait_for_a_second() -> None:
    scene = Scene()
    assert scene.told(scene.note(1)) == [1]
    scene.now = 0.4
    assert scene.told(scene.note(2)) == []
    assert scene.told(scene.note(3), scene.note(4, B)) == [4]
    assert scene.votes.due() == []
    assert scene.votes.wait() == 0.6
    scene.now = 1.0
    assert scene.votes.due() == [A]
    assert scene.votes.due() == []
    assert scene.votes.wait() is None
    scene.now = 1.5
    assert scene.told(scene.note(5)) == []  # the tally was told half a second ago
    scene.now = 3.0
    assert scene.votes.due() == [A]


def test_what_shows_the_comment_shows_its_tally() -> None:
    scene = Scene()
    scene.told(scene.note(1), scene.note(2, B))
    scene.told(scene.note(3), scene.note(4, B))
    assert scene.told(scene.note(5, A, "CommentEdited"), scene.note(6, B, "CommentReported")) == [5, 6]
    scene.now = 1.0
    assert scene.votes.due() == [B]  # whom a report is not told to, did not see the tally


def test_none_waits_while_much_later_events_are_told() -> None:
    for later in (Note(4, "x", None, BEGAN + timedelta(seconds=6)), Note(LATELY + 2, "x", None, BEGAN)):
        scene = Scene()
        scene.told(scene.note(1))
        scene.told(scene.note(2))
        assert scene.votes.overdue(scene.note(3, None)) == []
        assert scene.votes.overdue(later) == [A]
        assert scene.votes.wait() is None


def test_a_vote_long_after_the_one_before_it_is_told_however_late_both_came() -> None:
    scene = Scene()
    scene.told(scene.note(1))
    late = Note(2, "CommentVoted", A, BEGAN + timedelta(seconds=6))
    assert scene.told(late) == [2]


def test_of_several_votes_read_together_the_last_one_counts() -> None:
    scene = Scene()
    notes = [scene.note(1), scene.note(2, None, "ThreadClosed"), scene.note(3, B), scene.note(4)]
    assert [note.version for note in latest_votes(notes)] == [2, 3, 4]


def test_a_tally_may_have_waited_only_after_another_vote_shortly_before() -> None:
    def at(seconds: float) -> datetime:
        return BEGAN + timedelta(seconds=seconds)

    assert may_have_waited([(A, at(0))], at(0)) == []
    assert may_have_waited([(A, at(0)), (B, at(1))], at(1)) == []
    assert may_have_waited([(A, at(0)), (A, at(1))], at(1)) == [A]
    assert may_have_waited([(A, at(0)), (A, at(1))], at(7)) == []
    assert may_have_waited([(A, at(0)), (A, at(6))], at(6)) == []
