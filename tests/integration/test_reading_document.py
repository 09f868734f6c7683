"""Every request in docs/reading.md is answered as the page says it would be."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.api_client import Answer, Client, S, client_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "reading.md"
ARTICLE = f"{S}/threads/article-17"
WHO = {"/mine": ("ann", ()), "/me/": ("ann", ()), "as_of=": ("mod", ("moderator",))}


def requests() -> list[str]:
    """The paths of the document's requests, on the site of the tests."""
    found = re.findall(r"^GET (\S+)$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    return [path.replace("/v1/sites/blog", S) for path in found]


@pytest.fixture
async def client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    async with client_of(database_url, redis_url, broker_url) as running:
        yield running


async def ask(client: Client, path: str) -> Answer:
    sub, roles = next((who for part, who in WHO.items() if part in path), (None, ()))
    headers = {"Accept": "application/json"} if "/live" in path else {}
    return await client.get(path, sub=sub, roles=roles, headers=headers)


async def test_the_requests_of_the_document_are_answered(client: Client) -> None:
    root = await client.post("a root", at=ARTICLE)
    reply = await client.post("a reply", to=root["id"], at=ARTICLE)
    await client.post("another root", at=ARTICLE)
    newest = await client.get(f"{ARTICLE}/comments?limit=1&min_version=3")
    filled = {"{comment}": reply["id"], "{cursor}": newest.json["after"], "{version}": "3"}
    paths = requests()
    assert len(paths) > 15
    answers = {}
    for path in paths:
        named = path
        for name, value in filled.items():
            named = named.replace(name, value)
        answers[path] = await ask(client, named)
        assert answers[path].status == 200, (path, answers[path].raw)
        if path.startswith(f"{ARTICLE}/comments"):
            assert {"etag", "threadlog-version"} <= {name.lower() for name in answers[path].headers}
    behind = next(answers[path].json for path in paths if "after={cursor}" in path and "/live" not in path)
    assert [one["body"] for one in behind["comments"]] == ["another root"]
    [focused] = next(answers[path].json for path in paths if "focus=" in path)["comments"]
    assert [one["id"] for one in focused["replies"]["items"]] == [reply["id"]]
    counts = next(answers[path].json for path in paths if "/counts" in path)
    assert counts == {"article-17": 3, "article-18": 0}
