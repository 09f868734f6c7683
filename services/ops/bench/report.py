"""Reports of the benchmarks as tables for people."""

from __future__ import annotations

from typing import Any

from services.ops.output import fields, say, table


def print_replay(report: dict[str, Any]) -> None:
    """The figures of `bench replay`."""
    log = report["log"]
    say(
        f"{log['events']:,} events in {log['threads']:,} threads, "
        f"filled through the appender at {log['fill_events_per_second']:,.0f} events/s"
    )
    say()
    table(
        ("", "events", "seconds", "CPU s", "events/s", "of bare", "peak MiB"),
        [
            (
                one["name"],
                one["events"],
                one["seconds"],
                one["cpu_seconds"],
                round(one["events_per_second"]),
                f"{one['ratio']:.2f}",
                round(one["peak_rss"] / 2**20),
            )
            for one in report["measured"]
        ],
    )
    say()
    fields(
        [
            ("peak memory, MiB", round(report["peak_rss"] / 2**20)),
            ("of it before the first measurement, MiB", round(report["peak_rss_before"] / 2**20)),
        ]
    )


def print_append(report: dict[str, Any]) -> None:
    """The figures of `bench append`."""
    facts = report["postgres"]
    plan = report["plan"]
    say(
        f"PostgreSQL {facts['server_version']}, fsync {facts['fsync']}, "
        f"synchronous_commit {facts['synchronous_commit']}; "
        f"{plan['threads']} threads, {plan['authors']:,} authors, "
        f"{plan['rounds']} rounds of {plan['seconds']:g} s"
    )
    say()
    rows = []
    for load in report["loads"]:
        for server in ("api", "bare"):
            figures = load[server]
            cpu = figures["cpu_seconds_per_1000"]
            rows.append(
                (
                    load["connections"],
                    server,
                    round(figures["posts_per_second"]),
                    f"{load['ratio'] if server == 'api' else 1:.2f}",
                    round(figures["p50"] * 1000, 1),
                    round(figures["p99"] * 1000, 1),
                    cpu["server"],
                    cpu["postgres"],
                    cpu["client"],
                    f"{figures['client_busy']:.0%}",
                    f"{figures['batch_commands']:.1f}" if "batch_commands" in figures else None,
                    ", ".join(f"{status}: {count:,}" for status, count in figures["statuses"].items()),
                )
            )
    table(
        (
            "connections",
            "",
            "posts/s",
            "of bare",
            "p50 ms",
            "p99 ms",
            "server CPU s/1,000",
            "Postgres",
            "client",
            "client busy",
            "batch",
            "answers",
        ),
        rows,
    )
    say()
    seen = report["visible"]
    table(
        ("post to visible", "posts", "median ms", "p95 ms", "max ms", "posts/s beside"),
        [
            (
                name,
                seen[name]["posts"],
                round(seen[name]["median"] * 1000, 1),
                round(seen[name]["p95"] * 1000, 1),
                round(seen[name]["max"] * 1000, 1),
                round(seen[name].get("posts_per_second", 0)),
            )
            for name in ("idle", "loaded")
        ],
    )
    say(f"idle within {seen['goal'] * 1000:.0f} ms: {'held' if seen['held'] else 'missed'}")
