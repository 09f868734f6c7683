"""The tests' site, whose authors may write as fast as a test does."""

from __future__ import annotations

from services.core.addresses import site_stream_id
from services.core.commands import Actor, ChangeSettings
from services.eventlog.appenders import Appenders
from tests.writer import new_id

Value = str | int | float | bool | list[str] | None

UNLIMITED: dict[str, Value] = {
    "author_writes_per_minute": None,
    "address_writes_per_minute": None,
    "site_writes_per_second": None,
}


async def set_site(appenders: Appenders, site: str, changes: dict[str, Value]) -> None:
    """Change a site's settings in the log, past the API."""
    await appenders.submit(
        ChangeSettings(
            site=site,
            stream_id=site_stream_id(site),
            event_id=new_id(),
            actor=Actor("operator", moderator=True),
            changes=changes,
        )
    )
