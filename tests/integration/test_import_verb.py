"""`threadlog import` from the outside: its report, and its refusals."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.ops.commands.imports import app
from services.ops.exits import UsageRefused
from services.wiring import Resources
from tests.imports import (
    KEY,
    ROOT,
    environment,
    export,
    item,
    line,
    opened,
    seen,
    settings_for,
    wp_comment,
)


@pytest.fixture
async def found(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Resources]:
    """What an import stands on, with the sites `a` and `b`."""
    async with opened(settings_for(database_url, redis_url, broker_url)) as resources:
        yield resources


def invoke(found: Resources, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from services.ops.commands.imports import app; app()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment(found),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


async def test_the_verb_prints_its_report_as_json(found: Resources, tmp_path: Path) -> None:
    file = tmp_path / "export.xml"
    file.write_bytes(export(item(wp_comment(1), wp_comment(3, 2), wp_comment(4, approved="spam"))))

    done = invoke(found, "wxr", str(file), "--site", "a", "--key", "post_id", "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    del report["seconds"]
    assert report == {
        "site": "a",
        "threads": 1,
        "comments": 2,
        "added": 2,
        "existing": 0,
        "placeholders": 1,
        "skipped": {"spam": {"count": 1, "examples": ["comment 4"]}},
        "noted": {},
    }
    assert len(await seen(found, key="7")) == 3


async def test_the_verb_prints_a_table(found: Resources, tmp_path: Path) -> None:
    file = tmp_path / "thread.jsonl"
    file.write_bytes(line(1) + line(1))

    done = invoke(found, "jsonl", str(file), "--site", "a", "--thread", KEY)

    assert done.returncode == 0, done.stderr
    lines = [text.split() for text in done.stdout.splitlines()]
    assert ["added", "1"] in lines
    assert ["1", "another", "comment", "has", "the", "same", "id", "comment", "1"] in lines


async def test_the_verb_refuses_a_damaged_file(
    found: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(found).items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "export.xml"
    file.write_bytes(export(item(wp_comment(1)))[:-20])

    done = await asyncio.to_thread(CliRunner().invoke, app, ["wxr", str(file), "--site", "a"])

    assert isinstance(done.exception, UsageRefused)
    assert "nothing of it was written" in str(done.exception)


def test_the_verb_wants_a_file_and_a_good_key(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")

    assert CliRunner().invoke(app, ["wxr", str(tmp_path / "none"), "--site", "a"]).exit_code == 2
    assert CliRunner().invoke(app, ["wxr", str(tmp_path / "f"), "--site", "a", "--key", "x"]).exit_code == 2
