"""Figures to watch at the door, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from models.messaging.canary import CanaryStatus

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The figures of one gateway process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._accepted = Counter(
            "tocsin_commands_accepted", "Commands taken into the ledger", ["type"], registry=self._registry
        )
        self._answers = Counter(
            "tocsin_http_answers", "Answers by address, method and status", ["path", "method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "tocsin_http_seconds", "Time to the answer, waiting included", ["path", "method"],
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._canary_age = Gauge(
            "tocsin_canary_age_seconds", "Time since a worker last took a canary off the queue", ["queue"],
            registry=self._registry,
        )  # fmt: skip
        self._canary_way = Gauge(
            "tocsin_canary_way_seconds", "How long the last canary seen was on its way to a worker", ["queue"],
            registry=self._registry,
        )  # fmt: skip
        self._answer_of: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def track_streams(self, streams: Callable[[], float]) -> None:
        """Say how many streams are open whenever somebody looks."""
        Gauge("tocsin_streams", "Open streams of events", registry=self._registry).set_function(streams)

    def count_accepted(self, commands: Mapping[str, int]) -> None:
        """Count commands by type."""
        for name, number in commands.items():
            self._accepted.labels(name).inc(number)

    def count_response(self, path: str, method: str, status: int, *, seconds: float) -> None:
        """Count an answer and the time it took."""
        known = self._answer_of.get((path, method, status))
        if known is None:
            known = (self._answers.labels(path, method, str(status)), self._seconds.labels(path, method))
            self._answer_of[path, method, status] = known
        known[0].inc()
        known[1].observe(seconds)

    def set_canaries(self, flights: Iterable[CanaryStatus]) -> None:
        """Show these canaries, and no others: a figure that cannot be read is absent, not old."""
        self._canary_age.clear()
        self._canary_way.clear()
        for flight in flights:
            self._canary_age.labels(flight.queue.value).set(flight.age_seconds)
            if flight.way_seconds is not None:
                self._canary_way.labels(flight.queue.value).set(flight.way_seconds)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
