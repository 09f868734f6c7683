"""The drill of docs/drill.md: a wrong projection, found, shown and repaired while people post and read."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.processes import ROOT, Threadlog, threadlog, until

PAGE: Final = ROOT / "docs" / "drill.md"
ANSWERED: Final = ["article-1", "article-2", "article-3"]
"""Threads in which somebody replies."""
QUIET: Final = ["article-4", "article-5"]

BUG: Final = """
from services.readmodel.layout import Layout
from services.readmodel.records import Changes

def twice(descendants):
    return {posted: 2 * count for posted, count in descendants.items()}

changes = Changes.of.__func__

def counted_twice(cls, comments, nodes, descendants, **more):
    return changes(cls, comments, nodes, twice(descendants), **more)

Changes.of = classmethod(counted_twice)

class Index:
    def __init__(self, index):
        self.index, self.descendants = index, twice(index.descendants)

    def __getattr__(self, name):
        return getattr(self.index, name)

laid_out = Layout.__init__
Layout.__init__ = lambda self, index, *more: laid_out(self, Index(index), *more)

from services.ops.cli import main

main()
"""
"""A worker that counts every reply twice."""


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as opened:
        yield opened


@dataclass(slots=True)
class Somebody:
    """Posts to the threads and reads them, one request after the other, until told to stop. None may fail."""

    running: Threadlog
    versions: dict[str, int] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    rounds: int = 0
    stopped: bool = False

    async def run(self) -> None:
        while not self.stopped:
            thread = [*ANSWERED, *QUIET][self.rounds % 5]
            to = self.roots[thread] if thread in ANSWERED else None
            posted = await self.running.client.post(thread, f"meanwhile {self.rounds}", sub="eve", to=to)
            page = await self.running.page(thread, f"min_version={posted.version}")
            assert (page.status, page.stale) == (200, False)
            assert page.version >= posted.version
            self.versions[thread] = posted.version
            self.rounds += 1

    async def goes_on(self, more: int = 10) -> None:
        """Wait until so many more rounds were answered."""
        goal = self.rounds + more

        async def counted() -> int:
            return self.rounds

        await until(counted, "posting and reading go on", lambda count: count >= goal)


async def fill(running: Threadlog) -> Somebody:
    """Fill the threads; whoever goes on posting to them afterwards."""
    somebody = Somebody(running)
    for thread in [*ANSWERED, *QUIET]:
        root = await running.client.post(thread, "What do you think?", sub="ann", title="An article")
        somebody.roots[thread] = root.json["id"]
        for number in range(3):
            to = somebody.roots[thread] if thread in ANSWERED else None
            answer = await running.client.post(thread, f"comment {number}", sub="bob", to=to)
            somebody.versions[thread] = answer.version
    return somebody


async def projected(running: Threadlog, versions: dict[str, int]) -> None:
    """Wait until the workers have brought every view up to these versions. Nobody reads a page meanwhile: it
    would be made by the API."""
    for thread, version in versions.items():
        await until(
            lambda thread=thread: running.parts.views.head(running.stream_of(thread)),  # type: ignore[misc]
            f"the view of {thread} is at {version}",
            lambda head, version=version: head is not None and head.version >= version,  # type: ignore[misc]
        )


async def counts(running: Threadlog) -> dict[str, int]:
    """How many comments each thread's first one shows below it."""
    pages = {thread: await running.page(thread) for thread in [*ANSWERED, *QUIET]}
    return {thread: page.json["comments"][0]["descendants"] for thread, page in pages.items()}


async def test_a_wrong_reply_count_is_found_shown_and_repaired_while_people_post_and_read(
    running: Threadlog,
) -> None:
    # Given a release whose projector counts every reply twice, and threads that it has filled.
    await running.api()
    buggy = running.start(
        "worker", command=[sys.executable, "-c", BUG, "worker"], worker_processes=1, worker_threads=4
    )
    somebody = await fill(running)
    await projected(running, somebody.versions)
    assert await counts(running) == {**dict.fromkeys(ANSWERED, 6), **dict.fromkeys(QUIET, 0)}

    # When the fix is deployed, what the bug has left stays.
    assert await buggy.stop() == 0
    worker = running.worker()
    commands = commands_of(PAGE)
    outputs: list[str] = []

    # Then verify finds exactly the threads that differ, and by what.
    found = await asked(running, "verify --json", 1)
    assert {one["thread"] for one in found["differences"]} == set(ANSWERED)
    assert found["differing"] == 3
    by_kind = {(one["kind"], one["path"].rpartition(": ")[2]) for one in found["differences"]}
    assert ("view descendants", "descendants") in by_kind
    assert {kind for kind, _ in by_kind} <= {"view descendants", "view replies"}
    outputs.append(await told(running, commands[0], 1))

    # A dry run shows the changes, and makes none.
    shown = await asked(running, f"{commands[1]} --json".removeprefix("threadlog "), 1)
    changes = {(one["thread"], one["kind"], one["path"]) for one in shown["changes"]}
    assert changes == {(one["thread"], one["kind"], one["path"]) for one in found["differences"]}
    outputs.append(await told(running, commands[1], 1))
    assert await asked(running, "verify --json", 1) == found

    # The replay repairs them while somebody posts and reads without an error.
    going_on = asyncio.create_task(somebody.run())
    await somebody.goes_on()
    outputs.append(await told(running, commands[2], 0))
    await somebody.goes_on()
    somebody.stopped = True
    await going_on

    # And nothing differs any more.
    outputs.append(await told(running, commands[3], 0))
    assert outputs[-1].startswith("identical: 5 threads")
    for thread, version in somebody.versions.items():
        page = await running.shows(thread, version)
        top = page.json["comments"][0]
        assert top["descendants"] == (version - 2 if thread in ANSWERED else 0), thread
    assert (await asked(running, "verify --chain --json", 0))["identical"] is True
    assert await worker.stop() == 0
    assert "Traceback" not in worker.said, worker.said

    # What the page shows is what the commands say, but for ids and numbers.
    for command, shown_there, said in zip(commands, printed_of(PAGE), outputs, strict=True):
        assert shapes(shown_there) <= shapes(said), (command, said)


async def asked(running: Threadlog, line: str, code: int) -> Any:
    """What a command prints as JSON."""
    ended, out, err = await running.run(*shlex.split(line))
    assert ended == code, (line, out, err)
    return json.loads(out)


async def told(running: Threadlog, line: str, code: int) -> str:
    """What a command of the page prints."""
    ended, out, err = await running.run(*shlex.split(line.removeprefix("threadlog ")))
    assert ended == code, (line, out, err)
    return out


def commands_of(page: Path) -> list[str]:
    """The commands that the page has its reader type."""
    return re.findall(r"^\$ (threadlog (?:verify|replay).*)$", page.read_text(), re.MULTILINE)


def printed_of(page: Path) -> list[str]:
    """What the page shows of their output."""
    blocks = re.findall(r"^\$ threadlog (?:verify|replay).*\n((?:.*\n)*?)```", page.read_text(), re.MULTILINE)
    return [str(block) for block in blocks]


def shapes(text: str) -> set[str]:
    """The lines of an output without what differs from one run to the next."""
    lines = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text).splitlines()
    return {re.sub(r"\s+", " ", re.sub(r"[\d.,]*\d", "N", line)).strip() for line in lines} - {""}
