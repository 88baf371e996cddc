"""The gauges of the ledger. They describe the whole system, so every process that exports them exports the same values.

Queries aggregate them with ``max``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from models.database.engine import WORKER_TIMEOUTS, make_engine
from models.operations.ledger_numbers import Backlog, LedgerNumbers, read_ledger_numbers
from models.operations.stalls import TARGETS
from tasks.inquiry import Inquiry

CACHE_SECONDS: Final = 2.0
"""How long the ledger's numbers are used again, so that scrapes cost the database little."""

ANSWER_SECONDS: Final = 0.9
"""How long a scrape waits for the database. Two scrapes at the same time wait one after the other."""


class LedgerCollector(Collector):
    """The gauges of the whole system. ``read`` returns ``None`` while the database is unavailable.

    Then all of them are absent, except the one that says so. ``servers`` returns whether this process reaches each of
    the other servers, as far as it knows.
    """

    def __init__(
        self, read: Callable[[], LedgerNumbers | None], servers: Callable[[], Mapping[str, bool]] = dict
    ) -> None:
        self._read = read
        self._servers = servers

    def collect(self) -> Iterator[Metric]:
        """Read the numbers and yield them."""
        numbers = self._read()
        servers = {"postgresql": numbers is not None, **self._servers()}
        yield _gauge("tocsin_server_up", "1 if this process reaches the server", "server", servers)
        if numbers is not None:
            yield from _families(numbers)


def _families(numbers: LedgerNumbers) -> Iterator[Metric]:
    yield from _backlogs("tocsin_commands", "Commands", "lane", numbers.commands)
    yield from _backlogs("tocsin_deliveries", "Deliveries that are due", "channel", numbers.deliveries)
    yield GaugeMetricFamily("tocsin_commands_dead", "Dead letters that wait for a decision", value=numbers.dead)
    for stage, backlog in (("unannounced", numbers.unannounced), ("unplanned", numbers.unplanned)):
        yield GaugeMetricFamily(f"tocsin_events_{stage}", f"Events that are {stage}", value=backlog.waiting)
        yield GaugeMetricFamily(
            f"tocsin_events_{stage}_oldest_seconds", f"Age of the oldest event that is {stage}",
            value=backlog.oldest_seconds,
        )  # fmt: skip
    yield _gauge(
        "tocsin_canary_age_seconds", "Time since a canary of the queue was last consumed", "queue",
        {each.queue: each.age_seconds for each in numbers.canaries},
    )  # fmt: skip
    yield _gauge(
        "tocsin_canary_way_seconds", "How long the last consumed canary was on its way", "queue",
        {each.queue: each.way_seconds for each in numbers.canaries if each.way_seconds is not None},
    )  # fmt: skip
    yield _gauge("tocsin_processes", "Processes that report themselves", "kind", numbers.processes)
    stalls = GaugeMetricFamily(
        "tocsin_stall", "1 while this is wrong: docs/operations.md describes each kind", labels=["kind", "target"]
    )
    found = {(stall.kind, stall.target) for stall in numbers.stalls}
    for kind, targets in TARGETS.items():
        for target in targets:
            stalls.add_metric([kind.value, target], (kind, target) in found)
    yield stalls


def _backlogs(prefix: str, what: str, label: str, backlogs: dict[str, Backlog]) -> Iterator[Metric]:
    waiting = {name: backlog.waiting for name, backlog in backlogs.items()}
    held = {name: backlog.held for name, backlog in backlogs.items()}
    oldest = {name: backlog.oldest_seconds for name, backlog in backlogs.items()}
    yield _gauge(f"{prefix}_waiting", f"{what} and wait, held or not", label, waiting)
    yield _gauge(f"{prefix}_held", f"{what} and are held themselves", label, held)
    yield _gauge(f"{prefix}_oldest_seconds", f"{what}: how long the oldest has waited", label, oldest)


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


class LedgerReader:
    """Reads the ledger's numbers for scrapes, from any thread, with a connection of its own each time."""

    def __init__(self, database_url: str) -> None:
        """Set up the reader, without connecting to anything."""
        self._engine = make_engine(database_url, application="tocsin-metrics", timeouts=WORKER_TIMEOUTS, pool_size=1)
        self._lock = threading.Lock()
        self._inquiry: Inquiry[LedgerNumbers] | None = None
        self._numbers: LedgerNumbers | None = None
        self._read_at = float("-inf")

    def __call__(self) -> LedgerNumbers | None:
        """Return the numbers, or ``None`` if the database does not answer in time."""
        with self._lock:
            if time.monotonic() - self._read_at < CACHE_SECONDS:
                return self._numbers
            # A question that has not been answered yet is not asked again.
            self._inquiry = self._inquiry or Inquiry(self._read, name="ledger numbers")
            try:
                self._numbers = self._inquiry.wait(ANSWER_SECONDS)
            except TimeoutError:
                return None
            except Exception:
                self._numbers = None
            self._inquiry = None
            self._read_at = time.monotonic()
            return self._numbers

    def _read(self) -> LedgerNumbers:
        try:
            with self._engine.connect() as connection:
                return read_ledger_numbers(connection)
        finally:
            # Between two scrapes, no session is kept open.
            self._engine.dispose()
