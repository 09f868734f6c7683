"""A destroyed key is overwritten where it lay, not only in what a query sees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from services.dev.servers import EmbeddedPostgres
from services.eventlog.appenders import Appenders
from services.eventlog.migrate import migrate
from services.readmodel.remains import Remains
from services.wiring import resources
from services.workers.eraser import Eraser
from tests.talk import settings_of, talking
from tests.writer import SITE


async def test_no_page_of_a_table_holds_a_destroyed_key(
    start_postgres: Callable[..., EmbeddedPostgres], redis_url: str, tmp_path: Path
) -> None:
    url = start_postgres(tmp_path / "postgres").dsn()
    await migrate(url)
    async with resources(settings_of(url, redis_url)) as parts, talking(parts) as talk:
        for author in ("ann", "bob"):
            await talk.post(author)

        async def wrapped(author: str) -> bytes:
            key = "select wrapped from author_keys where author_id = $1"
            return bytes(await parts.pool.fetchval(key, author))

        async def pages_with(secret: bytes) -> list[str]:
            await parts.pool.execute("checkpoint")
            # The write-ahead log keeps it for a while (docs/erasure.md); a page must not.
            files = [one for one in tmp_path.rglob("base/*/*") if one.is_file()]
            assert files
            return [one.name for one in files if secret in one.read_bytes()]

        @asynccontextmanager
        async def appending() -> AsyncIterator[Appenders]:
            yield talk.appenders

        anns, bobs = await wrapped("ann"), await wrapped("bob")
        assert await pages_with(anns), "it would be seen"
        await parts.erasures.request(SITE, "ann", requested_by=None)
        eraser = Eraser(parts.pool, parts.erasures, parts.projector, Remains(parts.redis), appending)
        await eraser.round()
        assert await pages_with(anns) == []
        assert await pages_with(bobs)
