"""The gateway's metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from models.messaging.canary import CanaryStatus
from tasks.broker.parked import ParkedMessages

_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one gateway process, in their own registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._accepted = Counter(
            "tocsin_commands_accepted", "Commands accepted into the ledger", ["type"], registry=self._registry
        )
        self._responses = Counter(
            "tocsin_http_answers", "Responses by endpoint, method and status", ["path", "method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "tocsin_http_seconds", "Time to the response, including the wait for an outcome", ["path", "method"],
            buckets=_BUCKETS_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._canary_age = Gauge(
            "tocsin_canary_age_seconds", "Time since a worker last consumed a canary from the queue", ["queue"],
            registry=self._registry,
        )  # fmt: skip
        self._canary_transit = Gauge(
            "tocsin_canary_way_seconds", "How long the last consumed canary took to reach a worker", ["queue"],
            registry=self._registry,
        )  # fmt: skip
        self._parked = Gauge(
            "tocsin_parked_messages", "Messages that the transport has rejected and parked in the queue", ["queue"],
            registry=self._registry,
        )  # fmt: skip
        self.accepted = 0
        """The number of commands accepted since the start."""
        self._labelled: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def track_streams(self, streams: Callable[[], float]) -> None:
        """Export the number of open streams. At every scrape, ``streams`` is called to get it."""
        Gauge("tocsin_streams", "Open event streams", registry=self._registry).set_function(streams)

    def track_alarms(self, is_blocked: Callable[[], bool]) -> None:
        """Export whether RabbitMQ blocks this gateway's hints. At every scrape, ``is_blocked`` is called to get it."""
        blocked = Gauge(
            "tocsin_broker_blocked", "1 while RabbitMQ blocks publishers because of an alarm", registry=self._registry
        )
        blocked.set_function(is_blocked)

    def count_accepted(self, types: Iterable[str]) -> None:
        """Count accepted commands. ``types`` holds the type of each one."""
        for name in types:
            self.accepted += 1
            self._accepted.labels(name).inc()

    def count_response(self, path: str, method: str, status: int, *, seconds: float) -> None:
        """Count a response and record how long it took."""
        metrics = self._labelled.get((path, method, status))
        if metrics is None:
            metrics = (self._responses.labels(path, method, str(status)), self._seconds.labels(path, method))
            self._labelled[path, method, status] = metrics
        counter, histogram = metrics
        counter.inc()
        histogram.observe(seconds)

    def set_canaries(self, statuses: Iterable[CanaryStatus]) -> None:
        """Export these canary statuses and drop all earlier ones, so that no queue keeps an outdated value."""
        self._canary_age.clear()
        self._canary_transit.clear()
        for status in statuses:
            self._canary_age.labels(status.queue.value).set(status.age_seconds)
            if status.way_seconds is not None:
                self._canary_transit.labels(status.queue.value).set(status.way_seconds)

    def set_parked(self, parked: ParkedMessages | None) -> None:
        """Export the number of parked messages, or nothing if it is unknown."""
        self._parked.clear()
        if parked is not None:
            self._parked.labels(parked.queue).set(parked.messages)

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self._registry)
