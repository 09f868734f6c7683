"""Reports of the benchmarks as tables for people, as far as they have no modules of their own."""

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
            *(("replay of a log apart, MiB", round(peak / 2**20)) for peak in report["peaks"]),
        ]
    )
    say()
    print_goals(report["goals"])


def print_goals(goals: list[dict[str, Any]]) -> None:
    """Which goals are held: each has a name, a sign, what it asks for and what was measured."""
    table(
        ("goal", "", "is", ""),
        [
            (
                one["name"],
                f"{one['sign']} {one['goal']:g}",
                f"{one['value']:.3g}",
                "held" if one["held"] else "missed",
            )
            for one in goals
        ],
    )
