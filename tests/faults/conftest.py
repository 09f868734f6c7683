"""What several fault tests are given."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from services.eventlog.keys import Keyring, MasterKey
from tests.factories import Place, Writer


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=3) as pool:
        yield pool


@pytest.fixture
def writers(pool: asyncpg.Pool[Any]) -> list[Writer]:
    keyring = Keyring(pool, MasterKey(b64encode(os.urandom(32)).decode()))
    return [Writer(keyring, Place("blog", f"article-{number}")) for number in range(3)]
