"""Erasing in the pure core: from any state, once, without a trace of author and text."""

from __future__ import annotations

import pytest

from services.core.addresses import site_stream_id
from services.core.commands import Actor, EraseAuthor
from services.core.decide import decide_site
from services.core.deciding.events import NewEvent, following_id
from services.core.node import NO_AUTHOR, NO_TEXT, author_fragment, decode, text_fragment
from services.core.page import FoldIndex, Picked
from services.core.pagejson import Reader, comment_json
from services.core.site import SiteState
from services.core.thread import CommentState, ThreadState
from services.errors import CommentNotOpen, ParentNotOpen
from services.projection.fold import Texts
from tests.factories import delete, edit, erase, id_of, key_id_of, reply, report
from tests.given import (
    Fact,
    deleted,
    edited,
    erased,
    folded,
    hidden,
    posted,
    removed,
    replied,
    reported,
    then,
    voted,
)

STATES = {
    "visible": [],
    "hidden": [hidden("c1")],
    "deleted": [deleted("c1")],
    "removed": [removed("c1")],
}


def erasure(name: str, place: int = 0) -> NewEvent:
    """The event by which `c1` or another is erased."""
    posting = {"c1": 1, "c2": 2, "c3": 3}[name]
    first = id_of("command")
    return NewEvent(
        event_id=following_id(first, place) if place else first,
        type="CommentErased",
        data={"comment_id": str(id_of(name)), "posted": posting},
        actor_id=None,
        causation_id=id_of("erasure"),
    )


@pytest.mark.parametrize("state", STATES)
def test_a_comment_is_erased_from_every_state(state: str) -> None:
    given = [posted("c1"), *STATES[state]]
    then(given, erase("c1", event="command"), events=[erasure("c1")])
    thread = folded([*given, erased("c1")])
    comment = thread.comments[id_of("c1")]
    assert comment.state is CommentState.ERASED
    assert (comment.author_id, comment.text_mac, comment.key_id) == (None, "", key_id_of("ann"))
    assert (comment.version, thread.visible) == (thread.version, 0)


def test_a_held_comment_is_erased_too() -> None:
    thread = folded([posted("c1")])
    thread.comments[id_of("c1")].state = CommentState.HELD
    thread.visible = 0
    from services.core.thread import evolve
    from tests.given import recorded

    evolve(thread, recorded(erased("c1"), thread))
    assert thread.comments[id_of("c1")].state is CommentState.ERASED
    assert thread.visible == 0


def test_several_are_erased_at_once_and_the_erased_are_passed_over() -> None:
    given = [posted("c1"), posted("c2"), posted("c3"), erased("c2")]
    command = erase("c1", "c2", "c3", event="command")
    then(given, command, events=[erasure("c1"), erasure("c3", 1)])
    then([*given, erased("c1"), erased("c3")], command, events=[])


def test_only_what_the_key_has_sealed_is_erased() -> None:
    given = [posted("c1"), posted("c2", by="bob")]
    then(given, erase("c1", "c2", "unknown", of="bob", event="command"), events=[erasure("c2")])


@pytest.mark.parametrize(
    "command",
    [
        edit("c1"),
        edit("c1", by="mod", moderator=True),
        edit("c1", by="bob"),
        delete("c1"),
        delete("c1", by="mod", moderator=True),
        report("c1"),
        report("c1", by="ann"),
    ],
)
def test_nothing_more_is_done_to_an_erased_comment(command: object) -> None:
    then([posted("c1"), erased("c1")], command, refuses=CommentNotOpen(id_of("c1"), "erased"))  # type: ignore[arg-type]


def test_nobody_replies_to_an_erased_comment() -> None:
    then([posted("c1"), erased("c1")], reply(to="c1"), refuses=ParentNotOpen(id_of("c1"), "erased"))


def test_replies_reports_and_votes_stay() -> None:
    given = [
        posted("c1"),
        replied("c2", to="c1"),
        reported("c1", by="dee"),
        voted("c1", value=1, by="dee"),
        erased("c1"),
    ]
    thread = folded(given)
    comment = thread.comments[id_of("c1")]
    assert (comment.report_weight, comment.up, thread.visible) == (1.0, 1, 1)
    assert (id_of("c1"), "dee") in thread.reported
    assert thread.comments[id_of("c2")].parent == comment.posted


@pytest.mark.parametrize("given", [[], [edited("c1", "again")]])
async def test_a_node_holds_no_author_and_no_text_though_key_and_fragments_are_at_hand(
    given: list[Fact],
) -> None:
    thread = folded([posted("c1"), *given, erased("c1")])
    texts = Texts(None, _NoKeys())  # type: ignore[arg-type]
    known = {1: (author_fragment("ann", "Ann", None), text_fragment("as *written*"))}
    for fragments in (known, {}):
        nodes = await texts.nodes(
            thread.stream_id, list(thread.comments.values()), events={}, known=fragments
        )
        node = decode(nodes[1])
        assert (node.state, node.author, node.text) == (CommentState.ERASED, NO_AUTHOR, NO_TEXT)
        assert node.comment(1).author_id is None


class _NoKeys:
    """A keyring that must not be asked for anything."""

    async def by_id(self, key_ids: object) -> dict[object, object]:
        assert list(key_ids) == []  # type: ignore[call-overload]
        return {}


@pytest.mark.parametrize("reader", [Reader(), Reader("ann"), Reader("mod", moderator=True)])
def test_nobody_is_shown_an_erased_text_even_where_a_node_still_has_it(reader: Reader) -> None:
    thread = folded([posted("c1"), erased("c1")])
    from services.core.node import encode

    raw = encode(thread.comments[id_of("c1")], author_fragment("ann", "Ann", None), text_fragment("secret"))
    shown = comment_json(Picked(1, 0, raw, 0, 0, 0, 0), (), thread, comment_url="{url}#{id}", reader=reader)
    assert b"secret" not in shown
    assert b"Ann" not in shown
    assert b'"author":null,"body":null,"html":null,"state":"erased"' in shown


def test_its_place_is_kept_in_the_page() -> None:
    thread = folded([posted("c1"), replied("c2", to="c1"), erased("c1")])
    index = FoldIndex(thread, {1: b"", 2: b""})
    found = index.comment(id_of("c1"))
    assert found is not None
    assert (found[0].children, found[0].descendants) == (1, 1)


def test_the_sites_stream_tells_whose_key_is_gone() -> None:
    command = EraseAuthor(
        site="blog",
        stream_id=site_stream_id("blog"),
        event_id=id_of("erasure"),
        actor=Actor("ann"),
        author_id="ann",
        key_id=key_id_of("ann"),
    )
    said = {"author_id": "ann", "key_id": str(key_id_of("ann"))}
    first = NewEvent(id_of("erasure"), "AuthorErased", said | {"opens": {"site": "blog"}}, "ann")
    assert decide_site(command, SiteState(command.stream_id)) == (first,)
    later = NewEvent(id_of("erasure"), "AuthorErased", said, "ann")
    assert decide_site(command, SiteState(command.stream_id, "blog", 4)) == (later,)


def test_an_empty_thread_has_nothing_to_erase() -> None:
    assert ThreadState(erase("c1").stream_id).comments == {}
    then([], erase("c1"), events=[])
