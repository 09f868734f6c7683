"""A process that tells of what happens in threads, until it is killed.

`python -m tests.faults.telling DATABASE_URL PAGE STREAM...` prints a line as it begins.
"""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

import asyncpg

from services.eventlog.keys import Keyring, MasterKey
from services.workers.notifier import Notifier
from tests.writer import MASTER_KEY


async def tell(url: str, page: int, stream_ids: list[UUID]) -> None:
    """Come by these threads again and again."""
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        notifier = Notifier(pool, Keyring(pool, MasterKey(MASTER_KEY)), page=page)
        sys.stdout.write("begins\n")
        sys.stdout.flush()
        while True:
            await notifier.notify_all(stream_ids)


if __name__ == "__main__":
    asyncio.run(tell(sys.argv[1], int(sys.argv[2]), [UUID(one) for one in sys.argv[3:]]))
