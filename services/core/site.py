"""A site's settings: what may be set, and the fold of SiteSettingsChanged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from schema.events.envelope import GENESIS, Recorded
from schema.events.registry import UPCASTERS, PayloadInvalid, TypeUnknown
from services.errors import PoisonEvent, UnknownEventType

Language = Literal["en", "de"]
"""What people are told in: `services/language` has a file of phrases for each."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _is_plain(value: str) -> str:
    # jsonb takes no NUL, UTF-8 no lone surrogate; no setting has a use for any other control character.
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair") from None
    if _CONTROL.search(value):
        raise ValueError("holds a control character")
    return value


_Text = Annotated[str, AfterValidator(_is_plain)]
_Reason = Annotated[_Text, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,49}$")]
_Name = Annotated[_Text, StringConstraints(min_length=1, max_length=255)]


def _is_origin(value: str) -> str:
    if _origin_of(value) != value:
        raise ValueError("an origin is a scheme and a host in lower case, as in https://news.example")
    return value


def _origin_of(url: str) -> str | None:
    """The origin of an http or https URL (RFC 6454), the default port left out; None for any other."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (
        f":{port}" if port not in (None, _DEFAULT_PORTS[parts.scheme]) else ""
    )


def _leads_to_comment(value: str) -> str:
    if "{id}" not in value:
        raise ValueError("must contain {id}")
    if not value.startswith(("{url}", "https://", "http://")):
        raise ValueError("must begin with {url}, https:// or http://")
    return value


def _once_each(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise ValueError("names a value twice")
    return values


class SiteSettings(BaseModel):
    """The settings that have an effect, with their defaults (contract, section 10)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    edit_window_seconds: Annotated[int, Field(ge=0, le=10 * 365 * 86400)] | None = 900
    report_threshold: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    report_reasons: Annotated[
        list[_Reason], Field(min_length=1, max_length=50), AfterValidator(_once_each)
    ] = [
        "spam",
        "abuse",
        "off-topic",
        "personal-data",
        "other",
    ]
    guests: bool = False
    follow_on_post: bool = False
    public_history: bool = False
    open_threads: bool = True
    comment_url: Annotated[_Text, StringConstraints(max_length=2048), AfterValidator(_leads_to_comment)] = (
        "{url}#comment-{id}"
    )
    origins: Annotated[list[Annotated[_Text, AfterValidator(_is_origin)]], Field(max_length=100)] = []
    token_issuer: _Name | None = None
    token_audience: _Name | None = None
    author_writes_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = 30
    address_writes_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = 120
    site_writes_per_second: Annotated[int, Field(ge=1, le=100_000)] | None = None
    language: Language = "en"

    @classmethod
    def stored(cls, json: str | None) -> SiteSettings:
        """Settings as `given` had them, in JSON (None: nothing was ever set).

        What a newer release has set and this one does not know is left out: releases run side by side. The
        values are not judged again.
        """
        if json is None:
            return DEFAULTS
        kept = orjson.loads(json)
        return cls.model_construct(**{name: kept[name] for name in cls.model_fields if name in kept})

    def given(self) -> dict[str, Any]:
        """The settings that a change has named, to be stored. The others follow their defaults."""
        return self.model_dump(exclude_unset=True)

    @property
    def edit_window(self) -> timedelta | None:
        """How long an author may edit; None is without end."""
        seconds = self.edit_window_seconds
        return None if seconds is None else timedelta(seconds=seconds)

    def takes_url(self, url: str) -> bool:
        """Whether `url` lies on one of the site's origins (any, where none is set)."""
        if not self.origins:
            return True
        return _origin_of(url) in self.origins

    def changed(self, changes: Mapping[str, Any]) -> SiteSettings:
        """These settings with `changes`. Raises pydantic.ValidationError."""
        return SiteSettings.model_validate({**self.given(), **changes})


DEFAULTS: Final = SiteSettings()


@dataclass(slots=True)
class SiteState:
    """A site's stream folded."""

    stream_id: UUID
    site: str = ""
    version: int = 0
    last_hash: bytes = GENESIS
    settings: SiteSettings = DEFAULTS


def evolve_site(site: SiteState, event: Recorded) -> None:
    """Apply one event of the site's stream in place.

    Raises PoisonEvent where the event cannot follow this state, UnknownEventType where a newer release wrote
    it. The state is then as it was.
    """
    try:
        payload = UPCASTERS.payload(event.type, event.schema_version, event.data)
        if event.version != site.version + 1:
            raise ValueError(f"follows version {site.version}")
        if event.type not in ("SiteSettingsChanged", "AuthorErased"):
            raise ValueError(f"{event.type} is no event of a site")
        changes = {**payload["changes"]} if event.type == "SiteSettingsChanged" else {}
        if unknown := changes.keys() - SiteSettings.model_fields.keys():
            raise TypeUnknown(f"the settings {', '.join(sorted(unknown))}")
        # Not validated: what was allowed when it was recorded stays, whatever the rules are now.
        settings = site.settings.model_copy(update=changes)
        opens = payload.get("opens")
        name = site.site if opens is None else opens["site"]
    except TypeUnknown as error:
        raise UnknownEventType(event.stream_id, event.version, event.event_id, str(error)) from error
    except (PayloadInvalid, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise PoisonEvent(event.stream_id, event.version, event.event_id, reason) from error
    site.site, site.settings = name, settings
    site.version, site.last_hash = event.version, event.hash
