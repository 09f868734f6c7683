"""An import: the comments of a file become events, through the appender that the API uses.

The file is read and checked whole before anything is written. Then each thread's comments go out in the
order of the plan, many at a time. A reply may be on its way together with its parent: the commands of one
stream are decided in the order in which they were submitted, so the parent is in the state by then.

Event ids follow from the file, and a comment that the log has already adds nothing. So an import that was
cut short is finished by running it again, whatever became of the thread meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal, TypeAlias, TypeVar
from uuid import UUID

from services.core.addresses import thread_stream_id
from services.core.commands import Actor, Description, Import, PostComment
from services.core.site import SiteSettings
from services.errors import KeyDestroyed, ParentNotFound, Refusal, SiteNotFound, WriteFailed
from services.eventlog.appenders import Appenders
from services.eventlog.batch import Appended
from services.eventlog.keys import AuthorKey, MasterKey
from services.eventlog.rotation import OF_SITE
from services.ops.importers.plan import Placeholder, Planned, Spool
from services.ops.importers.records import (
    AuthorId,
    ImportedComment,
    ImportedThread,
    Noted,
    Record,
    Report,
    Skipped,
)
from services.pokes import Poker
from services.wiring import Resources

WINDOW: Final = 400
"""Commands under way at once: while one batch commits, the next one gathers."""

CHUNK: Final = 200
"""Records read, and comments sealed, at a time."""

AUTHOR_HEX: Final = 32
"""Length of an author's id that is an HMAC, in hexadecimal digits."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Step:
    """How far an import is: `done` comments of `total`; nobody knows the total while the file is read."""

    phase: Literal["reading", "writing"]
    done: int
    total: int | None


Progress: TypeAlias = Callable[[Step], None]


def author_hmac(master: MasterKey, site: str) -> AuthorId:
    """How the authors of `site` who have no account are told apart: HMAC-SHA256 of address and name.

    Its key follows from the master key, so nobody without that finds an address by trying; nor can the
    authors of two sites be matched.
    """
    key = master.derived(OF_SITE.format(site=site))

    def author_id(address: str, name: str) -> str:
        message = f"{address}\0{name}".encode("utf-8", "surrogatepass")
        return hmac.new(key, message, hashlib.sha256).hexdigest()[:AUTHOR_HEX]

    return author_id


async def run_import(
    resources: Resources,
    records: Iterable[Record],
    site: str,
    progress: Progress = lambda _: None,
    report: Report | None = None,
) -> Report:
    """Write what `records` hold into the threads of `site`, and tell what became of each comment.

    `report`, where given, is the one that is filled: it holds what was done when an error ends the import.
    Raises SiteNotFound; ImportRefused where the file is damaged, before anything is written; Unavailable
    where Postgres went away, after which the same import goes on where it stopped. Nobody is notified.
    """
    found = await resources.sites.get(site)
    if found is None:
        raise SiteNotFound(site)
    report = Report() if report is None else report
    unread = iter(records)
    # The one thread beside the event loop: arranging a long thread takes seconds, in which an open
    # transaction of the appender's would run into its time-outs.
    with Spool(site=site) as spool, ThreadPoolExecutor(1, "import") as beside:
        loop = asyncio.get_running_loop()
        while chunk := await _some(beside, unread):
            await loop.run_in_executor(beside, spool.load, chunk, report)
            progress(Step("reading", report.comments, None))
        await loop.run_in_executor(beside, spool.check)
        async with _appenders(resources) as appenders:
            writer = _Writer(resources, appenders, site, report, progress)
            try:
                for thread in spool.threads():
                    steps = spool.plan(thread.key)
                    describe = _description(thread, found.settings, report)
                    while planned := await _some(beside, steps):
                        await writer.write(thread.key, describe, planned)
                await writer.finish()
            finally:
                await writer.abandon()
    return report


async def _some(beside: ThreadPoolExecutor, items: Iterator[_T]) -> list[_T]:
    return await asyncio.get_running_loop().run_in_executor(beside, lambda: list(islice(items, CHUNK)))


@asynccontextmanager
async def _appenders(resources: Resources) -> AsyncIterator[Appenders]:
    settings = resources.settings
    poker = Poker(settings.broker)
    poker.start()
    try:
        appenders = Appenders(
            settings.database_url,
            resources.lanes,
            on_committed=lambda committed: poker.poke(committed.moved),
            max_batch=settings.max_batch,
            max_queue=WINDOW,
        )
        await appenders.start()
        try:
            yield appenders
        finally:
            await appenders.stop()
    finally:
        await asyncio.to_thread(poker.stop)


def _description(thread: ImportedThread, settings: SiteSettings, report: Report) -> Description | None:
    url = thread.url
    if url is not None and not settings.takes_url(url):
        report.note(Noted(f"thread {thread.key!r}", "link left out: it is not on one of the site's origins"))
        url = None
    return None if thread.title is None and url is None else Description(thread.title, url)


class _Writer:
    """Submits planned comments in their order, `WINDOW` of them at once, and counts the answers."""

    def __init__(
        self, resources: Resources, appenders: Appenders, site: str, report: Report, progress: Progress
    ) -> None:
        self._keyring = resources.keyring
        self._appenders = appenders
        self._site = site
        self._report = report
        self._progress = progress
        self._under_way: deque[tuple[Planned, asyncio.Task[Appended]]] = deque()
        self._done = 0

    async def write(
        self, thread_key: str, describe: Description | None, planned: Sequence[Planned | Skipped]
    ) -> None:
        """Submit the next comments of a thread; the first of a new thread describes it."""
        stream_id = thread_stream_id(self._site, thread_key)
        keys = await self._keys(planned)
        for one in planned:
            if isinstance(one, Skipped):
                self._report.skip(one)
                self._done += 1
                continue
            while len(self._under_way) >= WINDOW:
                await self._settle()
            command = self._command(one, stream_id, thread_key, describe, keys)
            # Tasks begin in the order in which they are made, so this is the order of submission.
            self._under_way.append((one, asyncio.create_task(self._appenders.submit(command))))
        self._tell()

    async def finish(self) -> None:
        """Wait until everything that was submitted is answered."""
        while self._under_way:
            await self._settle()
        self._tell()

    async def abandon(self) -> None:
        """Wait for nothing any more; what is in a batch may still be written."""
        tasks = [task for _, task in self._under_way]
        self._under_way.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tell(self) -> None:
        self._progress(Step("writing", self._done, self._report.comments))

    async def _keys(self, planned: Sequence[Planned | Skipped]) -> dict[str, AuthorKey]:
        authors = {
            one.comment.author_id
            for one in planned
            if isinstance(one, Planned) and isinstance(one.comment, ImportedComment)
        }
        keys = await asyncio.gather(*(self._keyring.for_author(self._site, author) for author in authors))
        return dict(zip(authors, keys, strict=True))

    def _command(
        self,
        one: Planned,
        stream_id: UUID,
        thread_key: str,
        describe: Description | None,
        keys: dict[str, AuthorKey],
    ) -> PostComment:
        comment = one.comment
        if isinstance(comment, Placeholder):
            actor, text = Actor(None), None
        else:
            actor = Actor(comment.author_id)
            text = keys[comment.author_id].sealed(
                one.event_id, stream_id, {"body": comment.body, "name": comment.author_name}
            )
        return PostComment(
            site=self._site,
            stream_id=stream_id,
            event_id=one.event_id,
            actor=actor,
            key=thread_key,
            text=text,
            parent_id=one.parent_id,
            describe=describe,
            imported=Import(
                comment.created_at, comment.source_id, tombstone=isinstance(comment, Placeholder)
            ),
        )

    async def _settle(self) -> None:
        """Wait for the oldest answer."""
        one, task = self._under_way.popleft()
        report, is_placeholder = self._report, isinstance(one.comment, Placeholder)
        try:
            appended = await task
        except (Refusal, KeyDestroyed, WriteFailed) as error:
            if isinstance(error, KeyDestroyed):
                self._keyring.forget(error.key_id)
            report.skip(Skipped(f"comment {one.comment.source_id}", _reason(error)))
        else:
            if not appended.events:
                report.existing += 1
            elif is_placeholder:
                report.placeholders += 1
            else:
                report.added += 1
        self._done += not is_placeholder


def _reason(error: Refusal | KeyDestroyed | WriteFailed) -> str:
    """Few fixed phrases: a report counts by them."""
    match error:
        case ParentNotFound():
            return "its parent was not taken"
        case KeyDestroyed():
            return "its author was erased during the import"
        case WriteFailed():
            return "the log refused it"
        case _:
            return str(error)
