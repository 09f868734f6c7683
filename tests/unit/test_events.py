"""The events: frozen examples, their schemas, their hashes, and the way up from an old schema version."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

import schema.events.export
from schema.events.envelope import GENESIS, Recorded, canonical, chain_of, micros
from schema.events.registry import (
    CONTRACTS,
    UPCASTERS,
    Contract,
    Json,
    PayloadInvalid,
    TypeUnknown,
    Upcasters,
)
from services.core.site import SiteState, evolve_site
from services.core.thread import CommentState, ThreadState, evolve, timestamp
from services.eventlog.keys import AuthorKey
from services.projection.fold import author_of

GOLDEN = Path(schema.events.__file__).parent / "golden"
EXAMPLES = sorted(path.name for path in GOLDEN.glob("*.json"))
SEALED = [name for name in EXAMPLES if "clear" in orjson.loads((GOLDEN / name).read_bytes())]


def example(name: str) -> Json:
    document: Json = orjson.loads((GOLDEN / name).read_bytes())
    return document


def event_of(document: Json) -> Recorded:
    """The example as the log holds it."""
    e = document["recorded"]
    return Recorded(
        stream_id=UUID(e["stream"]),
        version=e["version"],
        event_id=UUID(e["event_id"]),
        type=e["type"],
        schema_version=e["schema_version"],
        actor_id=e["actor"],
        correlation_id=e["correlation_id"],
        causation_id=None if e["causation_id"] is None else UUID(e["causation_id"]),
        recorded_at=datetime.fromisoformat(e["recorded_at"]),
        data=canonical(e["data"]),
        sealed=None if e["sealed"] is None else base64.b64decode(e["sealed"]),
        key_id=None if e["key_id"] is None else UUID(e["key_id"]),
        hash=bytes.fromhex(e["hash"]),
        lane=e["lane"],
        position=e["position"],
    )


def thread_examples() -> list[Recorded]:
    """The examples of one thread's stream, in order."""
    events = [event_of(example(name)) for name in EXAMPLES if not name.startswith(("Site", "Author"))]
    return sorted(events, key=lambda event: event.version)


def test_every_type_has_an_example_of_every_schema_version() -> None:
    expected = {
        f"{name}.v{version}.json"
        for name, contract in CONTRACTS.items()
        for version in range(1, contract.schema_version + 1)
    }
    assert set(EXAMPLES) == expected


def test_the_types_are_the_contracts() -> None:
    assert set(CONTRACTS) == {
        "CommentPosted",
        "ReplyPosted",
        "CommentEdited",
        "CommentDeleted",
        "CommentReported",
        "CommentVoted",
        "CommentApproved",
        "CommentHidden",
        "CommentRestored",
        "CommentRemoved",
        "CommentErased",
        "ThreadDescribed",
        "ThreadClosed",
        "ThreadReopened",
        "SiteSettingsChanged",
        "AuthorErased",
    }


FROZEN = {
    "golden/CommentHidden.v1.json": "82d88f324ddb26fc",
    "json_schema/CommentHidden.v1.json": "5d62851198c8beab",
    "golden/CommentPosted.v1.json": "7ef7935bd8b827cf",
    "json_schema/CommentPosted.v1.json": "4135d5966e6e0d85",
    "json_schema/CommentPosted.v1.sealed.json": "325341468f64a6d1",
    "golden/CommentPosted.v2.json": "3beb4ddad0e3e8d8",
    "json_schema/CommentPosted.v2.json": "0d38bba77cf80422",
    "json_schema/CommentPosted.v2.sealed.json": "0c918025ee422791",
    "golden/ReplyPosted.v1.json": "f7a99fb5f396cce0",
    "json_schema/ReplyPosted.v1.json": "58ea8f07ff8f2d0f",
    "json_schema/ReplyPosted.v1.sealed.json": "80a412778458e59a",
    "golden/ReplyPosted.v2.json": "1d2600717ac38037",
    "json_schema/ReplyPosted.v2.json": "d081468f686ff6b8",
    "json_schema/ReplyPosted.v2.sealed.json": "b52072f956e73471",
}
"""SHA-256, the first 16 digits, of the files of schema versions that are not written any more."""


def test_the_files_of_old_schema_versions_are_frozen() -> None:
    old = {
        f"{folder}/{name}.v{version}{part}.json"
        for name, contract in CONTRACTS.items()
        for version in range(1, contract.schema_version)
        for folder, part in (("golden", ""), ("json_schema", ""), ("json_schema", ".sealed"))
        if not part or (GOLDEN.parent / f"{folder}/{name}.v{version}{part}.json").exists()
    }
    digests = {name: hashlib.sha256((GOLDEN.parent / name).read_bytes()).hexdigest()[:16] for name in old}
    assert digests == FROZEN


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_its_present_contract_takes(name: str) -> None:
    event = event_of(example(name))
    contract = CONTRACTS[event.type]
    payload = UPCASTERS.payload(event.type, event.schema_version, event.data)
    assert contract.payload.validate_python(payload, strict=True) == payload
    assert (event.sealed is None) == (event.key_id is None)
    if event.sealed is not None:
        assert contract.sealed is not None


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_hashes_to_its_frozen_hash(name: str) -> None:
    document = example(name)
    event = event_of(document)
    assert chain_of(bytes.fromhex(document["previous_hash"]), event) == event.hash


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_reads_and_writes_its_time_alike(name: str) -> None:
    document = example(name)
    assert timestamp(event_of(document).recorded_at) == document["recorded"]["recorded_at"]


@pytest.mark.parametrize("name", SEALED)
def test_what_an_example_seals_opens_to_what_its_contract_takes(name: str) -> None:
    document = example(name)
    event = event_of(document)
    secret = base64.b64decode(document["key"])
    assert event.key_id is not None
    assert event.sealed is not None
    key = AuthorKey(event.key_id, secret, AESGCM(secret))
    clear = key.open(event.event_id, event.stream_id, event.sealed)
    assert clear == document["clear"]
    sealed = CONTRACTS[event.type].sealed
    assert sealed is not None
    assert sealed.validate_python(clear, strict=True) == clear
    if "text_mac" in document["recorded"]["data"]:
        assert key.mac(clear["body"]) == document["recorded"]["data"]["text_mac"]


def test_the_examples_of_a_thread_fold_into_one() -> None:
    events = thread_examples()
    thread, previous = ThreadState(events[0].stream_id), GENESIS
    for event in events:
        assert chain_of(previous, event) == event.hash
        evolve(thread, event)
        previous = event.hash
    assert (thread.site, thread.key, thread.title) == ("blog", "2015/09/talk-therapy", "Talk therapy")
    first, second, *later = thread.comments.values()
    assert (first.state, first.report_weight) == (CommentState.REMOVED, 1.0)
    assert (second.state, second.revision) == (CommentState.ERASED, 2)
    assert (second.author_id, second.text_mac) == (None, "")
    assert (second.up, second.down) == (1, 0)
    assert [comment.depth for comment in later] == [0, 1, 0, 1]
    assert [comment.approved for comment in later] == [True, False, False, False]
    assert (thread.visible, thread.closed, thread.version) == (4, False, len(events))


def test_the_example_of_a_site_folds() -> None:
    event = event_of(example("SiteSettingsChanged.v1.json"))
    site = SiteState(event.stream_id)
    evolve_site(site, event)
    erased = event_of(example("AuthorErased.v1.json"))
    assert chain_of(event.hash, erased) == erased.hash
    evolve_site(site, erased)
    assert (site.site, site.version, site.settings.report_threshold) == ("blog", 2, 3)
    assert site.settings.edit_window is None


CHANGES: dict[str, Callable[[Any], Any]] = {
    "stream_id": lambda e: UUID(int=e.stream_id.int ^ 1),
    "version": lambda e: e.version + 1,
    "event_id": lambda e: UUID(int=e.event_id.int ^ 1),
    "type": lambda _: "CommentPosted",
    "schema_version": lambda e: e.schema_version + 1,
    "actor_id": lambda _: "u-5",
    "correlation_id": lambda _: "",
    "causation_id": lambda e: e.event_id,
    "recorded_at": lambda e: e.recorded_at + timedelta(microseconds=1),
    "data": lambda e: e.data + b" ",
    "sealed": lambda e: e.sealed[:-1],
    "key_id": lambda e: UUID(int=e.key_id.int ^ 1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_hash_changes_with_each_field(name: str) -> None:
    event = event_of(example("ReplyPosted.v1.json"))
    hashes = {chain_of(GENESIS, event), chain_of(GENESIS, event._replace(**{name: CHANGES[name](event)}))}
    if name in ("actor_id", "correlation_id", "causation_id", "sealed", "key_id"):
        absent: dict[str, Any] = {name: None}
        hashes |= {chain_of(GENESIS, event._replace(**absent))}
        assert len(hashes) == (3 if getattr(event, name) is not None else 2)
    assert len(hashes) >= 2


def test_the_hash_changes_with_the_event_before() -> None:
    event = event_of(example("ReplyPosted.v1.json"))
    assert chain_of(GENESIS, event) != chain_of(event.hash, event)


def test_the_hash_does_not_change_with_the_place_in_the_log() -> None:
    event = event_of(example("ReplyPosted.v1.json"))
    assert chain_of(GENESIS, event) == chain_of(GENESIS, event._replace(lane=7, position=9_000))


def test_every_field_but_lane_position_and_hash_is_hashed() -> None:
    assert set(CHANGES) == set(Recorded._fields) - {"lane", "position", "hash"}


def test_two_fields_cannot_be_shifted_into_one_another() -> None:
    event = event_of(example("ThreadClosed.v1.json"))
    one = event._replace(actor_id="ab", correlation_id="c")
    other = event._replace(actor_id="a", correlation_id="bc")
    absent = event._replace(actor_id=None, correlation_id="")
    empty = event._replace(actor_id="", correlation_id=None)
    assert len({chain_of(GENESIS, each) for each in (one, other, absent, empty)}) == 4


def test_times_are_hashed_to_the_microsecond_and_regardless_of_zone() -> None:
    event = event_of(example("ThreadClosed.v1.json"))
    moved = event._replace(recorded_at=event.recorded_at.astimezone(timezone(timedelta(hours=5))))
    assert chain_of(GENESIS, moved) == chain_of(GENESIS, event)
    assert micros(event.recorded_at) % 1_000_000 == 123456


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("CommentPosted", {"text": "in the clear"}),
        ("CommentPosted", {"text_mac": None}),
        ("CommentPosted", {"tombstone": False}),
        ("CommentPosted", {"badge": True}),
        ("ReplyPosted", {"badge": None}),
        ("CommentPosted", {"imported": {"created_at": "2015-09-03T21:30:00.000000Z"}}),
        ("ReplyPosted", {"depth": "1"}),
        ("CommentEdited", {"by": "somebody"}),
        ("CommentVoted", {"value": 2}),
        ("CommentVoted", {"previous": None}),
        ("CommentHidden", {"rule": "whim"}),
        ("CommentApproved", {"from": "removed"}),
        ("CommentRestored", {"reason": "in the clear"}),
        ("ThreadDescribed", {"by": "nobody"}),
    ],
)
def test_a_payload_of_another_shape_is_not_valid(name: str, change: Json) -> None:
    data = example(f"{name}.v1.json")["recorded"]["data"] | change
    with pytest.raises(ValidationError):
        CONTRACTS[name].payload.validate_python(data, strict=True)


def test_the_json_schemas_are_up_to_date() -> None:
    stored = {path.name: path.read_bytes() for path in schema.events.export.FOLDER.glob("*.json")}
    for name, document in schema.events.export.documents().items():
        assert stored.get(name) == document, f"{name}: run `python -m schema.events.export`"
    for name, contract in CONTRACTS.items():
        for version in range(1, contract.schema_version + 1):
            assert f"{name}.v{version}.json" in stored


def test_the_json_schemas_are_written_where_they_differ(tmp_path: Path) -> None:
    written = schema.events.export.write(tmp_path)
    assert sorted(written) == sorted(schema.events.export.documents())
    (tmp_path / written[0]).write_bytes(b"{}")
    assert schema.events.export.write(tmp_path) == [written[0]]


@pytest.mark.parametrize(
    ("type", "schema_version"), [("CommentSung", 1), ("CommentPosted", 4), ("CommentVoted", 2)]
)
def test_a_type_or_version_of_a_newer_release_is_unknown(type: str, schema_version: int) -> None:
    with pytest.raises(TypeUnknown, match=f"{type} at schema version {schema_version}"):
        UPCASTERS.payload(type, schema_version, b"{}")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b"null", b'"\xff"'])
def test_a_payload_that_is_no_json_object_is_invalid(data: bytes) -> None:
    with pytest.raises(PayloadInvalid):
        UPCASTERS.payload("ThreadClosed", 1, data)


BADGES = [
    ("CommentPosted.v1.json", None),
    ("CommentPosted.v2.json", "moderator"),
    ("CommentPosted.v3.json", "admin"),
    ("ReplyPosted.v1.json", None),
    ("ReplyPosted.v2.json", None),
    ("ReplyPosted.v3.json", "moderator"),
]


@pytest.mark.parametrize(
    "posting", [schema.events.payloads.CommentPosted, schema.events.payloads.ReplyPosted]
)
def test_no_member_of_a_posting_comes_before_its_badge(posting: type) -> None:
    assert min(posting.__annotations__) == "badge"  # the fold looks for it nowhere else


@pytest.mark.parametrize(("name", "badge"), BADGES)
def test_a_comment_of_any_schema_version_has_the_badge_that_was_known(name: str, badge: str | None) -> None:
    event = event_of(example(name))
    payload = UPCASTERS.payload(event.type, event.schema_version, event.data)
    assert payload.get("badge") == badge
    thread = ThreadState(event.stream_id, version=event.version - 1)
    comment = evolve(thread, event)
    assert comment is not None
    author = orjson.loads(author_of(comment, event, {"name": "Ann"}))
    assert author == {"id": event.actor_id, "name": "Ann", "avatar": None, "badge": badge}


@pytest.mark.parametrize(("version", "rule", "threshold"), [(1, "reports", 1.0), (2, "moderator", None)])
def test_a_hiding_of_any_schema_version_names_its_rule(
    version: int, rule: str, threshold: float | None
) -> None:
    event = event_of(example(f"CommentHidden.v{version}.json"))
    payload = UPCASTERS.payload(event.type, event.schema_version, event.data)
    assert (payload["rule"], payload.get("threshold")) == (rule, threshold)


def test_a_word_in_a_key_is_no_badge() -> None:
    event = event_of(example("CommentPosted.v1.json"))
    opens = {"site": "blog", "key": '"badge": "admin" "badge":'}
    event = event._replace(data=canonical({"text_mac": "", "opens": opens}))
    comment = evolve(ThreadState(event.stream_id, version=event.version - 1), event)
    assert comment is not None
    assert orjson.loads(author_of(comment, event, {"name": "Ann"}))["badge"] is None


# --- the way up, shown with a made-up event of three schema versions ---------------------------------------


@with_config(ConfigDict(extra="forbid"))
class CommentSung(TypedDict):
    """Schema version 1 said {song}, 2 {title, key}, 3 says {title, key: {tonic, mode}}."""

    title: str
    key: dict[str, str]


def song_to_title(payload: Json) -> Json:
    return {"title": payload["song"], "key": "C major"}


def key_to_parts(payload: Json) -> Json:
    tonic, mode = payload["key"].split()
    return payload | {"key": {"tonic": tonic, "mode": mode}}


SUNG = {"CommentSung": Contract("CommentSung", 3, TypeAdapter(CommentSung))}
STEPS = {("CommentSung", 1): song_to_title, ("CommentSung", 2): key_to_parts}


@pytest.mark.parametrize(
    ("schema_version", "data", "payload"),
    [
        (1, {"song": "Greensleeves"}, {"title": "Greensleeves", "key": {"tonic": "C", "mode": "major"}}),
        (
            2,
            {"title": "Lament", "key": "D minor"},
            {"title": "Lament", "key": {"tonic": "D", "mode": "minor"}},
        ),
        (3, {"title": "Air", "key": {"tonic": "G"}}, {"title": "Air", "key": {"tonic": "G"}}),
    ],
)
def test_an_old_event_is_brought_up_step_by_step(schema_version: int, data: Json, payload: Json) -> None:
    upcast = Upcasters(SUNG, STEPS).payload("CommentSung", schema_version, canonical(data))
    assert upcast == payload
    assert SUNG["CommentSung"].payload.validate_python(upcast) == payload


def test_a_newer_version_than_the_present_one_is_unknown() -> None:
    with pytest.raises(TypeUnknown):
        Upcasters(SUNG, STEPS).payload("CommentSung", 4, b"{}")


@pytest.mark.parametrize("missing", list(STEPS))
def test_a_gap_in_the_way_up_is_found_at_the_start(missing: tuple[str, int]) -> None:
    steps = {step: upcaster for step, upcaster in STEPS.items() if step != missing}
    with pytest.raises(ValueError, match=f"no upcaster for CommentSung from schema version {missing[1]}"):
        Upcasters(SUNG, steps)
