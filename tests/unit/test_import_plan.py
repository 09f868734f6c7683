"""The order of an import: parents first, whatever the file's order, and the same ids on every run."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ops.importers.plan import (
    DEEPEST,
    Placeholder,
    Planned,
    Spool,
    import_event_id,
    plan,
)
from services.ops.importers.records import (
    EXAMPLES_KEPT,
    OTHER_REASONS,
    REASONS_KEPT,
    ImportedComment,
    ImportedThread,
    ImportRefused,
    Noted,
    Record,
    Report,
    Skipped,
)

START = datetime(2024, 5, 1, 10, 0, tzinfo=UTC)


def comment(number: str, parent: str | None = None, minute: float = 0, thread: str = "t") -> ImportedComment:
    when = START + timedelta(minutes=minute)
    return ImportedComment(number, parent, thread, "import:1", "Ann", when, f"text of {number}")


def planned(*comments: ImportedComment) -> list[Planned]:
    return [step for step in plan(comments, site="s") if isinstance(step, Planned)]


def skipped(*comments: ImportedComment) -> list[Skipped]:
    return [step for step in plan(comments, site="s") if isinstance(step, Skipped)]


def order(*comments: ImportedComment) -> list[str]:
    return [step.comment.source_id for step in planned(*comments)]


def test_comments_come_oldest_first() -> None:
    assert order(comment("c", minute=3), comment("a", minute=1), comment("b", minute=2)) == ["a", "b", "c"]


def test_equal_times_keep_the_order_of_the_file() -> None:
    assert order(comment("z"), comment("a"), comment("m")) == ["z", "a", "m"]


def test_a_child_before_its_parent_in_the_file_comes_after_it() -> None:
    steps = planned(comment("2", "1", 5), comment("1", minute=1))

    assert [step.comment.source_id for step in steps] == ["1", "2"]
    assert steps[1].parent_id == steps[0].event_id
    assert [step.depth for step in steps] == [0, 1]


def test_a_child_older_than_its_parent_still_comes_after_it() -> None:
    assert order(comment("2", "1", 1), comment("1", minute=5), comment("3", minute=3)) == ["3", "1", "2"]


def test_a_missing_parent_is_one_placeholder_as_old_as_its_first_child() -> None:
    steps = planned(comment("0", minute=1), comment("3", "9", 4), comment("2", "9", 2))

    assert [step.comment.source_id for step in steps] == ["0", "9", "2", "3"]
    assert steps[1].comment == Placeholder("9", START + timedelta(minutes=2))
    assert steps[1].parent_id is None
    assert steps[2].parent_id == steps[3].parent_id == steps[1].event_id


def test_a_placeholder_stands_right_before_its_child_among_equal_times() -> None:
    assert order(comment("a"), comment("b", "gone"), comment("c")) == ["a", "gone", "b", "c"]


def test_a_second_comment_with_an_id_is_skipped() -> None:
    comments = (comment("1"), comment("1", minute=1), comment("2", "1", 2))

    assert order(*comments) == ["1", "2"]
    assert skipped(*comments) == [Skipped("comment 1", "another comment has the same id")]


def test_a_circle_of_parents_is_skipped_and_what_hangs_on_it_is_kept() -> None:
    comments = (
        comment("a", "c"),
        comment("b", "a"),
        comment("c", "b"),
        comment("self", "self"),
        comment("leaf", "b", 5),
        comment("twig", "leaf", 6),
        comment("free", minute=9),
    )

    assert {step.where for step in skipped(*comments)} == {
        "comment a",
        "comment b",
        "comment c",
        "comment self",
    }
    assert {step.reason for step in skipped(*comments)} == {"its parents form a circle"}
    assert order(*comments) == ["b", "leaf", "twig", "free"]
    assert isinstance(planned(*comments)[0].comment, Placeholder)


def test_what_lies_too_deep_is_skipped() -> None:
    chain = [comment("0")] + [comment(str(n), str(n - 1), n) for n in range(1, DEEPEST + 4)]

    assert order(*chain) == [str(n) for n in range(DEEPEST + 1)]
    assert [step.where for step in skipped(*chain)] == [
        f"comment {n}" for n in range(DEEPEST + 1, DEEPEST + 4)
    ]
    assert len(planned(*random.Random(1).sample(chain, len(chain)))) == DEEPEST + 1


def test_an_event_id_follows_from_site_thread_source_and_time_alone() -> None:
    fixed = import_event_id("s", "t", "1", START)

    # Written down: were it ever to differ, an import run again would add everything a second time.
    assert fixed == UUID("018f3398-c100-7d9c-9c5d-a4b43c62ad50")
    others = [("r", "t", "1"), ("s", "u", "1"), ("s", "t", "2"), ("s", "t1", "")]
    assert len({fixed, *(import_event_id(*other, START) for other in others)}) == 5


def test_the_same_comments_in_another_order_get_the_same_ids() -> None:
    comments = [comment("1"), comment("2", "1", 1), comment("3", "gone", 2), comment("4", "gone", 3)]
    first = {step.comment.source_id: (step.event_id, step.parent_id) for step in planned(*comments)}

    again = {step.comment.source_id: (step.event_id, step.parent_id) for step in planned(*comments[::-1])}

    assert first == again


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.one_of(st.none(), st.integers(0, 14)), st.integers(0, 5)),
        max_size=20,
    )
)
def test_every_comment_is_planned_after_its_parent_or_skipped(
    rows: list[tuple[int, int | None, int]],
) -> None:
    comments = [comment(str(a), None if b is None else str(b), minute) for a, b, minute in rows]

    steps = planned(*comments)

    seen: dict[UUID, int] = {}
    for step in steps:
        assert step.event_id not in seen
        assert step.depth == (0 if step.parent_id is None else seen[step.parent_id] + 1)
        seen[step.event_id] = step.depth
    real = [step.comment for step in steps if isinstance(step.comment, ImportedComment)]
    assert len(real) + len(skipped(*comments)) == len(comments)
    with Spool(site="s") as spool:
        spool.load(comments, Report())
        assert list(spool.plan("t")) == list(plan(comments, site="s"))


def test_a_spool_gives_threads_in_the_order_of_the_file_each_with_its_own_comments() -> None:
    report = Report()
    with Spool(site="s") as spool:
        spool.load(
            [
                ImportedThread("b", "B", "https://x.example/b"),
                comment("2", "1", 1, thread="b"),
                Skipped("comment 7", "spam"),
                comment("9", thread="a"),
                Noted("line 1", "unknown field 'x' is ignored"),
                ImportedThread("a", "A", None),
                ImportedThread("b", "other", None),
                comment("1", thread="b"),
            ],
            report,
        )

        found = {
            thread: [step.comment for step in spool.plan(thread.key) if isinstance(step, Planned)]
            for thread in spool.threads()
        }

        assert list(spool.plan("none such")) == []
    assert found == {
        ImportedThread("b", "B", "https://x.example/b"): [
            comment("1", thread="b"),
            comment("2", "1", 1, thread="b"),
        ],
        ImportedThread("a", "A", None): [comment("9", thread="a")],
    }
    assert (report.threads, report.comments) == (2, 3)
    assert (dict(report.skipped.counts), dict(report.noted.examples)) == (
        {"spam": 1},
        {"unknown field 'x' is ignored": ["line 1"]},
    )


def test_damage_reaches_the_caller_who_still_has_what_was_read_before() -> None:
    def records() -> Iterator[Record]:
        yield comment("1")
        raise ImportRefused("damaged XML", "line 9")

    report = Report()
    with Spool(site="s") as spool:
        with pytest.raises(ImportRefused, match="line 9: damaged XML"):
            spool.load(records(), report)

        assert len(list(spool.plan("t"))) == 1
    assert (report.threads, report.comments) == (1, 1)


def test_progress_is_told_now_and_then() -> None:
    seen: list[int] = []
    with Spool(site="s") as spool:
        spool.load(
            (comment(str(n)) for n in range(2_500)), Report(), lambda report: seen.append(report.comments)
        )

    assert seen == [1_000, 2_000]


def test_a_report_is_bounded() -> None:
    report = Report()
    for number in range(10_000):
        report.skip(Skipped("x" * 1_000, f"reason {number % 500}"))

    assert report.skipped.total == 10_000
    assert len(report.skipped.counts) == REASONS_KEPT + 1
    assert report.skipped.counts[OTHER_REASONS] == 8_000
    assert sum(map(len, report.skipped.examples.values())) == (REASONS_KEPT + 1) * EXAMPLES_KEPT
    assert all(len(place) <= 120 for places in report.skipped.examples.values() for place in places)


def test_bodies_of_a_long_thread_stay_on_disk() -> None:
    count = 20_000

    def records() -> Iterator[ImportedComment]:
        for n in range(count):
            yield ImportedComment(
                str(n), str(n // 2) if n else None, "t", "import:1", "Ann", START + timedelta(n), "x" * 2_000
            )

    tracemalloc.start()
    try:
        with Spool(site="s") as spool:
            spool.load(records(), Report())
            steps = sum(isinstance(step, Planned) for step in spool.plan("t"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert steps == count
    assert peak < count * 1_000
