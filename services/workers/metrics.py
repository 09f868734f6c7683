"""What the workers count. Every process counts for itself; `exposition` adds them up.

`METRICS` is the table that the documentation is checked against.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, values

from services.eventlog.checkpoints import Projection
from services.eventlog.deliveries import CHANNELS, OUTCOMES
from services.pokes import QUEUES

DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client learns where the processes' counts lie."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as it is exposed."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    help: str


METRICS: Final = (
    Metric(
        "threadlog_worker_messages_total",
        "counter",
        ("actor", "outcome"),
        "Messages handled: outcome done, or failed where at least one stream has to be looked at again.",
    ),
    Metric("threadlog_projected_events_total", "counter", (), "Events brought into views by workers."),
    Metric("threadlog_notifications_total", "counter", (), "Notifications written."),
    Metric(
        "threadlog_sweeper_pokes_total",
        "counter",
        ("projection",),
        "Streams that the sweeper found behind and poked: lost hints, and what has failed.",
    ),
    Metric(
        "threadlog_lag_events",
        "gauge",
        ("lane", "projection"),
        "Events of the lane from the first that a projection lacks, events of the last second left out.",
    ),
    Metric(
        "threadlog_lag_seconds",
        "gauge",
        ("lane", "projection"),
        "Age of the first event of the lane that a projection lacks, in seconds; 0 where it lacks none.",
    ),
    Metric("threadlog_lane_head", "gauge", ("lane",), "Position of the lane's last event."),
    Metric(
        "threadlog_lane_reached",
        "gauge",
        ("lane", "projection"),
        "Position up to which a projection lacks no event of the lane, events of the last second left out.",
    ),
    Metric("threadlog_dead_letters", "gauge", ("projection",), "Streams parked before an event."),
    Metric("threadlog_views", "gauge", (), "Views that are there, of all formats."),
    Metric("threadlog_views_memory_bytes", "gauge", (), "Memory that the views' server uses."),
    Metric(
        "threadlog_views_memory_budget_bytes",
        "gauge",
        (),
        "What it may use before views are dropped; 0 where there is no bound.",
    ),
    Metric("threadlog_views_dropped_total", "counter", (), "Views dropped to keep to the budget."),
    Metric("threadlog_snapshots_written_total", "counter", (), "Snapshots of long threads written."),
    Metric("threadlog_snapshots_written_bytes_total", "counter", (), "Bytes of these snapshots, compressed."),
    Metric(
        "threadlog_snapshots_wait_seconds",
        "gauge",
        (),
        "How long the thread that waits longest for a snapshot has waited; 0 where none does.",
    ),
    Metric(
        "threadlog_deliveries_total",
        "counter",
        ("channel", "outcome"),
        "Attempts to deliver: outcome sent, again, later, dropped (nobody wants it any more), dead.",
    ),
    Metric(
        "threadlog_deliveries_due",
        "gauge",
        ("channel",),
        "Deliveries that are due, those for endpoints that fail included; counted up to 10,000.",
    ),
    Metric(
        "threadlog_deliveries_late_seconds",
        "gauge",
        ("channel",),
        "For how long the oldest delivery that could go has been due; 0 where none is.",
    ),
    Metric(
        "threadlog_deliveries_dead",
        "gauge",
        ("channel",),
        "Deliveries given up in the last 30 days; counted up to 10,000.",
    ),
    Metric(
        "threadlog_fan_outs_late_seconds",
        "gauge",
        (),
        "How long the followers who wait longest to be told of a comment have waited; 0 where none do.",
    ),
    Metric(
        "threadlog_webhook_endpoints",
        "gauge",
        ("state",),
        "Webhook endpoints: closed (all is well), open (the circuit is: left alone for a while), off.",
    ),
    Metric("threadlog_mail_server_away", "gauge", (), "1 while a worker leaves the mail server alone."),
    Metric("threadlog_queue_messages", "gauge", ("queue",), "Messages that wait in a queue of the broker."),
)
_BY_NAME: Final = {metric.name: metric for metric in METRICS}


class WorkerMetrics:
    """The metrics of one worker process. To be made once in a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Counts go to the files of PROMETHEUS_MULTIPROC_DIR where it is set, else stay in this process."""
        if os.environ.get(DIRECTORY):
            # prometheus_client chooses when it is first imported, which may have been before the variable
            # was set, in the process that this one was forked from.
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        self._registry = registry
        self.messages = self._counter("threadlog_worker_messages_total")
        self.projected = self._counter("threadlog_projected_events_total")
        self.notifications = self._counter("threadlog_notifications_total")
        self.swept = self._counter("threadlog_sweeper_pokes_total")
        self.lag_events = self._gauge("threadlog_lag_events")
        self.lag_seconds = self._gauge("threadlog_lag_seconds")
        self.lane_head = self._gauge("threadlog_lane_head")
        self.lane_reached = self._gauge("threadlog_lane_reached")
        self.dead_letters = self._gauge("threadlog_dead_letters")
        self.mail_server_away = self._gauge("threadlog_mail_server_away", "livemax")
        self.queue = self._gauge("threadlog_queue_messages")
        self.deliveries = self._counter("threadlog_deliveries_total")
        self.deliveries_due = self._gauge("threadlog_deliveries_due")
        self.deliveries_late = self._gauge("threadlog_deliveries_late_seconds")
        self.deliveries_dead = self._gauge("threadlog_deliveries_dead")
        self.fan_outs_late = self._gauge("threadlog_fan_outs_late_seconds")
        self.endpoints = self._gauge("threadlog_webhook_endpoints")
        self.views = self._gauge("threadlog_views")
        self.views_memory = self._gauge("threadlog_views_memory_bytes")
        self.views_budget = self._gauge("threadlog_views_memory_budget_bytes")
        self.views_dropped = self._counter("threadlog_views_dropped_total")
        self.snapshots = self._counter("threadlog_snapshots_written_total")
        self.snapshot_bytes = self._counter("threadlog_snapshots_written_bytes_total")
        self.snapshots_wait = self._gauge("threadlog_snapshots_wait_seconds", "livemax")
        # A count that is there from the start is 0, not unknown.
        for actor in QUEUES:
            for outcome in ("done", "failed"):
                self.messages.labels(actor, outcome)
        for projection in Projection:
            self.swept.labels(projection)
        for channel in CHANNELS:
            for outcome in OUTCOMES:
                self.deliveries.labels(channel, outcome)

    def _counter(self, name: str) -> Counter:
        metric = _BY_NAME[name]
        return Counter(name, metric.help, metric.labels, registry=self._registry)

    def _gauge(self, name: str, mode: Literal["livemostrecent", "livemax"] = "livemostrecent") -> Gauge:
        # Where only the process that holds a lease measures, what it said last is what counts.
        metric = _BY_NAME[name]
        return Gauge(name, metric.help, metric.labels, registry=self._registry, multiprocess_mode=mode)
