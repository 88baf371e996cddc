"""The metrics of a process that is a loop: what it has done, whether the broker lets it, and perhaps the ledger's."""

from __future__ import annotations

from typing import Protocol

from prometheus_client import CollectorRegistry

from tasks.log_config import ProcessKind
from tasks.metrics.exposition import Readings, new_registry
from tasks.metrics.ledger import LedgerCollector, LedgerReader


class MeasuredLoop(Protocol):
    """A loop that says how many events it has processed, and whether the broker blocks what it publishes."""

    @property
    def processed(self) -> int:
        """The number of events since the start."""

    @property
    def is_blocked(self) -> bool:
        """Whether RabbitMQ blocks publishers."""


def relay_registry(relay: MeasuredLoop, database_url: str) -> CollectorRegistry:
    """Return the metrics of a relay, with those of the ledger."""
    registry = _registry(ProcessKind.RELAY, relay, "tocsin_events_published", "Events that this relay has published")
    registry.register(LedgerCollector(LedgerReader(database_url)))
    return registry


def notifier_registry(notifier: MeasuredLoop) -> CollectorRegistry:
    """Return the metrics of a notifier."""
    return _registry(ProcessKind.NOTIFIER, notifier, "tocsin_events_planned", "Events that this notifier has planned")


def _registry(kind: ProcessKind, loop: MeasuredLoop, name: str, text: str) -> CollectorRegistry:
    registry = new_registry(kind)
    readings = Readings(registry)
    readings.count(name, text, lambda: loop.processed)
    readings.gauge(
        "tocsin_broker_blocked", "1 while RabbitMQ blocks publishers because of an alarm", lambda: loop.is_blocked
    )
    return registry
