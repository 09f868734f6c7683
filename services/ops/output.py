"""What commands print: results on standard output, progress and complaints on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

EVERY: Final = 3.0
"""Seconds between two lines of progress where there is no terminal."""

_WIDE: Final = 1000


def say(text: str = "") -> None:
    """A line of the result."""
    print(text, flush=True)


def complain(text: str) -> None:
    """A line about the work, not of the result."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """One JSON value on a line of its own. Dates are RFC 3339, ids and bytes are strings."""
    sys.stdout.write(json_of(value) + "\n")
    sys.stdout.flush()


def json_of(value: object) -> str:
    """A value as `print_json` prints it."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z).decode()


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "none") -> None:
    """Rows in columns; numbers to the right. `empty` stands for no rows at all."""
    lines = [list(row) for row in rows]
    if not lines:
        say(empty)
        return
    terminal = sys.stdout.isatty()
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column, heading in enumerate(headings):
        numbers = all(isinstance(line[column], (int, float)) for line in lines)
        made.add_column(
            heading, justify="right" if numbers else "left", overflow="fold", no_wrap=not terminal
        )
    for line in lines:
        made.add_row(*(Text(_cell(value)) for value in line))
    console = Console(file=sys.stdout, highlight=False, width=None if terminal else _WIDE)
    with console.capture() as captured:
        console.print(made)
    for text in captured.get().splitlines():
        say(text.rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return str(value)


class Progress:
    """How far long work is: a bar with rate and time left on a terminal, elsewhere a line every few seconds.

    `total` is None where nobody knows it. Everything goes to standard error.
    """

    def __init__(self, what: str, total: int | None = None, *, unit: str = "items") -> None:
        self._what = what
        self._total = total
        self._unit = unit
        self._done = 0
        self._started = self._told = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._started = self._told = time.monotonic()
        if sys.stderr.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(file=sys.stderr),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=self._total, rate="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def phase(self, what: str, total: int | None, done: int, *, unit: str) -> None:
        """So many are done of `what`: all that was begun before, under another name, is done by now."""
        if what != self._what:
            self.__exit__(None, None, None)
            self._what, self._total, self._unit, self._done = what, total, unit, 0
            self.__enter__()
        self.advance(done - self._done)

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return self._done / max(time.monotonic() - self._started, 1e-6)

    def advance(self, count: int = 1) -> None:
        """`count` more are done."""
        self._done += count
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=count, rate=f"{self.rate:,.0f} {self._unit}/s")
        elif time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            complain(self.line())

    def line(self) -> str:
        """The progress as a plain line."""
        of = "" if self._total is None else f" of {self._total:,}"
        line = f"{self._what}: {self._done:,}{of} {self._unit}, {self.rate:,.0f}/s"
        if self._total is not None and self._done:
            line += f", {max(self._total - self._done, 0) / self.rate:,.0f} s left"
        return line


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one a line, aligned."""
    listed = list(pairs)
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        say(f"{name:<{width}}  {_cell(value)}")
