"""Reports of the benchmarks as tables for people; that of `bench append` is in a module of its own."""

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
