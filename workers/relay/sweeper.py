"""The sweep: accepted commands that nobody came for become hints again, whatever happened to the first ones.

It also sends the canaries, which show that somebody takes from each queue.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import structlog
from sqlalchemy.engine import Connection, Engine

from models.enums import Lane
from models.messaging import backlog, canary
from models.messaging.command_ledger import prune_idempotency_keys
from tasks.broker.hint_publisher import HintPublisher
from workers.runtime.polling import POLL_SECONDS, run_polling_loop

FORGOTTEN_SECONDS: Final = 3.0
"""How long a command waits before it counts as forgotten."""

REMEMBER_SECONDS: Final = 2.0
"""How long a subject that was hinted at is left alone."""

CANARY_SECONDS: Final = 30.0
"""How often each queue gets a canary."""

PRUNE_SECONDS: Final = 60.0
PRUNED_AT_ONCE: Final = 10_000
KEYS_KEPT_HOURS: Final = 48

SHARE_OF_TIME: Final = 0.1
"""How much of the time a sweep may take: over a long backlog it looks more rarely."""

log = structlog.get_logger(__name__)


class Sweeper:
    """Hints at forgotten subjects about every half second, sends canaries, and prunes what is old every minute.

    It runs in every relay; a lock lets one of them sweep at a time.
    """

    def __init__(self, engine: Engine, hinter: HintPublisher) -> None:
        self._engine = engine
        self._hinter = hinter
        self._hinted_at: dict[str, float] = {}
        self._after = ""
        self._prune_at = 0.0
        self._pause = POLL_SECONDS

    def run(self, stop: threading.Event) -> None:
        """Sweep until ``stop`` is set."""
        run_polling_loop("sweep", self._one_round, lambda _: stop.wait(self._pause), stop)

    def sweep(self) -> list[tuple[Lane, str]]:
        """Hint at what is forgotten on the next subjects, and say at what; at nothing while another relay sweeps."""
        with self._engine.begin() as connection:
            forgotten = (
                backlog.find_overdue_subjects(connection, older_than=FORGOTTEN_SECONDS, after=self._after)
                if _mine(connection)
                else backlog.OverdueSubjects([], "")
            )
        self._after = forgotten.after
        news = self._not_hinted_lately(forgotten.subjects)
        for lane in Lane:
            if subjects := [subject for its_lane, subject in news if its_lane is lane]:
                self._hinter.publish(lane, subjects)
        if news:
            log.info("sweep.hinted", subjects=len(news))
        return news

    def send_canaries(self) -> list[canary.Canary]:
        """Send those that are due, and say which; none while another relay sweeps."""
        with self._engine.begin() as connection:
            sent = canary.insert_due_canaries(connection, every_seconds=CANARY_SECONDS) if _mine(connection) else []
        for each in sent:
            self._hinter.publish(each.queue, [each.subject])
        return sent

    def prune(self) -> int:
        """Forget old canaries and some old idempotency keys, and say how many keys; none while another relay sweeps."""
        with self._engine.begin() as connection:
            if not _mine(connection):
                return 0
            canary.prune_canaries(connection)
            return prune_idempotency_keys(connection, older_than_hours=KEYS_KEPT_HOURS, most=PRUNED_AT_ONCE)

    def _one_round(self) -> bool:
        started = time.monotonic()
        self.sweep()
        self.send_canaries()
        # A full share means that there is more: then the next round goes on.
        if started >= self._prune_at and self.prune() < PRUNED_AT_ONCE:
            self._prune_at = started + PRUNE_SECONDS
        self._pause = max(POLL_SECONDS, (time.monotonic() - started) / SHARE_OF_TIME)
        return False

    def _not_hinted_lately(self, forgotten: list[tuple[Lane, str]]) -> list[tuple[Lane, str]]:
        now = time.monotonic()
        self._hinted_at = {subject: at for subject, at in self._hinted_at.items() if now - at < REMEMBER_SECONDS}
        news = [(lane, subject) for lane, subject in forgotten if subject not in self._hinted_at]
        self._hinted_at.update((subject, now) for _, subject in news)
        return news


def _mine(connection: Connection) -> bool:
    """Whether this transaction is the one that sweeps."""
    return bool(connection.exec_driver_sql("SELECT pg_try_advisory_xact_lock(hashtextextended('sweep', 0))").scalar())
