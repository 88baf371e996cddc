"""The worker's metrics. Its child process counts, and its main process serves what any child has counted.

The child keeps its values in files that it shares with the main process (prometheus_client's multiprocess mode). At any
time there is one child, so a child that replaces another continues with its values, and the files do not grow in
number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector

from tasks.log_config import ProcessKind
from tasks.metrics.exposition import new_registry
from tasks.metrics.weighted_histogram import WAIT_BUCKETS_SECONDS, WeightedHistogram

APPLY_BUCKETS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 8)
DELIVERY_BUCKETS_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)

_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable from which prometheus_client takes the directory of the files."""


def share_values(directory: str) -> None:
    """Keep the values of all metrics that this process creates from now on in files in the directory."""
    os.environ[_DIRECTORY] = directory
    values.ValueClass = values.MultiProcessValue(lambda: "child")  # type: ignore[no-untyped-call]


def worker_registry(directory: str) -> CollectorRegistry:
    """Return the registry of the main process, which exports the values that its children keep in the directory."""
    registry = new_registry(ProcessKind.WORKER)
    MultiProcessCollector(registry, path=directory)  # type: ignore[no-untyped-call]
    return registry


class WorkerMetrics:
    """What a worker counts: the outcomes of commands, how long they waited and took, and the attempts of deliveries."""

    def __init__(self) -> None:
        # The values are in the files, and no registry of this process exports them.
        self._finished = Counter(
            "tocsin_commands_finished",
            "Commands that workers have finished, by type, outcome and, unless applied, the reason",
            ["type", "outcome", "reason"],
            registry=None,
        )
        self._wait = WeightedHistogram(
            "tocsin_command_wait_seconds", "From the acceptance of a command to the batch that finished it", ["lane"],
            buckets=WAIT_BUCKETS_SECONDS, registry=None,
        )  # fmt: skip
        self._apply = WeightedHistogram(
            "tocsin_command_apply_seconds", "How long the batch took that finished a command, once per command",
            ["lane"], buckets=APPLY_BUCKETS_SECONDS, registry=None,
        )  # fmt: skip
        self._batches = Counter("tocsin_batches", "Batches of commands that workers have committed", registry=None)
        self._attempts = Counter(
            "tocsin_delivery_attempts", "Attempts to send a delivery, by channel and result", ["channel", "result"],
            registry=None,
        )  # fmt: skip
        self._delivery = Histogram(
            "tocsin_delivery_seconds", "How long an attempt to send a delivery took", ["channel"],
            buckets=DELIVERY_BUCKETS_SECONDS, registry=None,
        )  # fmt: skip
        self._blocked = Gauge(
            "tocsin_broker_blocked", "1 while RabbitMQ blocks publishers because of an alarm", registry=None,
            multiprocess_mode="mostrecent",
        )  # fmt: skip
        self._blocked.set(0)

    def count_finished(self, outcomes: Mapping[tuple[str, str, str], int]) -> None:
        """Count finished commands. ``outcomes`` is by type, outcome and reason."""
        for labels, number in outcomes.items():
            self._finished.labels(*labels).inc(number)

    def observe_batch(self, waits: Mapping[str, Iterable[float]], seconds: float) -> None:
        """Observe a committed batch that took ``seconds``. ``waits`` has its commands' waits in seconds, by lane."""
        self._batches.inc()
        for lane, each in waits.items():
            waited = list(each)
            self._wait.labels(lane).observe_all(waited)
            self._apply.labels(lane).observe_all([seconds], times=len(waited))

    def count_attempt(self, channel: str, result: str, seconds: float) -> None:
        """Count an attempt to send a delivery, and observe how long it took. May be called from any thread."""
        self._attempts.labels(channel, result).inc()
        self._delivery.labels(channel).observe(seconds)

    def set_blocked(self, is_blocked: bool) -> None:
        """Export whether RabbitMQ blocks this worker's hints."""
        self._blocked.set(is_blocked)
