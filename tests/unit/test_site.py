"""Site settings: values, origins, and the fold of SiteSettingsChanged."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from schema.events.envelope import GENESIS, Recorded, canonical
from services.core.addresses import site_stream_id
from services.core.site import DEFAULTS, SiteSettings, SiteState, evolve_site
from services.errors import PoisonEvent, UnknownEventType
from tests.factories import at, id_of

STREAM = site_stream_id("blog")


def changed(
    data: Any, version: int = 1, type: str = "SiteSettingsChanged", schema_version: int = 1
) -> Recorded:
    return Recorded(
        stream_id=STREAM,
        version=version,
        event_id=id_of(f"settings {version}"),
        type=type,
        schema_version=schema_version,
        actor_id="admin",
        correlation_id=None,
        causation_id=None,
        recorded_at=at(version),
        data=canonical(data),
        sealed=None,
        key_id=None,
        hash=version.to_bytes(32, "big"),
        lane=0,
        position=version,
    )


def test_the_defaults_are_the_contracts() -> None:
    assert DEFAULTS.model_dump() == {
        "edit_window_seconds": 900,
        "report_threshold": 5,
        "report_reasons": ["spam", "abuse", "off-topic", "personal-data", "other"],
        "guests": False,
        "follow_on_post": False,
        "public_history": False,
        "open_threads": True,
        "comment_url": "{url}#comment-{id}",
        "origins": [],
        "token_issuer": None,
        "token_audience": None,
        "author_writes_per_minute": 30,
        "address_writes_per_minute": 120,
        "site_writes_per_second": None,
        "language": "en",
    }


@pytest.mark.parametrize(
    ("seconds", "window"), [(900, timedelta(minutes=15)), (0, timedelta(0)), (None, None)]
)
def test_the_edit_window_is_a_time_none_or_without_end(seconds: int | None, window: timedelta | None) -> None:
    assert SiteSettings(edit_window_seconds=seconds).edit_window == window


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("edit_window_seconds", -1),
        ("edit_window_seconds", 1.5),
        ("edit_window_seconds", "900"),
        ("edit_window_seconds", True),
        ("report_threshold", 0),
        ("report_threshold", None),
        ("report_reasons", []),
        ("report_reasons", ["Spam"]),
        ("report_reasons", ["spam", "abuse", "spam"]),
        ("report_reasons", [f"reason-{n}" for n in range(51)]),
        ("report_reasons", ["spam\n"]),
        ("report_reasons", "spam"),
        ("open_threads", "yes"),
        ("open_threads", 1),
        ("comment_url", "https://blog.example/"),
        ("comment_url", "{url}{id}" + "x" * 2048),
        ("comment_url", "{id}"),
        ("comment_url", "javascript:alert({id})"),
        ("comment_url", "{url}#\0{id}"),
        ("comment_url", "{url}#{id}\ud800"),
        ("origins", ["blog.example"]),
        ("origins", ["https://blog.example/"]),
        ("origins", ["https://blog.example/path"]),
        ("origins", ["ftp://blog.example"]),
        ("origins", ["https://"]),
        ("origins", ["*"]),
        ("origins", ["http://a\0b"]),
        ("origins", ["https://a.example"] * 101),
        ("token_issuer", ""),
        ("token_issuer", "a\0b"),
        ("token_issuer", "a\udc00b"),
        ("token_audience", "a\x85b"),
        ("token_audience", "x" * 256),
        ("slow_mode_seconds", 0),
    ],
)
def test_a_value_out_of_shape_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        DEFAULTS.changed({name: value})
    assert raised.value.errors()[0]["loc"][0] == name


def test_a_change_leaves_all_else_and_the_settings_before_it() -> None:
    before = SiteSettings(report_threshold=3)
    after = before.changed({"origins": ["https://blog.example"], "edit_window_seconds": None})
    assert after == SiteSettings(
        report_threshold=3, origins=["https://blog.example"], edit_window_seconds=None
    )
    assert before == SiteSettings(report_threshold=3)


@pytest.mark.parametrize("address", ["{url}#{id}", "https://blog.example/c/{id}", "http://blog.example/{id}"])
def test_a_comments_address_begins_with_its_threads_or_is_a_web_address(address: str) -> None:
    assert DEFAULTS.changed({"comment_url": address}).comment_url == address


def test_only_what_a_change_has_named_is_stored() -> None:
    settings = DEFAULTS.changed({"report_threshold": 3}).changed({"edit_window_seconds": None})
    assert settings.given() == {"report_threshold": 3, "edit_window_seconds": None}
    assert DEFAULTS.given() == {}


def test_stored_settings_come_back_without_what_a_newer_release_has_added() -> None:
    stored = SiteSettings.stored(
        '{"slow_mode_seconds": 5, "report_threshold": 3, "edit_window_seconds": null}'
    )
    assert stored == SiteSettings(report_threshold=3, edit_window_seconds=None)
    assert stored.given() == {"report_threshold": 3, "edit_window_seconds": None}
    assert SiteSettings.stored(None) == DEFAULTS


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://blog.example/t?a=b#c", True),
        ("https://blog.example", True),
        ("https://news.example:8443/t", True),
        ("http://blog.example/t", False),
        ("https://news.example/t", False),
        ("https://blog.example.evil.example/t", False),
        ("https://blog.example@evil.example/t", False),
        ("https://evil.example/https://blog.example", False),
        ("//blog.example/t", False),
        ("javascript:alert(1)", False),
    ],
)
def test_an_address_counts_on_the_sites_origins_only(url: str, taken: bool) -> None:
    settings = SiteSettings(origins=["https://blog.example", "https://news.example:8443"])
    assert settings.takes_url(url) is taken


def test_any_address_counts_where_no_origin_is_set() -> None:
    assert DEFAULTS.takes_url("https://anything.example/")


def test_the_fold_keeps_what_each_change_names() -> None:
    site = SiteState(STREAM)
    evolve_site(site, changed({"changes": {"report_threshold": 3}, "opens": {"site": "blog"}}))
    evolve_site(site, changed({"changes": {"edit_window_seconds": None}}, version=2))
    evolve_site(site, changed({"changes": {"report_threshold": 4}}, version=3))
    assert (site.site, site.version, site.last_hash) == ("blog", 3, (3).to_bytes(32, "big"))
    assert site.settings == SiteSettings(report_threshold=4, edit_window_seconds=None)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (changed({"changes": {"shouting": True, "report_threshold": 3}}), UnknownEventType),
        (changed({}), PoisonEvent),
        (changed({"changes": []}), PoisonEvent),
        (changed([]), PoisonEvent),
        (changed({"changes": {}}, version=2), PoisonEvent),
        (changed({"text_mac": ""}, type="CommentPosted"), PoisonEvent),
        (changed({}, type="SiteSung"), UnknownEventType),
        (changed({"changes": {}}, schema_version=2), UnknownEventType),
    ],
    ids=[
        "unknown setting",
        "no changes",
        "a list",
        "no object",
        "gap",
        "a thread's",
        "type",
        "version",
    ],
)
def test_what_cannot_be_applied_is_poison_and_changes_nothing(
    event: Recorded, error: type[PoisonEvent]
) -> None:
    site = SiteState(STREAM)
    with pytest.raises(PoisonEvent) as raised:
        evolve_site(site, event)
    assert type(raised.value) is error
    assert (site.version, site.last_hash, site.settings) == (0, GENESIS, DEFAULTS)


def test_a_setting_that_was_allowed_once_stays_though_the_rules_are_stricter_now() -> None:
    site = SiteState(site_stream_id("blog"))
    evolve_site(site, changed({"changes": {"comment_url": "javascript:{id}"}}))
    assert site.settings.comment_url == "javascript:{id}"
    assert SiteSettings.stored('{"comment_url": "javascript:{id}"}') == site.settings
