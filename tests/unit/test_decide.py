"""Every decision and every refusal: given what happened, when a command comes, then what."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from services.core.commands import Actor, Rules, ThreadCommand
from services.core.decide import decide, decide_site
from services.core.deciding.events import NewEvent, following_id
from services.core.site import SiteSettings, SiteState
from services.core.thread import MAX_DEPTH, CommentState
from services.errors import (
    AlreadyReported,
    CommentNotFound,
    CommentNotOpen,
    EditWindowClosed,
    FieldInvalid,
    Forbidden,
    NotAuthor,
    OwnComment,
    ParentNotFound,
    ParentNotOpen,
    RevisionMismatch,
    ThreadNotOpen,
    TooDeep,
)
from tests import factories
from tests.factories import (
    BLOG,
    at,
    change_settings,
    change_thread,
    delete,
    edit,
    id_of,
    imported,
    mac_of,
    post,
    reply,
    report,
    words,
)
from tests.given import (
    Fact,
    closed,
    deleted,
    described,
    edited,
    folded,
    hidden,
    posted,
    removed,
    reopened,
    replied,
    reported,
    then,
)

OPENS = {"site": BLOG.site, "key": BLOG.key}
CLOSED = ThreadNotOpen("the thread takes no new comments")
NOT_AUTHOR_EDITS = NotAuthor("only its author or a moderator edits a comment")
NOT_AUTHOR_DELETES = NotAuthor("only its author or a moderator deletes a comment")
ENDINGS = [(hidden, "hidden"), (deleted, "deleted"), (removed, "removed")]


def new(
    command: ThreadCommand, type: str, data: dict[str, Any], *, place: int = 0, system: bool = False
) -> NewEvent:
    """The event number `place` of `command`, which the first one caused."""
    text = getattr(command, "text", None) or getattr(command, "detail", None)
    sealed = text if type not in ("ThreadDescribed", "CommentHidden") else None
    return NewEvent(
        event_id=following_id(command.event_id, place) if place else command.event_id,
        type=type,
        data=data,
        actor_id=None if system else command.actor.id,
        causation_id=command.event_id if place else None,
        sealed=None if sealed is None else sealed.ciphertext,
        key_id=None if sealed is None else sealed.key_id,
    )


def rules(**settings: Any) -> Rules:
    return Rules(SiteSettings(**settings))


def about(name: str, version: int) -> dict[str, Any]:
    return {"comment_id": str(id_of(name)), "posted": version}


class TestPosting:
    def test_the_first_comment_opens_the_thread(self) -> None:
        when = post("c1")
        then([], when, events=[new(when, "CommentPosted", {"text_mac": mac_of("c1"), "opens": OPENS})])

    def test_the_first_comment_describes_the_thread_before_it_is_posted(self) -> None:
        when = post("c1", describe=factories.described("Talk therapy", "https://blog.example/t"))
        data = {"title": "Talk therapy", "url": "https://blog.example/t", "by": "client", "opens": OPENS}
        then(
            [],
            when,
            events=[
                new(when, "ThreadDescribed", data, place=1),
                new(when, "CommentPosted", {"text_mac": mac_of("c1")}),
            ],
        )

    def test_a_later_description_by_a_client_is_ignored(self) -> None:
        when = post("c2", describe=factories.described("Another title", "https://elsewhere.example/"))
        then(
            [posted("c1")],
            when,
            events=[new(when, "CommentPosted", {"text_mac": mac_of("c2")})],
            origins=["https://blog.example"],
        )

    def test_a_description_counts_only_on_one_of_the_sites_origins(self) -> None:
        when = post("c1", describe=factories.described(url="https://elsewhere.example/t"))
        then(
            [],
            when,
            refuses=FieldInvalid("thread.url", "is not on one of the site's origins"),
            origins=["https://blog.example"],
        )

    @pytest.mark.parametrize("url", ["https://blog.example/t", None])
    def test_a_description_on_an_origin_or_without_address_is_taken(self, url: str | None) -> None:
        when = post("c1", describe=factories.described(url=url))
        data = {"title": "Talk therapy", "url": url, "by": "client", "opens": OPENS}
        then(
            [],
            when,
            events=[
                new(when, "ThreadDescribed", data, place=1),
                new(when, "CommentPosted", {"text_mac": mac_of("c1")}),
            ],
            origins=["https://blog.example"],
        )

    def test_a_reply_names_its_parent_and_lies_one_deeper(self) -> None:
        when = reply("c3", to="c2")
        data = {
            "parent_id": str(id_of("c2")),
            "parent": 2,
            "depth": 2,
            "text_mac": mac_of("c3"),
        }
        then([posted("c1"), replied("c2", to="c1")], when, events=[new(when, "ReplyPosted", data)])

    def test_a_reply_to_nobody_is_refused(self) -> None:
        then([posted("c1")], reply("c2", to="c9"), refuses=ParentNotFound(id_of("c9")))

    def test_a_reply_as_first_comment_is_refused(self) -> None:
        then([], reply("c2", to="c1"), refuses=ParentNotFound(id_of("c1")))

    @pytest.mark.parametrize(("ending", "state"), ENDINGS)
    def test_a_reply_below_what_is_not_visible_is_refused(self, ending: Any, state: str) -> None:
        then([posted("c1"), ending("c1")], reply("c2", to="c1"), refuses=ParentNotOpen(id_of("c1"), state))

    def test_a_held_parent_does_not_exist_for_others(self) -> None:
        thread = folded([posted("c1")])
        thread.comments[id_of("c1")].state = CommentState.HELD
        decision = decide(reply("c2", to="c1"), thread, at(60), rules())
        assert isinstance(decision, ParentNotFound)

    def test_replies_reach_the_deepest_level_and_no_deeper(self) -> None:
        thread = folded([posted("c1")])
        thread.comments[id_of("c1")].depth = MAX_DEPTH - 1
        deepest = decide(reply("c2", to="c1"), thread, at(60), rules())
        assert isinstance(deepest, tuple)
        assert deepest[0].data["depth"] == MAX_DEPTH == 1000
        thread.comments[id_of("c1")].depth = MAX_DEPTH
        refusal = decide(reply("c2", to="c1"), thread, at(60), rules())
        assert isinstance(refusal, TooDeep)
        assert refusal.limit == 1000

    def test_a_closed_thread_takes_no_comments(self) -> None:
        then([posted("c1"), closed()], post("c2"), refuses=CLOSED)
        then([posted("c1"), closed()], reply("c2", to="c1"), refuses=CLOSED)

    def test_a_closed_thread_takes_none_from_moderators_either(self) -> None:
        when = replace(post("c2"), actor=Actor("mod", moderator=True))
        then([posted("c1"), closed()], when, refuses=CLOSED)

    def test_a_reopened_thread_takes_comments(self) -> None:
        when = post("c2")
        then(
            [posted("c1"), closed(), reopened()],
            when,
            events=[new(when, "CommentPosted", {"text_mac": mac_of("c2")})],
        )

    @pytest.mark.parametrize(
        "given", [[], [described("T", "https://blog.example/t")], [posted("c1")]], ids=len
    )
    def test_without_open_threads_what_the_site_did_not_describe_is_closed(self, given: list[Fact]) -> None:
        then(given, post("c2", describe=factories.described()), refuses=CLOSED, open_threads=False)

    def test_without_open_threads_what_the_site_described_is_open(self) -> None:
        when = post("c1")
        then(
            [described("T", None, by="site")],
            when,
            events=[new(when, "CommentPosted", {"text_mac": mac_of("c1")})],
            open_threads=False,
        )

    def test_the_same_comment_again_adds_nothing(self) -> None:
        then([posted("c1")], post("c1"), events=[])


class TestImporting:
    def test_an_import_keeps_its_time_and_where_it_comes_from(self) -> None:
        when = post("c1", imported=imported("17"))
        data = {
            "text_mac": mac_of("c1"),
            "opens": OPENS,
            "imported": {"created_at": "2015-09-03T21:30:00.000000Z", "source_id": "17"},
        }
        then([], when, events=[new(when, "CommentPosted", data)])

    def test_a_lost_parent_leaves_a_tombstone(self) -> None:
        when = post("c1", imported=imported("17", tombstone=True))
        data = {
            "text_mac": "",
            "opens": OPENS,
            "imported": {"created_at": "2015-09-03T21:30:00.000000Z", "source_id": "17"},
            "tombstone": True,
        }
        then([], when, events=[new(when, "CommentPosted", data)])

    @pytest.mark.parametrize(
        ("given", "settings"),
        [
            ([posted("c1"), closed()], {}),
            ([posted("c1")], {"open_threads": False}),
            ([posted("c1"), hidden("c1")], {}),
            ([posted("c1", tombstone=True)], {}),
        ],
        ids=["closed", "not open", "below a hidden one", "below a tombstone"],
    )
    def test_what_has_happened_elsewhere_is_not_refused(
        self, given: list[Fact], settings: dict[str, Any]
    ) -> None:
        when = reply("c2", to="c1", imported=imported("18"))
        data = {
            "parent_id": str(id_of("c1")),
            "parent": 1,
            "depth": 1,
            "text_mac": mac_of("c2"),
            "imported": {"created_at": "2015-09-03T21:30:00.000000Z", "source_id": "18"},
        }
        then(given, when, events=[new(when, "ReplyPosted", data)], **settings)

    def test_an_import_run_again_adds_nothing(self) -> None:
        then([posted("c1"), closed()], post("c1", imported=imported("17")), events=[])

    def test_an_import_below_nothing_is_refused(self) -> None:
        when = reply("c2", to="c1", imported=imported("18"))
        then([], when, refuses=ParentNotFound(id_of("c1")))


class TestEditing:
    def test_the_author_gives_a_comment_a_new_text(self) -> None:
        when = edit("c1", text=words("better"))
        data = about("c1", 1) | {"revision": 2, "by": "author", "text_mac": mac_of("better")}
        then([posted("c1")], when, events=[new(when, "CommentEdited", data)])

    def test_each_edit_raises_the_revision(self) -> None:
        when = edit("c1", revision=2, text=words("best"))
        data = about("c1", 1) | {"revision": 3, "by": "author", "text_mac": mac_of("best")}
        then([posted("c1"), edited("c1", "better")], when, events=[new(when, "CommentEdited", data)])

    def test_a_moderator_edits_anyones_comment_without_a_window(self) -> None:
        when = edit("c1", by="mod", moderator=True, text=words("milder", by="ann"))
        data = about("c1", 1) | {"revision": 2, "by": "moderator", "text_mac": mac_of("milder")}
        then([posted("c1")], when, events=[new(when, "CommentEdited", data)], now=at(10**7))

    def test_a_moderator_edits_their_own_as_author_without_a_window(self) -> None:
        when = edit("c1", by="ann", moderator=True, text=words("milder"))
        data = about("c1", 1) | {"revision": 2, "by": "author", "text_mac": mac_of("milder")}
        then([posted("c1")], when, events=[new(when, "CommentEdited", data)], now=at(10**7))

    def test_nobody_else_edits(self) -> None:
        then([posted("c1")], edit("c1", by="bob"), refuses=NOT_AUTHOR_EDITS)

    def test_the_text_that_it_has_adds_nothing(self) -> None:
        then([posted("c1")], edit("c1", text=words("c1")), events=[])

    @pytest.mark.parametrize("revision", [0, 1, 3])
    def test_another_revision_than_the_present_one_is_refused(self, revision: int) -> None:
        given = [posted("c1"), edited("c1", "better")]
        then(given, edit("c1", revision=revision), refuses=RevisionMismatch(revision, 2))

    def test_the_same_text_at_another_revision_is_refused(self) -> None:
        given = [posted("c1"), edited("c1", "better")]
        then(given, edit("c1", revision=1, text=words("better")), refuses=RevisionMismatch(1, 2))

    @pytest.mark.parametrize(
        ("window", "second", "taken"),
        [
            (900, 900, True),
            (900, 900.000001, False),
            (0, 0, True),
            (0, 0.000001, False),
            (None, 10**8, True),
        ],
    )
    def test_the_edit_window_ends_on_time(self, window: int | None, second: float, taken: bool) -> None:
        when = edit("c1", text=words("better"))
        data = about("c1", 1) | {"revision": 2, "by": "author", "text_mac": mac_of("better")}
        then(
            [posted("c1")],
            when,
            events=[new(when, "CommentEdited", data)] if taken else None,
            refuses=None if taken else EditWindowClosed(timedelta(seconds=window or 0)),
            now=at(second),
            edit_window_seconds=window,
        )

    def test_the_window_of_an_imported_comment_counts_from_its_own_time(self) -> None:
        given = [posted("c1", when=factories.LONG_AGO)]
        then(given, edit("c1"), refuses=EditWindowClosed(timedelta(seconds=900)), now=at(1))

    @pytest.mark.parametrize(("ending", "state"), ENDINGS)
    @pytest.mark.parametrize("moderator", [False, True])
    def test_what_is_not_visible_is_not_edited(self, ending: Any, state: str, moderator: bool) -> None:
        given = [posted("c1"), ending("c1")]
        then(given, edit("c1", moderator=moderator), refuses=CommentNotOpen(id_of("c1"), state))

    def test_a_closed_thread_takes_edits(self) -> None:
        when = edit("c1", text=words("better"))
        data = about("c1", 1) | {"revision": 2, "by": "author", "text_mac": mac_of("better")}
        then([posted("c1"), closed()], when, events=[new(when, "CommentEdited", data)])

    def test_what_is_not_there_is_not_edited(self) -> None:
        then([posted("c1")], edit("c9"), refuses=CommentNotFound(id_of("c9")))


class TestDeleting:
    @pytest.mark.parametrize("given", [[], [hidden("c1")], [edited("c1", "x")], [closed()]], ids=len)
    def test_the_author_takes_a_comment_back(self, given: list[Fact]) -> None:
        when = delete("c1")
        then([posted("c1"), *given], when, events=[new(when, "CommentDeleted", about("c1", 1))])

    def test_a_moderator_takes_their_own_back_as_everyone_does(self) -> None:
        when = delete("c1", by="mod", moderator=True)
        then([posted("c1", by="mod")], when, events=[new(when, "CommentDeleted", about("c1", 1))])

    @pytest.mark.parametrize("given", [[], [hidden("c1")]], ids=len)
    def test_a_moderator_removes_anothers(self, given: list[Fact]) -> None:
        when = delete("c1", by="mod", moderator=True)
        then([posted("c1"), *given], when, events=[new(when, "CommentRemoved", about("c1", 1))])

    def test_deleting_twice_adds_nothing(self) -> None:
        then([posted("c1"), deleted("c1")], delete("c1"), events=[])

    def test_removing_twice_adds_nothing(self) -> None:
        then([posted("c1"), removed("c1")], delete("c1", by="mod", moderator=True), events=[])

    def test_what_was_removed_is_not_taken_back(self) -> None:
        then([posted("c1"), removed("c1")], delete("c1"), refuses=CommentNotOpen(id_of("c1"), "removed"))

    def test_what_was_taken_back_is_not_removed(self) -> None:
        when = delete("c1", by="mod", moderator=True)
        then([posted("c1"), deleted("c1")], when, refuses=CommentNotOpen(id_of("c1"), "deleted"))

    def test_nobody_else_deletes(self) -> None:
        then([posted("c1")], delete("c1", by="bob"), refuses=NOT_AUTHOR_DELETES)

    def test_what_is_not_there_is_not_deleted(self) -> None:
        then([posted("c1")], delete("c9"), refuses=CommentNotFound(id_of("c9")))


class TestReporting:
    def test_a_report_is_recorded_with_its_weight_and_the_revision_seen(self) -> None:
        when = report("c1", detail=words("under five articles", by="bob"))
        data = about("c1", 1) | {"revision": 2, "reason": "spam", "weight": 1.0}
        then([posted("c1"), edited("c1", "ad")], when, events=[new(when, "CommentReported", data)])

    def test_the_threshold_hides_the_comment_and_names_the_rule(self) -> None:
        given = [posted("c1"), reported("c1", by="carl"), reported("c1", by="dora")]
        when = report("c1")
        then(
            given,
            when,
            events=[
                new(
                    when,
                    "CommentReported",
                    about("c1", 1) | {"revision": 1, "reason": "spam", "weight": 1.0},
                ),
                new(
                    when,
                    "CommentHidden",
                    about("c1", 1) | {"rule": "reports", "threshold": 3.0, "total": 3.0},
                    place=1,
                    system=True,
                ),
            ],
            report_threshold=3,
        )

    def test_a_threshold_that_was_lowered_hides_at_the_next_report(self) -> None:
        given = [posted("c1"), *(reported("c1", by=f"u-{n}") for n in range(4))]
        decision = decide(report("c1"), folded(given), at(60), rules(report_threshold=2))
        assert isinstance(decision, tuple)
        assert [event.type for event in decision] == ["CommentReported", "CommentHidden"]
        assert decision[1].data["total"] == 5.0

    def test_nobody_reports_their_own(self) -> None:
        then([posted("c1")], report("c1", by="ann"), refuses=OwnComment("nobody reports their own comment"))

    def test_nobody_reports_twice(self) -> None:
        refusal = AlreadyReported("you have reported this comment before")
        then([posted("c1"), reported("c1", by="bob")], report("c1"), refuses=refusal)

    def test_an_edit_does_not_let_one_report_again(self) -> None:
        given = [posted("c1"), reported("c1", by="bob"), edited("c1", "better")]
        then(given, report("c1"), refuses=AlreadyReported("you have reported this comment before"))

    @pytest.mark.parametrize(("ending", "state"), ENDINGS)
    def test_what_is_not_visible_is_not_reported(self, ending: Any, state: str) -> None:
        then([posted("c1"), ending("c1")], report("c1"), refuses=CommentNotOpen(id_of("c1"), state))

    def test_what_is_not_there_is_not_reported(self) -> None:
        then([posted("c1")], report("c9"), refuses=CommentNotFound(id_of("c9")))

    def test_a_report_has_a_reporter(self) -> None:
        then([posted("c1")], report("c1", by=None), refuses=Forbidden("a report has a reporter"))

    def test_a_reason_is_one_of_the_sites(self) -> None:
        then(
            [posted("c1")],
            report("c1", reason="boring"),
            refuses=FieldInvalid("reason", "is not one of rude, spam"),
            report_reasons=["rude", "spam"],
        )

    def test_a_tombstone_is_not_reported(self) -> None:
        given = [posted("c1", tombstone=True)]
        then(given, report("c1"), refuses=CommentNotOpen(id_of("c1"), "deleted"))


class TestChangingAThread:
    def test_the_site_describes_a_thread_before_its_first_comment(self) -> None:
        when = change_thread({"title": "T", "url": "https://blog.example/t"})
        data = {"title": "T", "url": "https://blog.example/t", "by": "site", "opens": OPENS}
        then([], when, events=[new(when, "ThreadDescribed", data)])

    def test_closing_an_unopened_thread_describes_it_first(self) -> None:
        when = change_thread(closed=True)
        data = {"title": None, "url": None, "by": "site", "opens": OPENS}
        then([], when, events=[new(when, "ThreadDescribed", data), new(when, "ThreadClosed", {}, place=1)])

    @pytest.mark.parametrize(("name", "other"), [("title", "url"), ("url", "title")])
    def test_what_is_not_named_stays(self, name: Any, other: str) -> None:
        before = {"title": "T", "url": "https://blog.example/t"}
        when = change_thread({name: "https://blog.example/new"})
        data = before | {name: "https://blog.example/new", "by": "site"}
        then(
            [described(before["title"], before["url"], by="site")],
            when,
            events=[new(when, "ThreadDescribed", data)],
        )
        assert data[other] == before[other]

    def test_none_clears(self) -> None:
        when = change_thread({"title": None})
        data = {"title": None, "url": "https://blog.example/t", "by": "site"}
        given = [described("T", "https://blog.example/t", by="site")]
        then(given, when, events=[new(when, "ThreadDescribed", data)])

    def test_the_sites_word_replaces_a_clients_even_where_it_is_the_same(self) -> None:
        when = change_thread({"title": "T"})
        data = {"title": "T", "url": None, "by": "site"}
        then([described("T", None)], when, events=[new(when, "ThreadDescribed", data)])

    def test_closing_and_describing_at_once_are_two_events(self) -> None:
        when = change_thread({"title": "T"}, closed=True)
        data = {"title": "T", "url": None, "by": "site"}
        then(
            [posted("c1")],
            when,
            events=[new(when, "ThreadDescribed", data), new(when, "ThreadClosed", {}, place=1)],
        )

    def test_a_thread_is_closed_and_reopened(self) -> None:
        when = change_thread(closed=True)
        then([posted("c1")], when, events=[new(when, "ThreadClosed", {})])
        when = change_thread(closed=False)
        then([posted("c1"), closed()], when, events=[new(when, "ThreadReopened", {})])

    @pytest.mark.parametrize(
        ("given", "describe", "shut"),
        [
            ([], {}, None),
            ([], {}, False),
            ([posted("c1"), closed()], {}, True),
            ([described("T", None, by="site")], {"title": "T"}, None),
            ([described("T", None, by="site")], {"title": "T", "url": None}, False),
        ],
    )
    def test_what_changes_nothing_adds_nothing(
        self, given: list[Fact], describe: Any, shut: bool | None
    ) -> None:
        then(given, change_thread(describe, closed=shut), events=[])

    def test_only_moderators_change_a_thread(self) -> None:
        refusal = Forbidden("only moderators change a thread")
        then([posted("c1")], change_thread(closed=True, by="ann", moderator=False), refuses=refusal)


class TestChangingSettings:
    def test_the_first_change_opens_the_sites_stream(self) -> None:
        when = change_settings({"report_threshold": 3}, event="s1")
        decision = decide_site(when, SiteState(when.stream_id))
        data = {"changes": {"report_threshold": 3}, "opens": {"site": "blog"}}
        assert decision == (NewEvent(id_of("s1"), "SiteSettingsChanged", data, "admin"),)

    def test_a_later_change_names_only_what_it_changes(self) -> None:
        when = change_settings({"edit_window_seconds": None}, event="s2")
        site = SiteState(when.stream_id, "blog", 1, settings=SiteSettings(report_threshold=3))
        data = {"changes": {"edit_window_seconds": None}}
        assert decide_site(when, site) == (NewEvent(id_of("s2"), "SiteSettingsChanged", data, "admin"),)

    @pytest.mark.parametrize("changes", [{}, {"report_threshold": 5}])
    def test_what_changes_nothing_adds_nothing(self, changes: dict[str, Any]) -> None:
        when = change_settings(changes)
        assert decide_site(when, SiteState(when.stream_id)) == ()

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"shouting": True}, "shouting"),
            ({"report_threshold": 0}, "report_threshold"),
            ({"report_threshold": "3"}, "report_threshold"),
            ({"report_reasons": []}, "report_reasons"),
            ({"report_reasons": ["spam", "No!"]}, "report_reasons.1"),
            ({"origins": ["blog.example"]}, "origins.0"),
            ({"comment_url": "{url}"}, "comment_url"),
        ],
    )
    def test_an_unknown_setting_or_value_is_refused_by_its_name(
        self, changes: dict[str, Any], field: str
    ) -> None:
        when = change_settings(changes)
        decision = decide_site(when, SiteState(when.stream_id))
        assert isinstance(decision, FieldInvalid)
        assert decision.field == field


def test_the_ids_of_a_commands_further_events_follow_from_its_first() -> None:
    first = id_of("c1")
    ids = [following_id(first, place) for place in range(1, 50)]
    assert ids == [following_id(first, place) for place in range(1, 50)]
    assert len({first, *ids}) == 50
    for one in ids:
        assert one.version == 7
        assert one.variant == UUID(int=first.int).variant
        assert one.bytes[:6] == first.bytes[:6]


def test_a_command_without_a_decision_is_an_error_of_ours() -> None:
    class Unheard(ThreadCommand):
        pass

    when = Unheard(site="blog", key="k", stream_id=BLOG.stream_id, event_id=id_of("x"), actor=Actor("ann"))
    with pytest.raises(TypeError, match="Unheard"):
        decide(when, folded([]), at(0), rules())
