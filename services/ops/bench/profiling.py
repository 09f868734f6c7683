"""What the CPU time of an API process goes to: py-spy's samples, shared out among the parts of a write.

A sample counts for the part that it was taken in: the innermost frame that a rule of `_RULES` knows, so what
a library does on our behalf counts for who called it. aiohttp and the event loop get what is left.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypedDict

from services.errors import ConfigurationError, Unavailable

SAMPLES_PER_SECOND: Final = 250
_STOP_S: Final = 30.0

_RULES: Final[tuple[tuple[str, str], ...]] = (
    (r"(gc_collect|_PyObject_GC|deduce_unreachable|subtract_refs|_run_gc)", "garbage collection"),
    (r"structlog|logging/__init__|services/api/access", "log line"),
    (r"(write|flush|readable) \(services/ops/commands/serve", "log line"),
    (r"prometheus_client|services/api/metrics", "metrics"),
    (r"asyncpg", "asyncpg"),
    (r"dramatiq|services/pokes", "poke"),
    (r"services/[\w/]*limit[\w/]*\.py|services/api/client_address", "limiter"),
    (r"services/api/(auth|tokens)|services/eventlog/credentials|(^| |/)jwt/", "auth"),
    (r"services/core/text", "text"),
    (r"services/eventlog/keys|services/eventlog/seal|cryptography", "seal"),
    (r"(idempotency|_mac) \(.*services/api/writing", "idempotency"),
    (r"services/api/writing", "submit"),
    (r"services/api/bodies|pydantic", "body and validation"),
    (r"services/core/decide|services/core/commands|services/core/votes", "decide"),
    (r"services/core/(thread|site)\.py|services/eventlog/state", "fold"),
    (r"schema/events|(chain|canonical|digest).*services/eventlog", "hash"),
    (r"services/eventlog/batch|services/eventlog/needs", "batch"),
    (r"services/eventlog", "appender"),
    (r"services/core/(node|markup|pagejson|page)|nh3|pyromark", "answer"),
    (r"services/api/(outcomes|answers|shapes|posted)", "answer"),
    (r"services/api/(middleware|problems|health|connections|deadlines|cors)", "edge"),
    (r"services/api/(context|queries)|services/core/addresses", "address and context"),
    (r"services/api/(comments|votes|reports|guests)", "handler"),
)
"""Regular expressions for `function (file:line)`, and the part that each stands for; the first that fits.
Where a list holds two that fit a stack, the innermost frame decides, not the order here."""

_WAITING: Final = re.compile(
    r"pthread_cond_(timed)?wait|acquire_lock|internal_select|epoll_wait|\bpoll \(|"
    r"\b(wait|get|_wait_for_tstate_lock|select) \((threading|queue|selectors)"
)
"""Threads that wait, for the interpreter's lock too: py-spy cannot always tell them from those that work."""
_INNERMOST: Final = 4
_PYTHON: Final = re.compile(r"\.py[x:)]|<(string|frozen)")
_AIOHTTP: Final = re.compile(r"aiohttp|multidict|yarl|propcache|frozenlist")
_LOOP: Final = re.compile(r"uvloop|asyncio|selectors|services/ops|typer|click|runpy|<module>")
_OURS: Final = re.compile(r"(services|schema)/[\w/]+\.py")
_COMPILED: Final = tuple((re.compile(rule), part) for rule, part in _RULES)


class Part(TypedDict):
    """A part's share of the samples, and the CPU time that makes of a post, in microseconds."""

    name: str
    share: float
    us_per_post: float


class Line(TypedDict):
    """A function by the samples that were taken in itself."""

    function: str
    share: float


class Profile(TypedDict):
    """The parts, largest first; and the functions in which most samples were taken."""

    samples: int
    parts: list[Part]
    functions: list[Line]


@contextmanager
def recording(pid: int, file: Path) -> Iterator[None]:
    """Have py-spy write the stacks of process `pid` to `file` (its raw format) for as long as this lasts.

    Raises ConfigurationError where py-spy is not installed, Unavailable where it may not look.
    """
    command = py_spy()
    arguments = [
        *(command, "record", "--pid", str(pid), "--format", "raw", "--output", str(file)),
        *("--rate", str(SAMPLES_PER_SECOND), "--duration", "unlimited"),
    ]
    if sys.platform == "linux":
        arguments.append("--native")  # the garbage collector is no frame of Python's
    spy = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        yield
    finally:
        spy.send_signal(signal.SIGINT)
        try:
            said = spy.communicate(timeout=_STOP_S)[1]
        except subprocess.TimeoutExpired:
            spy.kill()
            said = spy.communicate()[1]
    if not file.exists():
        raise Unavailable(f"py-spy wrote no profile: {said.decode(errors='replace')[-1000:]}")


def py_spy() -> str:
    """Where py-spy is. Raises ConfigurationError where it is not installed."""
    found = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if found is None:
        raise ConfigurationError("py-spy is not installed: install threadlog[dev]")
    return found


def profile_of(lines: Iterable[str], us_per_post: float) -> Profile:
    """The shares of the parts, from the lines of py-spy's raw format: frames by semicolons, then a count.

    `us_per_post`: the CPU time of the process a post, which the shares divide.
    """
    parts: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rstrip("\n").rpartition(" ")
        if not stack or not count.isdigit():
            continue
        frames = stack.split(";")
        if any(_WAITING.search(frame) for frame in frames[-_INNERMOST:]):
            continue
        parts[part_of(frames)] += int(count)
        own = next((frame for frame in reversed(frames) if _PYTHON.search(frame)), frames[-1])
        functions[re.sub(r":\d+\)$", ")", own)] += int(count)
    total = max(sum(parts.values()), 1)
    return Profile(
        samples=total,
        parts=[
            Part(name=name, share=count / total, us_per_post=us_per_post * count / total)
            for name, count in parts.most_common()
        ],
        functions=[Line(function=name, share=count / total) for name, count in functions.most_common(30)],
    )


def part_of(frames: list[str]) -> str:
    """The part that a stack, outermost frame first, belongs to."""
    for frame in reversed(frames):
        for rule, part in _COMPILED:
            if rule.search(frame):
                return part
        if (ours := _OURS.search(frame)) is not None and _LOOP.search(frame) is None:
            return ours[0]  # a module that no rule knows yet
    if any(_AIOHTTP.search(frame) for frame in frames):
        return "aiohttp"
    return "event loop"
