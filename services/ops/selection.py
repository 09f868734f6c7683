"""Which threads a command is about: one, those of a site, or all."""

from __future__ import annotations

from collections.abc import AsyncIterator

from services.core.addresses import check_site, check_thread_key, thread_stream_id
from services.errors import SiteNotFound
from services.eventlog.log import NIL, EventLog, ThreadName
from services.ops.exits import UsageRefused
from services.wiring import Resources

_PAGE = 1000


async def thread_named(resources: Resources, site: str, key: str) -> ThreadName:
    """The thread that the client calls `key`.

    Raises SiteNotFound, BadAddress, UsageRefused where nothing was ever written to it.
    """
    if await resources.sites.get(check_site(site)) is None:
        raise SiteNotFound(site)
    stream_id = thread_stream_id(site, check_thread_key(key))
    head = await resources.log.head(stream_id)
    if head is None:
        raise UsageRefused(f"the thread {key!r} of {site} has no events")
    return ThreadName(stream_id, site, key, head[0])


def check_selection(site: str | None, thread: str | None, everything: bool) -> None:
    """Refuse what names no thread, or names it twice. Raises UsageRefused."""
    if thread is not None and site is None:
        raise UsageRefused("--thread needs --site")
    if everything and (site is not None or thread is not None):
        raise UsageRefused("--all stands alone: without it, --site names a site's threads")
    if not everything and site is None:
        raise UsageRefused("which threads? --site S --thread T, --site S, or --all")


async def walk(log: EventLog, site: str | None) -> AsyncIterator[ThreadName]:
    """Every thread, a page at a time."""
    after = NIL
    while names := await log.threads(site, after, _PAGE):
        for name in names:
            yield name
        after = names[-1].stream_id
