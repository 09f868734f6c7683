"""What the API counts, for Prometheus. One table of all names is in `docs/metrics.md`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from enum import Enum

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.api.problems import CODE_OF, NOT_OPEN
from services.api.siblings import Siblings
from services.errors import CommentNotOpen, Refusal
from services.eventlog.appender import Committed

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


class Watched(Enum):
    """What others count, and is only read here: name, meaning, whether it only grows."""

    QUEUE = ("threadlog_append_queue_commands", "Commands that wait for a batch.", False)
    PAGES_SHORT = (
        "threadlog_short_answers_total",
        "Reads answered from memory before they were parsed.",
        True,
    )
    PAGE_READS = ("threadlog_page_reads_total", "Answers that no remembered one would do for.", True)
    PAGE_LOOKS = ("threadlog_page_looks_total", "Looks at the heads of views, of many threads each.", True)
    PAGE_COMPRESSIONS = ("threadlog_page_compressions_total", "Answers compressed.", True)
    PAGE_BYTES = ("threadlog_page_memory_bytes", "Bytes of remembered answers.", False)
    COLD_READS = ("threadlog_cold_reads_total", "Reads that found no view.", True)
    COLD_FOLDS = ("threadlog_cold_folds_total", "Threads folded for readers, each for all who asked.", True)
    VIEWS_ASKED = ("threadlog_views_asked_total", "Views of long threads asked of the workers.", True)
    LOG_READS = ("threadlog_log_reads_total", "Answers put together from the log, without a view.", True)
    VIEWS_AWAY = ("threadlog_views_away", "1 while the views' Redis is left alone: it did not answer.", False)
    VIEWS_FAULTS = ("threadlog_views_faults_total", "Times that the views' Redis gave no answer.", True)
    POKES = ("threadlog_pokes_sent_total", "Messages sent to the workers.", True)
    LIMITS_IN_REDIS = (
        "threadlog_rate_limited_in_redis_total",
        "Writes whose rate limits Redis judged.",
        True,
    )
    LIMITS_IN_PROCESS = (
        "threadlog_rate_limited_in_process_total",
        "Writes whose rate limits this process judged, Redis being away.",
        True,
    )
    LIMITS_LOCAL = ("threadlog_rate_limits_local", "1 while rate limits are this process' own.", False)
    REFUSED_AUTHORS = ("threadlog_rate_refused_author_total", "Writes over their author's limit.", True)
    REFUSED_ADDRESSES = ("threadlog_rate_refused_address_total", "Writes over their address' limit.", True)
    REFUSED_SITES = ("threadlog_rate_refused_site_total", "Writes over their site's limit.", True)
    LIVE_STREAMS = ("threadlog_live_streams", "Live streams that are open.", False)
    LIVE_THREADS = ("threadlog_live_threads", "Threads that are followed live.", False)
    LIVE_DROPPED = (
        "threadlog_live_dropped_total",
        "Live streams cut off, their readers too slow.",
        True,
    )
    LIVE_RESETS = ("threadlog_live_resets_total", "Live streams told to load the thread anew.", True)
    POKES_DROPPED = (
        "threadlog_pokes_dropped_total",
        "Hints dropped, where the broker is away or its queue full. The sweeper makes up for them.",
        True,
    )


class _Watched(Collector):
    def __init__(self) -> None:
        self.reads: dict[Watched, Callable[[], int]] = {}

    def collect(self) -> Iterator[Metric]:
        for watched, read in self.reads.items():
            name, meaning, grows = watched.value
            family = CounterMetricFamily if grows else GaugeMetricFamily
            yield family(name, meaning, value=float(read()))


class _Histogram(Histogram):
    """One that takes many observations of the same amount at the price of one."""

    def observe_often(self, amount: float, times: int) -> None:
        """`amount` was observed so many times."""
        self._sum.inc(amount * times)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(times)


class Metrics:
    """The API's metrics in a registry of their own. `registry` is exposed by `/metrics`."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self.siblings: Siblings | None = None
        """The other processes of this port, where there are any."""
        self._before: list[Callable[[], None]] = []
        self._requests = _Histogram(
            "threadlog_request_seconds",
            "Requests answered, by method, route template and status.",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._refusals = Counter(
            "threadlog_refusals_total", "Commands refused, by code.", ("code",), registry=self.registry
        )
        self._commands = Histogram(
            "threadlog_append_batch_commands",
            "Commands in one transaction.",
            buckets=_BATCHES,
            registry=self.registry,
        )
        self._append = Histogram(
            "threadlog_append_seconds",
            "From a batch's first attempt to its commit.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._events = Counter(
            "threadlog_events_appended_total", "Events appended, by lane.", ("lane",), registry=self.registry
        )
        # As many as there are methods, routes and statuses: the histogram keeps them anyway.
        self._answered: dict[tuple[str, str, int], _Histogram] = {}
        self._watched = _Watched()
        self.registry.register(self._watched)

    def answered(self, method: str, route: str, status: int, seconds: float, count: int = 1) -> None:
        """So many requests were answered, each in so many seconds."""
        name = (method, route, status)
        found = self._answered.get(name)
        if found is None:
            found = self._answered[name] = self._requests.labels(method, route, str(status))
        if count == 1:
            found.observe(seconds)
        else:
            found.observe_often(seconds, count)

    def committed(self, batch: Committed) -> None:
        """An appender finished a batch: `Appenders(on_committed=…)`."""
        self._commands.observe(batch.commands)
        self._append.observe(batch.seconds)
        if batch.events:
            self._events.labels(str(batch.lane)).inc(batch.events)
        for refusal in batch.refusals:
            self._refusals.labels(code_of(refusal)).inc()

    def before(self, tell: Callable[[], None]) -> None:
        """Have what others counted told here before it is read."""
        self._before.append(tell)

    def watch(self, watched: Watched, read: Callable[[], int]) -> None:
        """Read one of the numbers that others keep whenever it is asked for."""
        self._watched.reads[watched] = read

    def exposition(self) -> bytes:
        """All that this process has counted, in Prometheus' text format."""
        for tell in self._before:
            tell()
        return generate_latest(self.registry)

    async def gathered(self) -> bytes:
        """The same of all processes of this port; where there are several, each series names its process."""
        own = self.exposition()
        return own if self.siblings is None else await self.siblings.gathered(own)


def code_of(refusal: Refusal) -> str:
    """The code of the problem that a refusal is answered with."""
    if isinstance(refusal, CommentNotOpen):
        return NOT_OPEN.get(refusal.state, "comment-hidden")
    return CODE_OF.get(type(refusal), "invalid")
