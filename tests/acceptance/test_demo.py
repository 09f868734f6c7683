"""`threadlog demo`, as a newcomer starts it: its job, its data folder, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.dev import story

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(embedded_servers: None, tmp_path: Path) -> Iterator[Start]:
    """Starts a demo whose temporary folders lie below the test's; ended afterwards, with all it started."""
    started: list[subprocess.Popen[str]] = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THREADLOG_")}
    environment["TMPDIR"] = str(tmp_path)

    def run(*arguments: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "services.ops.cli", "demo", *arguments],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        assert process.stdout is not None
        process.stdout.close()


def read_until(process: subprocess.Popen[str], mark: str) -> str:
    """What the demo prints up to a line with `mark`; fails where it ends before."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if mark in line:
            return printed
    raise AssertionError(f"no {mark!r} in:\n{printed}")


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The demo and every process that it started."""
    top = psutil.Process(process.pid)
    return [top, *top.children(recursive=True)]


def left_of(processes: list[psutil.Process]) -> list[str]:
    """Those that still run after the deadline."""
    _, alive = psutil.wait_procs(processes, timeout=DEADLINE_S)
    return [" ".join(one.cmdline()) for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_the_demo_does_its_job_and_holds_every_step(start: Start) -> None:
    process = start("--exit")
    printed, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, printed
    assert "FAILED" not in printed
    for line in (
        "the view before and after the replay: identical",
        "the view before and after Redis was emptied: identical",
        f"threadlog verify --thread {story.KEY} --chain: identical: 1 thread; every hash chain holds",
        "Tom is told of an answer:",
        f"the page has all {len(story.STORY)} comments, 6 levels deep",
    ):
        assert line in printed
    tree = [line for line in printed.splitlines() if line.lstrip().startswith("•")]
    assert len(tree) == len(story.STORY)
    assert any(line.startswith("          • ") for line in tree)
    for state in ("hidden", "removed", "deleted"):
        assert sum(line.strip() == f"• [{state}]" for line in tree) == 1
    assert re.search(r"every step held \((\d+) of \1\)", printed)


def test_ctrl_c_stops_the_demo_and_all_that_it_started(start: Start) -> None:
    process = start()
    printed = read_until(process, "/comments")
    address = re.search(r"http://127\.0\.0\.1:\d+/v1\S+/comments", printed)
    assert address is not None
    with urllib.request.urlopen(address[0], timeout=30) as answer:
        assert answer.status == 200
    running = family(process)
    assert len(running) >= 7  # the demo, two supervisors, two servers, the API, the workers

    process.send_signal(signal.SIGINT)

    assert process.wait(DEADLINE_S) == 0
    assert left_of(running) == []


def test_sigterm_stops_the_demo_and_its_data_is_there_for_the_next_one(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    process = start("--data-dir", str(data))
    read_until(process, "it serves until Ctrl-C")
    running = family(process)

    process.send_signal(signal.SIGTERM)

    assert process.wait(DEADLINE_S) == 0
    assert left_of(running) == []
    again = start("--exit", "--data-dir", str(data))
    printed, _ = again.communicate(timeout=DEADLINE_S)
    assert again.returncode == 0, printed
    assert "village, was here" in printed
    assert f"{story.KEY}-2" in printed


def test_a_signal_in_the_middle_of_the_job_leaves_nothing_behind(start: Start) -> None:
    process = start()
    read_until(process, "API answers")
    running = family(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) != 0
    assert left_of(running) == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl(2)")
def test_a_demo_that_is_killed_leaves_nothing_behind(start: Start) -> None:
    process = start()
    read_until(process, "it serves until Ctrl-C")
    running = family(process)
    process.kill()
    process.wait(DEADLINE_S)
    assert left_of(running) == []
