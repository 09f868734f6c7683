"""Every request in docs/notifications.md is answered as the page says it would be."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.api_client import Client, S, client_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "notifications.md"
REQUEST = re.compile(r"^(GET|PUT|PATCH|POST|DELETE) (/v1/sites/blog\S+)(?: (\{.*\}))?$", re.MULTILINE)


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url, unlimited=True) as running:
        yield running


async def test_the_requests_of_the_document_are_answered(client: Client) -> None:
    requests = REQUEST.findall(DOCUMENT.read_text("utf-8"))
    assert len(requests) >= 10
    for method, path, body in requests:
        answer = await client.send(
            method,
            path.replace("/v1/sites/blog", S),
            json.loads(body) if body else None,
            sub="ann",
            headers={"Accept": "application/json"},
        )
        assert answer.status in (200, 204), (method, path, answer.raw)
    wanted = (await client.get(f"{S}/me/preferences", sub="ann")).json
    assert (wanted["mail"], wanted["email_state"], wanted["blocked"]) == ("daily", "unconfirmed", ["u-troll"])
    assert wanted["quiet"]["zone"] == "Europe/Berlin"
