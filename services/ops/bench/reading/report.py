"""The report of `bench read` as tables for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from services.ops.bench.report import print_goals
from services.ops.output import fields, say, table

_HEADINGS: Final = (
    "reads/s",
    "p50 ms",
    "p99 ms",
    "CPU us/read: server",
    "Postgres",
    "Redis",
    "client",
    "bytes",
    "clients",
    "busiest",
    "answers",
)


def print_read(report: dict[str, Any]) -> None:
    """The figures of those parts that were measured, and which goals they hold."""
    facts, plan = report["postgres"], report["plan"]
    say(
        f"PostgreSQL {facts['server_version']}, fsync {facts['fsync']}; {report['processors']} processors; "
        f"{plan['rounds']} rounds of {plan['seconds']:g} s, {plan['connections']} connections; "
        f"{report['filled']['comments']:,} comments filled in {report['filled']['seconds']:.0f} s"
    )
    for part, printed in _PARTS.items():
        if part in report:
            say()
            printed(report[part])
    say()
    print_goals(report["goals"])


def _cells(figures: dict[str, Any]) -> tuple[object, ...]:
    cpu = figures["cpu_us_per_read"]
    return (
        round(figures["reads_per_second"]),
        _ms(figures["p50"]),
        _ms(figures["p99"]),
        *(f"{cpu[name]:.0f}" for name in ("server", "postgres", "redis", "client")),
        f"{figures['bytes_per_answer']:,}",
        figures["clients"],
        f"{figures['client_busy']:.0%}",
        ", ".join(f"{status}: {count:,}" for status, count in figures["statuses"].items()),
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


def _hot(hot: dict[str, Any]) -> None:
    rows: list[tuple[object, ...]] = []
    for name, one in hot["variants"].items():
        rows.append((name, "api", f"{one['ratio']:.2f}", *_cells(one["api"])))
        rows.append((name, "bare", "1.00", *_cells(one["bare"])))
    table(("hot page", "", "of bare", *_HEADINGS), rows)
    say(f"the most out of date answer: {hot['oldest']:.2f} s, while {hot['posts']} comments arrived")


def _sizes(sizes: dict[str, Any]) -> None:
    table(
        ("comments", "of the first", "uncached ms", *_HEADINGS),
        [
            (f"{one['comments']:,}", f"{one['ratio']:.2f}", _ms(one["uncached"]), *_cells(one))
            for one in sizes["sizes"]
        ],
    )
    say()
    table(
        ("list", "pages", "first ms", "last ms", "ratio"),
        [
            (name, one["pages"], _ms(one["first"]), _ms(one["last"]), f"{one['ratio']:.2f}")
            for name, one in (("roots", sizes["roots"]), ("replies", sizes["replies"]))
        ],
    )


def _uncached(one: dict[str, Any]) -> None:
    heading = f"never asked for, {one['comments_per_page']} comments of {one['thread']:,}"
    table((heading, *_HEADINGS), [("", *_cells(one))])


def _busy(busy: dict[str, Any]) -> None:
    seen = busy["visible"]
    table(
        ("", "of idle", *_HEADINGS),
        [
            ("idle", "1.00", *_cells(busy["idle"])),
            (f"{busy['taken']:.0f} posts/s", f"{busy['ratio']:.2f}", *_cells(busy["busy"])),
        ],
    )
    say(
        f"to visible at {seen['taken']:.0f} posts/s, half of {busy['most']:.0f}: "
        f"median {_ms(seen['median'])} ms, p99 {_ms(seen['p99'])} ms, max {_ms(seen['max'])} ms, "
        f"of {seen['posts']} posts"
    )


def _cold(cold: dict[str, Any]) -> None:
    table(
        (
            f"{cold['readers']} readers, comments",
            "first ms",
            "median ms",
            "last ms",
            "others' p99 ms",
            "before",
        ),
        [
            (
                f"{one['comments']:,}",
                *(
                    _ms(one[name])
                    for name in ("first", "median", "last", "others_p99", "others_in_peace_p99")
                ),
            )
            for one in cold["sizes"]
        ],
    )


def _memory(memory: dict[str, Any]) -> None:
    fields(
        [
            ("Redis, bytes a comment", round(memory["bytes_per_comment"])),
            ("with every order", round(memory["bytes_per_comment_ordered"])),
            ("all that the server uses more", round(memory["used_per_comment"])),
            *(
                (f"API after {one['threads']} threads, MiB", round(one["bytes"] / 2**20, 1))
                for one in memory["api"]
            ),
            ("API, bytes a thread", round(memory["api_bytes_per_thread"])),
        ]
    )


def _projector(projector: dict[str, Any]) -> None:
    table(
        ("one comment more, thread of", "CPU us", "of it Redis", "ms"),
        [
            (f"{one['comments']:,}", round(one["cpu_us"]), round(one["redis_us"]), _ms(one["seconds"]))
            for one in projector["sizes"]
        ],
    )


_PARTS: Final[dict[str, Callable[[dict[str, Any]], None]]] = {
    "hot": _hot,
    "sizes": _sizes,
    "uncached": _uncached,
    "busy": _busy,
    "cold": _cold,
    "memory": _memory,
    "projector": _projector,
}
