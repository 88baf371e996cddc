"""The gateway's metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Counter, Gauge, Histogram

from models.operations.ledger_numbers import LedgerNumbers
from tasks.broker.parked import ParkedMessages
from tasks.log_config import ProcessKind
from tasks.metrics.exposition import new_registry, render
from tasks.metrics.ledger import LedgerCollector

_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one gateway process, in their own registry."""

    def __init__(self) -> None:
        self._registry = new_registry(ProcessKind.GATEWAY)
        self._numbers: LedgerNumbers | None = None
        self._servers: Mapping[str, bool] = {}
        self._registry.register(LedgerCollector(lambda: self._numbers, lambda: self._servers))
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

    def set_ledger(self, numbers: LedgerNumbers | None) -> None:
        """Export the ledger's numbers, or nothing but the database's absence."""
        self._numbers = numbers

    def set_parked(self, parked: ParkedMessages | None) -> None:
        """Export the number of parked messages, or nothing if it is unknown."""
        self._parked.clear()
        if parked is not None:
            self._parked.labels(parked.queue).set(parked.messages)

    def set_servers(self, servers: Mapping[str, bool]) -> None:
        """Export whether this gateway reaches each of these servers, besides the database."""
        self._servers = servers

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics in the format that an ``Accept`` header asks for, and their content type."""
        return render(self._registry, accept)
