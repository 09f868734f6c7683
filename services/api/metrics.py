"""What the API counts, for Prometheus. One table of all names is in `docs/metrics.md`."""

from __future__ import annotations

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
    COLD_READS = ("threadlog_cold_reads_total", "Reads that found no view.", True)
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


class Metrics:
    """The API's metrics in a registry of their own. `registry` is exposed by `/metrics`."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self.siblings: Siblings | None = None
        """The other processes of this port, where there are any."""
        self._requests = Histogram(
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
        self._answered: dict[tuple[str, str, int], Histogram] = {}
        self._watched = _Watched()
        self.registry.register(self._watched)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        name = (method, route, status)
        found = self._answered.get(name)
        if found is None:
            found = self._answered[name] = self._requests.labels(method, route, str(status))
        found.observe(seconds)

    def committed(self, batch: Committed) -> None:
        """An appender finished a batch: `Appenders(on_committed=…)`."""
        self._commands.observe(batch.commands)
        self._append.observe(batch.seconds)
        if batch.events:
            self._events.labels(str(batch.lane)).inc(batch.events)
        for refusal in batch.refusals:
            self._refusals.labels(code_of(refusal)).inc()

    def watch(self, watched: Watched, read: Callable[[], int]) -> None:
        """Read one of the numbers that others keep whenever it is asked for."""
        self._watched.reads[watched] = read

    def exposition(self) -> bytes:
        """All that this process has counted, in Prometheus' text format."""
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
