"""Files to import, importing them, and what the log and a reader then see."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from schema.events.envelope import Recorded
from services.core.addresses import thread_stream_id
from services.core.page import PageRequest
from services.core.pagejson import page_json
from services.eventlog.appenders import Appenders
from services.ops.importers.jsonl import read_jsonl
from services.ops.importers.records import Report
from services.ops.importers.run import author_hmac, run_import
from services.ops.importers.wxr import ThreadKey, read_wxr
from services.settings import Settings
from services.wiring import Resources, resources

ROOT = Path(__file__).resolve().parents[1]
LINK = "https://site.example/2024/05/on-bees/"
KEY = "2024/05/on-bees"
MASTER_KEY = base64.b64encode(bytes(range(32))).decode()


def settings_for(database_url: str, redis_url: str, broker_url: str) -> Settings:
    """The settings of a process on these servers."""
    return Settings.load(
        database_url=database_url, redis_url=redis_url, broker_url=broker_url, master_key=MASTER_KEY
    )


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Resources]:
    """What an import stands on, with the sites `a` and `b`."""
    async with resources(settings) as found:
        await found.sites.add("a", b"s" * 32)
        await found.sites.add("b", b"s" * 32)
        yield found


def line(number: int | str, parent: int | str | None = None, *, minute: int = 0, **fields: Any) -> bytes:
    values = {
        "id": str(number),
        "parent_id": None if parent is None else str(parent),
        "author": "Ann",
        "created_at": f"2024-05-01T{minute // 60:02}:{minute % 60:02}:00Z",
        "body": f"This is *{number}*.",
    } | fields
    return json.dumps(values).encode() + b"\n"


def chain(count: int) -> bytes:
    """A thread of `count` comments, each third one a root, the others replies to the one before, a minute
    apart."""
    return b"".join(line(n, n - 1 if n % 3 else None, minute=n % 1440) for n in range(count))


def item(*comments: str, link: str = LINK, title: str = "On bees") -> str:
    return (
        f"<item><title>{title}</title><link>{link}</link><wp:post_id>7</wp:post_id>{''.join(comments)}</item>"
    )


def wp_comment(number: int, parent: int = 0, body: str = "Hello.", **fields: str) -> str:
    given = {
        "id": str(number),
        "author": "Ann",
        "author_email": "Ann@Site.Example",
        "date_gmt": "2024-05-01 10:00:00",
        "approved": "1",
        "type": "comment",
        "parent": str(parent),
        "user_id": "0",
        "content": body,
    } | fields
    inner = "".join(
        f"<wp:comment_{name}>{escape(value)}</wp:comment_{name}>" for name, value in given.items()
    )
    return f"<wp:comment>{inner}</wp:comment>"


def export(*items: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0"'
        ' xmlns:wp="http://wordpress.org/export/1.2/"><channel><wp:wxr_version>1.2</wp:wxr_version>'
        f"{''.join(items)}</channel></rss>"
    ).encode()


async def import_jsonl(found: Resources, data: bytes, site: str = "a", key: str = KEY) -> Report:
    author_id = author_hmac(found.master, site)
    return await run_import(
        found, read_jsonl(BytesIO(data), thread_key=key, author_id=author_id), site, lambda _: None
    )


async def import_wxr(found: Resources, data: bytes, site: str = "a", key: ThreadKey = "path") -> Report:
    author_id = author_hmac(found.master, site)
    return await run_import(found, read_wxr(BytesIO(data), key=key, author_id=author_id), site)


@asynccontextmanager
async def writing(found: Resources) -> AsyncIterator[Appenders]:
    """The appenders of a process that serves beside the import."""
    appenders = Appenders(found.settings.database_url, found.lanes)
    await appenders.start()
    try:
        yield appenders
    finally:
        await appenders.stop()


@dataclass(frozen=True)
class Seen:
    """A comment as a reader of the API gets it, by its source id; `path` are the places of its ancestors."""

    depth: int
    author: str | None
    created_at: str
    text: str | None
    state: str


def plain(html: str) -> str:
    """The words alone: an asterisk is emphasis in Markdown, and a character in WordPress."""
    return " ".join(re.sub(r"<[^>]*>|\*", "", html).split())


async def page(found: Resources, site: str = "a", key: str = KEY) -> dict[str, Any]:
    request = PageRequest(limit=500, replies=100, depth=10)
    answer = await found.reader.page(thread_stream_id(site, key), request)
    assert answer.head is not None
    text = page_json(answer.selection, answer.head, cursor=lambda *_: "", comment_url="{url}#{id}")
    decoded: dict[str, Any] = json.loads(text)
    return decoded


def walk(comments: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A page from top to bottom, as it is read."""
    for one in comments:
        yield one
        yield from walk(one["replies"]["items"])


async def seen(found: Resources, site: str = "a", key: str = KEY) -> list[Seen]:
    return [
        Seen(
            one["depth"],
            one["author"] and one["author"]["name"],
            one["created_at"],
            one["html"] and plain(one["html"]),
            one["state"],
        )
        for one in walk((await page(found, site, key))["comments"])
    ]


async def events(found: Resources, site: str = "a", key: str = KEY) -> list[Recorded]:
    return await found.log.events_after(thread_stream_id(site, key), 0, 100_000)


async def everything(found: Resources) -> tuple[int, int, int]:
    """How much the log holds: events, streams that have any, and the sum of the lanes' heads."""
    counts = await found.pool.fetchrow(
        "select (select count(*) from events), (select count(*) from streams where version > 0),"
        " (select sum(head) from lanes)::bigint"
    )
    assert counts is not None
    return counts[0], counts[1], counts[2]


def counted(report: Report) -> tuple[int, int, int, int]:
    return report.added, report.placeholders, report.existing, report.skipped.total


def environment(found: Resources) -> dict[str, str]:
    return os.environ | {
        "THREADLOG_DATABASE_URL": found.settings.database_url,
        "THREADLOG_REDIS_URL": found.settings.redis_url,
        "THREADLOG_BROKER_URL": found.settings.broker,
        "THREADLOG_MASTER_KEY": MASTER_KEY,
    }
