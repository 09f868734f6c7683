"""The benchmarks in a tiny form: that they run to their end and report what they promise. No timings."""

from __future__ import annotations

import asyncio
import json
import lzma
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from lxml import etree

from services.ops.bench import prose
from services.ops.bench.fill import sizes
from services.ops.bench.large import fill
from services.ops.bench.load import bucket_of, quantile, quantile_of, split
from services.ops.bench.matrix import cells
from services.ops.bench.profiling import part_of, profile_of
from services.ops.bench.reading.words import Words
from services.ops.bench.servers import SITE, Servers
from services.ops.bench.visible import Client

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(330)  # each starts a dozen processes, on a machine that has other work


def bench(*arguments: str) -> dict[str, Any]:
    """The report of one run of the command line."""
    # The benchmark names its own servers: it must not need any of the environment's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THREADLOG_")}
    done = subprocess.run(
        [sys.executable, "-m", "services.ops.cli", "bench", *arguments, "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    report: dict[str, Any] = json.loads(done.stdout)
    return report


SHORT = ("--seconds", "0.5", "--rounds", "1", "--threads", "5", "--authors", "10", "--visible", "2")


def check(figures: dict[str, Any]) -> None:
    """Figures of a server that took every post."""
    assert figures["posts_per_second"] > 0
    assert 0 < figures["p50"] <= figures["p99"]
    assert figures["p99_of_p50"] == pytest.approx(figures["p99"] / figures["p50"])
    assert set(figures["statuses"]) == {"201"}
    assert figures["broken_connections"] == 0
    assert set(figures["cpu_seconds_per_1000"]) == {"server", "postgres", "redis", "client"}
    assert figures["server_cpu_us_per_post"] > 0
    assert figures["clients"] >= 1


def test_bench_append_reports_the_rate_beside_a_bare_handler_and_an_insert(
    embedded_servers: None,
) -> None:
    report = bench("append", "--connections", "4,8", *SHORT)

    assert report["postgres"]["fsync"] == report["postgres"]["synchronous_commit"] == "on"
    assert [load["connections"] for load in report["loads"]] == [4, 8]
    for load in report["loads"]:
        for server in ("api", "bare", "insert"):
            check(load[server])
        rates = {server: load[server]["posts_per_second"] for server in ("api", "bare", "insert")}
        assert load["ratio"] == pytest.approx(rates["api"] / rates["bare"])
        assert load["ratio_to_insert"] == pytest.approx(rates["api"] / rates["insert"])
        assert load["api"]["batch_commands"] >= 1
        assert load["api"]["cpu_seconds_per_1000"]["redis"] > 0, "the rate limits are asked"
    for hot in report["hot"]:
        check(hot["spread"])
        check(hot["hot"])
    assert report["visible"]["idle"]["posts"] == 2
    assert report["visible"]["loaded"]["posts_per_second"] > 0
    goals = [goal["name"] for goal in report["goals"]]
    assert len(goals) == len(set(goals)) == 4 * 2 + 2 + 1


def test_bench_append_compares_a_large_log_with_an_empty_one(embedded_servers: None) -> None:
    report = bench("append", "--parts", "large", "--large", "2000", "--connections", "4", *SHORT)

    large = report["large"]
    assert (large["events"], large["authors"]) == (2000, 200)
    assert list(large["statistics"]) == ["missing", "fresh"]
    for found in large["statistics"].values():
        check(found["empty"])
        check(found["large"])
    assert [goal["goal"] for goal in report["goals"]] == [0.9, 0.9]


async def test_a_large_log_takes_replies_to_its_comments(embedded_servers: None) -> None:
    with Servers(threads=3, authors=2, seed=1) as servers, servers.part() as stack:
        url = await asyncio.to_thread(servers.database)
        filled = await fill(servers, url, 1000)
        api = await asyncio.to_thread(servers.api, stack, url, parents=filled.parents)
        connection = await asyncpg.connect(url)
        client = await Client.connect(api.port)
        try:
            parent = filled.parents[2][0]
            before = await connection.fetchrow("select * from comments where comment_id = $1", UUID(parent))
            path = f"/v1/sites/{SITE}/threads/{servers.threads[2]}/comments"
            answer = await client.ask("POST", path, servers.tokens[0], {"body": "x", "parent_id": parent})
            head = await connection.fetchval("select head from lanes")
            counts = await connection.fetchrow(
                "select (select count(*) from events where lane = 0 and version > 0 and stream_id in"
                " (select stream_id from streams where key is not null)) as events,"
                " (select count(*) from comments) as comments,"
                " (select count(*) from idempotency join streams s using (stream_id) where s.key is not null)"
                " as repeats,"
                " (select sum(version) from streams where key is not null) as versions,"
                " (select count(*) from pg_index where not indisvalid) as broken"
            )
        finally:
            await client.close()
            await connection.close()

    assert before is not None
    assert answer.status == "201"
    assert orjson.loads(answer.body)["parent_id"] == parent
    assert orjson.loads(answer.body)["depth"] == before["depth"] + 1
    assert answer.version == 334, "a thread of 333 events, one of every three"
    assert head > 1000
    assert counts is not None
    assert dict(counts) == {"events": 1001, "comments": 1001, "repeats": 1001, "versions": 1001, "broken": 0}


def test_bench_append_measures_lanes_and_processes(embedded_servers: None) -> None:
    report = bench("append", "--parts", "processes", "--connections", "4", *SHORT)

    assert [(one["lanes"], one["processes"]) for one in report["matrix"]] == [(1, 1), (1, 2), (2, 2)]
    for one in report["matrix"]:
        check(one)
        assert one["batch_commands"] >= 1


def test_bench_append_watches_memory_and_idle_connections(embedded_servers: None) -> None:
    report = bench(
        *("append", "--parts", "memory,idle", "--memory-seconds", "3", "--idle", "50"),
        *("--connections", "4", *SHORT),
    )

    memory = report["memory"]
    assert memory["posts"] > 0
    assert 0 < memory["first_third"] <= memory["peak"]
    assert memory["samples"] >= 3
    idle = report["idle"]
    check(idle["with"])
    check(idle["without"])
    assert (idle["idle"], idle["slow"]) == (50, 100)
    assert idle["bytes_per_idle_connection"] > 0


def test_a_part_that_does_not_exist_is_wrong_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.ops.cli", "bench", "append", "--parts", "load,loud"],
        cwd=ROOT,
        capture_output=True,
    )

    assert done.returncode == 2
    assert b"not loud" in done.stderr


READ = ("--seconds", "0.3", "--rounds", "1", "--connections", "4")


def check_reads(figures: dict[str, Any]) -> None:
    """Figures of a server that answered every read."""
    assert figures["reads_per_second"] > 0
    assert 0 < figures["p50"] <= figures["p99"]
    assert set(figures["statuses"]) <= {"200", "304"}
    assert figures["broken_connections"] == 0
    assert set(figures["cpu_us_per_read"]) == {"server", "postgres", "redis", "client"}


def goals_of(report: dict[str, Any]) -> set[str]:
    for goal in report["goals"]:
        holds = {"≥": goal["value"] >= goal["goal"], "≤": goal["value"] <= goal["goal"]}
        assert goal["held"] == holds.get(goal["sign"], goal["value"] < goal["goal"])
    return {goal["name"].partition(":")[0] for goal in report["goals"]}


def test_bench_read_reports_hot_pages_beside_a_bare_handler_of_the_same_bytes(
    embedded_servers: None,
) -> None:
    report = bench("read", "--parts", "hot", *READ)
    hot = report["hot"]
    assert set(hot["variants"]) == {"plain", "distinct", "compressed", "304"}
    for name, one in hot["variants"].items():
        for server in ("api", "bare"):
            check_reads(one[server])
            assert set(one[server]["statuses"]) == {"304" if name == "304" else "200"}
        rates = [one[server]["reads_per_second"] for server in ("api", "bare")]
        assert one["ratio"] == pytest.approx(rates[0] / rates[1])
    plain, bare = (hot["variants"]["plain"][server]["bytes_per_answer"] for server in ("api", "bare"))
    assert plain == pytest.approx(bare, rel=0.02)
    assert hot["variants"]["compressed"]["api"]["bytes_per_answer"] < plain / 2
    assert hot["posts"] >= 1
    assert hot["oldest"] >= 0
    assert "hot" in goals_of(report)


def test_bench_read_compares_sizes_and_places_and_draws_them(embedded_servers: None, tmp_path: Path) -> None:
    plot = tmp_path / "read.svg"
    sizes = ("--largest", "1200", "--large", "1200", "--comments", "3")
    report = bench("read", "--parts", "sizes,uncached,projector", *sizes, "--plot", str(plot), *READ)
    assert [one["comments"] for one in report["sizes"]["sizes"]] == [100, 1200]
    bytes_of = []
    for one in report["sizes"]["sizes"]:
        check_reads(one)
        assert one["uncached"] > 0
        bytes_of.append(one["bytes_per_answer"])
    assert bytes_of[0] == pytest.approx(bytes_of[1], rel=0.05)  # else the sizes of pages would be compared
    assert report["sizes"]["roots"]["pages"] == 1200 / 4 / 50
    assert report["sizes"]["replies"]["pages"] == 1200 / 50
    assert report["sizes"]["replies"]["children"] == 1200
    uncached = report["uncached"]
    check_reads(uncached)
    assert uncached["comments_per_page"] == 200
    assert [one["comments"] for one in report["projector"]["sizes"]] == [100, 1200]
    assert report["projector"]["ratio"] > 0
    drawn = etree.parse(plot).getroot()
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(drawn.findall("{*}polyline")) == 3
    assert len(drawn.findall("{*}circle")) == 3 * 2
    assert len(goals_of(report)) == 6


def test_bench_read_watches_a_busy_thread_cold_pages_and_memory(embedded_servers: None) -> None:
    small = ("--largest", "300", "--large", "300", "--threads", "10", "--rate", "50")
    report = bench("read", "--parts", "busy,cold,memory", *small, *READ)
    busy = report["busy"]
    check_reads(busy["idle"])
    check_reads(busy["busy"])
    assert busy["taken"] > 0
    assert busy["visible"]["posts"] > 0
    assert 0 <= busy["visible"]["median"] <= busy["visible"]["p99"] <= busy["visible"]["max"]
    assert [one["comments"] for one in report["cold"]["sizes"]] == [100, 300]
    for one in report["cold"]["sizes"]:
        assert 0 < one["first"] <= one["median"] <= one["last"]
        assert 0 < one["others_p99"] <= one["others_max"]
    memory = report["memory"]
    assert 0 < memory["bytes_per_comment"] <= memory["bytes_per_comment_ordered"]
    assert [one["threads"] for one in memory["api"]] == [1, 5, 10]
    assert {"cold, 100 comments", "cold, 300 comments"} <= goals_of(report)


def test_bench_read_knows_its_parts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.ops.cli", "bench", "read", "--parts", "hot,load"],
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 2
    assert b"not load" in done.stderr


def test_the_words_of_a_read_are_as_many_and_as_unequal_as_a_languages() -> None:
    words, random = Words(1), Random(1)
    texts = [words.text(random) for _ in range(500)]
    assert {len(text) for text in texts} <= set(range(295, 301))
    assert texts != [Words(1).text(Random(2))]
    counted = Counter(word.lower().strip(".,;?!") for text in texts for word in text.split())
    assert len(counted) > 5000
    assert counted.most_common(1)[0][1] > 20 * counted.most_common(100)[-1][1]
    # Real English packs to some 40 percent in large blocks; the same sentences again would to almost nothing.
    packed = len(lzma.compress("".join(texts).encode())) / sum(map(len, texts))
    assert packed > 0.35


def test_bench_replay_reports_every_way_beside_the_limit(embedded_servers: None) -> None:
    report = bench("replay", "--events", "300", "--large", "100", "--rounds", "1")

    assert report["log"]["events"] == 300
    rates = {one["name"]: one for one in report["measured"]}
    limit = rates["bare cursor"]
    assert limit["ratio"] == 1
    assert limit["events"] == 300
    of_one = {name for name in rates if "the largest thread" in name}
    assert len(of_one) == 2
    assert {rates[name]["events"] for name in of_one} == {100}
    assert {one["events"] for name, one in rates.items() if name not in of_one} == {300}
    assert all(goal["value"] > 0 for goal in report["goals"])
    assert all(one["events_per_second"] > 0 for one in rates.values())
    assert report["peak_rss"] >= limit["peak_rss"] > 0


def test_live_reaches_every_stream_and_tells_what_one_costs(embedded_servers: None) -> None:
    report = bench("live", "--streams", "40", "--rounds", "2")

    assert report["streams"] == 40
    assert 0 < report["first"] <= report["median"] <= report["last"]
    assert report["answered"] > 0
    assert report["event_bytes"] > 300
    assert report["cpu_us_per_event_and_stream"] > 0
    assert report["memory_open"] > 0


def test_bench_votes_counts_every_vote_and_waits_until_the_view_shows_them(embedded_servers: None) -> None:
    report = bench("votes", "--votes", "41", "--connections", "4")

    assert report["votes"] == {"up": 30, "down": 11}
    assert report["turnout"]["statuses"] == {"200": 41}
    assert report["turnout"]["broken"] == 0
    assert report["votes_per_second"] > 0
    assert report["rebuilt_in"] > 0
    assert set(report["memory"]) == set(report["cpu_us_per_vote"]) == {"api", "worker", "postgres", "redis"}
    assert all(one["peak"] >= one["before"] > 0 for one in report["memory"].values())


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


def test_quantiles_of_buckets_are_right_to_a_hundredth() -> None:
    latencies = [number / 1000 for number in range(1, 1001)]
    buckets: dict[int, int] = {}
    for latency in latencies:
        buckets[bucket_of(latency)] = buckets.get(bucket_of(latency), 0) + 1

    for share in (0.0, 0.5, 0.99, 1.0):
        assert quantile_of(buckets, share) == pytest.approx(quantile(latencies, share), rel=0.011)
    assert quantile_of({}, 0.5) == 0


def test_lanes_and_processes_together_are_the_whole_matrix() -> None:
    assert cells(lanes=True, processes=False) == [(1, 1), (2, 1), (4, 1)]
    assert set(cells(lanes=True, processes=True)) == {
        (lanes, count) for lanes in (1, 2, 4) for count in (1, 2)
    }


@pytest.mark.parametrize(
    ("frames", "part"),
    [
        ("run (uvloop/__init__.py:92);data_received (aiohttp/web_protocol.py:9)", "aiohttp"),
        ("run (uvloop/__init__.py:92);edge (services/api/middleware.py:51);get (multidict/m.py:2)", "edge"),
        (
            "edge (services/api/middleware.py:51);post (services/api/comments.py:4);uuid5 (uuid.py:7)",
            "handler",
        ),
        ("_decide (services/eventlog/appender.py:9);fetchrow (asyncpg/prepared_stmt.py:3)", "asyncpg"),
        ("_ask (services/api/limits/shared.py:9);send (redis/connection.py:3)", "limiter"),
        ("run (services/eventlog/batch.py:9);decide (services/core/decide.py:1)", "decide"),
        ("run (services/eventlog/batch.py:9);chain_of (schema/events/envelope.py:1)", "hash"),
        ("post (services/api/comments.py:4);gc_collect_main (libpython3.11.so.1.0)", "garbage collection"),
        ("api (services/ops/commands/serve.py:32);run (uvloop/__init__.py:92)", "event loop"),
        ("post (services/api/newest.py:4)", "services/api/newest.py"),
    ],
)
def test_a_sample_counts_for_the_innermost_part(frames: str, part: str) -> None:
    assert part_of(frames.split(";")) == part


def test_a_profile_shares_out_the_time_of_a_post_and_leaves_out_threads_that_wait() -> None:
    profile = profile_of(
        [
            "decide (services/core/decide.py:1) 3",
            "edge (services/api/middleware.py:51) 1",
            "_run (services/pokes.py:9);wait (threading.py:327) 50",
            "not a stack",
        ],
        us_per_post=200.0,
    )

    assert profile["samples"] == 4
    assert [(one["name"], one["us_per_post"]) for one in profile["parts"]] == [
        ("decide", 150.0),
        ("edge", 50.0),
    ]
