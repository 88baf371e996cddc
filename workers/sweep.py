"""The sweep: accepted commands that nobody came for become hints again, whatever happened to the first ones."""

from __future__ import annotations

import threading
import time
from typing import Final

import structlog
from sqlalchemy.engine import Connection, Engine

from models import command
from models.vocabulary import Lane
from tasks.lanes import Hinter
from workers.rounds import POLL_SECONDS, go_round

FORGOTTEN_SECONDS: Final = 3.0
"""How long a command waits before it counts as forgotten."""

REMEMBER_SECONDS: Final = 2.0
"""How long a subject that was hinted at is left alone."""

PRUNE_SECONDS: Final = 60.0
KEYS_KEPT_HOURS: Final = 48

SHARE_OF_TIME: Final = 0.1
"""How much of the time a sweep may take: over a long backlog it looks more rarely."""

log = structlog.get_logger(__name__)


class Sweeper:
    """Hints at forgotten subjects about every half second, and prunes idempotency keys every minute.

    It runs in every relay; a lock lets one of them sweep at a time.
    """

    def __init__(self, engine: Engine, hinter: Hinter) -> None:
        self._engine = engine
        self._hinter = hinter
        self._hinted_at: dict[str, float] = {}
        self._prune_at = 0.0
        self._pause = POLL_SECONDS

    def run(self, stop: threading.Event) -> None:
        """Sweep until ``stop`` is set."""
        go_round("sweep", self._one_round, lambda _: stop.wait(self._pause), stop)

    def sweep(self) -> list[tuple[Lane, str]]:
        """Hint at what is forgotten now, and say at what; at nothing while another relay sweeps."""
        with self._engine.begin() as connection:
            forgotten = (
                command.forgotten_subjects(connection, older_than=FORGOTTEN_SECONDS) if _mine(connection) else []
            )
        news = self._not_hinted_lately(forgotten)
        for lane in Lane:
            if subjects := [subject for its_lane, subject in news if its_lane is lane]:
                self._hinter.hint(lane, subjects)
        if news:
            log.info("sweep.hinted", subjects=len(news))
        return news

    def prune(self) -> int:
        """Forget old idempotency keys, and say how many; none while another relay sweeps."""
        with self._engine.begin() as connection:
            return command.prune_keys(connection, older_than_hours=KEYS_KEPT_HOURS) if _mine(connection) else 0

    def _one_round(self) -> bool:
        started = time.monotonic()
        self.sweep()
        if started >= self._prune_at:
            self._prune_at = started + PRUNE_SECONDS
            self.prune()
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
