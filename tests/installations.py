"""Two installations, with databases, views and master keys of their own: what moves from one to the other."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import asyncpg
from typer.testing import CliRunner, Result

from services.ops.cli import app
from services.ops.exits import Exit
from services.settings import Settings
from services.wiring import Resources, resources
from tests.talk import Talk, talking
from tests.writer import SITE

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Installation:
    """One threadlog: its servers and its master key."""

    database_url: str
    redis_url: str
    broker_url: str
    master_key: str

    @property
    def settings(self) -> Settings:
        return Settings.load(**self._given())

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are started with."""
        return {f"THREADLOG_{name.upper()}": value for name, value in self._given().items()}

    def _given(self) -> dict[str, str]:
        return {
            "database_url": self.database_url,
            "redis_url": self.redis_url,
            "broker_url": self.broker_url,
            "master_key": self.master_key,
        }

    def run(self, *arguments: object, code: Exit = Exit.DONE, **environment: str) -> Result:
        """Run a verb, which must end with this exit code."""
        result = CliRunner().invoke(app, list(map(str, arguments)), env=self.environment | environment)
        assert result.exit_code == code, (arguments, result.exit_code, result.output)
        return result

    def do(self, work: Callable[[Resources], Awaitable[T]]) -> T:
        """Do something with its parts."""

        async def done() -> T:
            async with resources(self.settings) as parts:
                return await work(parts)

        return asyncio.run(done())

    def rows(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """What its database answers."""

        async def ask() -> list[tuple[Any, ...]]:
            connection = await asyncpg.connect(self.database_url)
            try:
                return [tuple(row) for row in await connection.fetch(statement, *arguments)]
            finally:
                await connection.close()

        return asyncio.run(ask())

    def talk(self, key: str, happenings: int, seed: int = 1) -> Talk:
        """Let `happenings` things happen in a thread."""

        async def talk(parts: Resources) -> Talk:
            chance = Random(seed)
            async with talking(parts, key) as thread:
                for _ in range(happenings):
                    await thread.anything(chance)
                return thread

        return self.do(talk)

    def events(self) -> list[tuple[Any, ...]]:
        """The log, positions aside."""
        return self.rows("""
            select stream_id, version, event_id, type, schema_version, actor_id, correlation_id, causation_id,
                recorded_at, data, sealed, key_id, hash
            from events order by stream_id, version
            """)


def key(seed: int) -> str:
    """A master key."""
    return b64encode(bytes([seed]) * 32).decode()


__all__ = ["SITE", "Installation", "key"]
