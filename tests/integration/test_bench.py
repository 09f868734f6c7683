"""The benchmarks in a tiny form: that they run to their end and report what they promise. No timings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from services.ops.bench import prose
from services.ops.bench.fill import sizes
from services.ops.bench.load import quantile, split

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> dict[str, Any]:
    """The report of one run of the command line."""
    # The benchmark names its own servers: it must not need any of the environment's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THREADLOG_")}
    done = subprocess.run(
        [sys.executable, "-m", "services.ops.cli", "bench", *arguments, "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_bench_append_reports_the_rate_beside_the_limit(embedded_servers: None) -> None:
    report = bench(
        *("append", "--connections", "4,8", "--threads", "5", "--seconds", "0.5", "--rounds", "1"),
        *("--visible", "2", "--authors", "10"),
    )

    assert report["postgres"]["fsync"] == report["postgres"]["synchronous_commit"] == "on"
    assert [load["connections"] for load in report["loads"]] == [4, 8]
    for load in report["loads"]:
        for server in ("api", "bare"):
            figures = load[server]
            assert figures["posts_per_second"] > 0
            assert 0 < figures["p50"] <= figures["p99"]
            assert set(figures["statuses"]) == {"201"}
            assert figures["broken_connections"] == 0
            assert set(figures["cpu_seconds_per_1000"]) == {"server", "postgres", "client"}
        assert load["ratio"] > 0
        assert load["api"]["batch_commands"] >= 1
    assert report["visible"]["idle"]["posts"] == 2
    assert report["visible"]["loaded"]["posts_per_second"] > 0


def test_bench_replay_reports_every_way_beside_the_limit(embedded_servers: None) -> None:
    report = bench("replay", "--events", "300", "--large", "100", "--rounds", "1")

    assert report["log"]["events"] == 300
    rates = {one["name"]: one for one in report["measured"]}
    limit = rates["bare cursor"]
    assert limit["ratio"] == 1
    assert limit["events"] == 300
    assert rates["rebuild of the largest thread"]["events"] == 100
    assert all(one["events"] == 300 for name, one in rates.items() if name != "rebuild of the largest thread")
    assert all(one["events_per_second"] > 0 for one in rates.values())
    assert report["peak_rss"] >= limit["peak_rss"] > 0


def test_a_load_of_no_connections_is_wrong_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.ops.cli", "bench", "append", "--connections", "many"],
        cwd=ROOT,
        capture_output=True,
    )

    assert done.returncode == 2
    assert b"--connections" in done.stderr


def test_threads_are_planned_to_hold_exactly_the_events_asked_for() -> None:
    assert sum(sizes(50_000, 10_000)) == 50_000
    assert sizes(50_000, 10_000)[0] == 10_000
    assert sizes(7, 10_000) == [7]


def test_the_same_seed_gives_the_same_comments() -> None:
    from random import Random

    assert [prose.body(Random(3)) for _ in range(5)] == [prose.body(Random(3)) for _ in range(5)]
    assert all(len(prose.body(Random(seed))) <= 10_000 for seed in range(200))


def test_an_answer_is_taken_only_when_it_is_whole() -> None:
    whole = b"HTTP/1.1 201 Created\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"

    assert all(split(whole[:end]) is None for end in range(len(whole)))
    answer = split(whole)
    assert answer is not None
    assert (answer[0], answer[2]) == ("201", b"hello")


def test_quantiles_of_nothing_are_zero() -> None:
    assert quantile([], 0.99) == 0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 3
