"""The commands of docs/moving.md, as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.dev.servers import EmbeddedRedis
from tests.databases import Databases
from tests.installations import SITE, Installation, key
from tests.writer import MASTER_KEY

DOCUMENT = Path(__file__).parents[2] / "docs" / "moving.md"


def sections() -> Iterator[list[tuple[str, list[str]]]]:
    """The commands of each section, and at which of the two installations each is run."""
    for section in DOCUMENT.read_text().split("\n## ")[1:]:
        found = re.findall(r"^(old|new)\$ threadlog (.*)$", section, re.MULTILINE)
        if found:
            yield [(where, shlex.split(line)) for where, line in found]


def test_the_commands_of_the_document_work_in_their_order(
    database_url: str,
    databases: Databases,
    emptied_redis: EmbeddedRedis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    old = Installation(database_url, emptied_redis.url(0), emptied_redis.url(1), MASTER_KEY)
    for number in range(2):
        old.talk(f"article-{number}", 150, seed=number)
    count = 0
    for number, commands in enumerate(sections()):
        url = databases.take(lanes=2)
        new = Installation(url, emptied_redis.url(2 + number), emptied_redis.url(9), key(7))
        if ["site", "add", SITE] not in [command for _, command in commands]:
            new.run("site", "add", SITE)
        for where, command in commands:
            (old if where == "old" else new).run(*command)
            count += 1
        databases.give_back(url, lanes=2)
    assert count >= 9
