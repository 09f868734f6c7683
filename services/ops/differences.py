"""Telling of differences as they are found: however many there are, only counts of them are kept."""

from __future__ import annotations

import shlex
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from services.eventlog.state import Difference
from services.ops.choosing import Choice
from services.ops.exits import Exit
from services.ops.output import json_of, say, table
from services.projection.replay import is_rebuilt

_LINES: Final = 20
"""Differences of one thread that are printed; the JSON has all."""

_VALUE: Final = 200
"""Characters of a value that are printed; the JSON has all."""


class Told(ABC):
    """What was found of some threads so far."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.threads = 0
        self.differing = 0
        self.kinds: Counter[str] = Counter()
        """How many differences there are of each kind."""
        self.places: Counter[str] = Counter()
        """In how many threads, sites' settings, or rows of neither."""
        self._last: tuple[str, str] | None = None
        self._elsewhere = self._rebuilt = False

    def differ(self, site: str | None, key: str | None, differences: Iterable[Difference]) -> None:
        """Tell of what differs in a thread, in a site's own stream (no key), or in neither."""
        found = list(differences)
        if not found:
            return
        if site is not None and key is not None:
            self.differing += 1
            self._last = site, key
        else:
            self._elsewhere = True
        self._rebuilt |= any(map(is_rebuilt, found))
        self.kinds.update(one.kind for one in found)
        self.places.update({one.kind for one in found})
        self._tell(site, key, found)

    def end(self, *, chain: bool) -> Exit:
        """Tell how much it was; the code to end with. `chain`: hash chains were checked too."""
        if self.kinds:
            self._sum_up()
            return Exit.FOUND
        self._identical(chain=chain)
        return Exit.DONE

    @property
    def next_step(self) -> str | None:
        """The command that shows or repairs what was found to differ; None where none does."""
        if not self._rebuilt:
            return "threadlog dead-letters list" if "event" in self.kinds else None
        if self.differing == 1 and not self._elsewhere and self._last is not None:
            site, key = self._last
            return f"threadlog replay --site {shlex.quote(site)} --thread {shlex.quote(key)}"
        which = "--all" if self.choice.site is None else f"--site {shlex.quote(self.choice.site)}"
        return f"threadlog replay {which} --differing --dry-run"

    @abstractmethod
    def _tell(self, site: str | None, key: str | None, found: list[Difference]) -> None: ...

    @abstractmethod
    def _sum_up(self) -> None: ...

    @abstractmethod
    def _identical(self, *, chain: bool) -> None: ...


class Text(Told):
    """For people."""

    def _tell(self, site: str | None, key: str | None, found: list[Difference]) -> None:
        if site is None:
            say("what belongs to no thread differs:")
        else:
            say(f"{site} {'settings' if key is None else repr(key)} differs:")
        for one in found[:_LINES]:
            say(f"  {_line(one)}")
        if len(found) > _LINES:
            say(f"  … {len(found) - _LINES:,} more; --json has all")

    def _sum_up(self) -> None:
        say()
        rows = [(kind, count, self.places[kind]) for kind, count in sorted(self.kinds.items())]
        table(("kind", "differences", "places"), rows)
        say()
        say(f"{self.differing:,} of {_threads(self.threads)} differ{self._drawn}")
        if self.next_step is not None:
            say(f"next: {self.next_step}")

    def _identical(self, *, chain: bool) -> None:
        chained = "; every hash chain holds" if chain else ""
        say(f"identical: {_threads(self.threads)}{self._drawn}{chained}")

    @property
    def _drawn(self) -> str:
        return "" if self.choice.sample is None else f" (a sample; --seed {self.choice.seed} draws it again)"


class Json(Told):
    """For machines: one object, written as it comes. What is broken off is no JSON."""

    _begun = False

    def _tell(self, site: str | None, key: str | None, found: list[Difference]) -> None:
        for one in found:
            self._begin()
            sys.stdout.write(json_of({"site": site, "thread": key} | _readable(one)))

    def _begin(self) -> None:
        sys.stdout.write("," if self._begun else '{"differences":[')
        self._begun = True

    def _sum_up(self) -> None:
        summary: dict[str, object] = {
            "identical": not self.kinds,
            "threads": self.threads,
            "differing": self.differing,
            "kinds": dict(sorted(self.kinds.items())),
        }
        if self.choice.sample is not None:
            summary["seed"] = self.choice.seed
        if not self._begun:
            self._begin()
        sys.stdout.write("]," + json_of(summary).removeprefix("{") + "\n")
        sys.stdout.flush()

    def _identical(self, *, chain: bool) -> None:
        self._sum_up()


def _line(one: Difference) -> str:
    place = f"{one.kind} {one.path}" if one.path else one.kind
    if one.kind in ("event", "chain") and one.replayed is None:  # `stored` is what is wrong with the event
        return f"{place}: {one.stored}"
    return f"{place}: stored {_short(one.stored)}, replayed {_short(one.replayed)}"


def _threads(count: int) -> str:
    return f"{count:,} thread{'' if count == 1 else 's'}"


def _readable(one: Difference) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "path": one.path,
        "stored": _plain(one.stored),
        "replayed": _plain(one.replayed),
    }


def _plain(value: object) -> object:
    """Bytes as text where they are text."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _short(value: object) -> str:
    plain = _plain(value)
    text = repr(plain) if isinstance(plain, (str, list, dict)) else str(plain)
    return text if len(text) <= _VALUE else text[:_VALUE] + "…"
