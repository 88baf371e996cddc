"""The sweeper, which sends new hints for accepted commands that no worker has claimed, even if earlier hints were lost.

It also sends canaries, which show whether a worker consumes each queue, and deletes expired rows.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import structlog
from sqlalchemy.engine import Connection, Engine

from models.enums import Lane
from models.messaging import backlog, canary
from models.messaging.backlog import IDLE, ledger_state
from models.messaging.claims import propose_floor, raise_floor
from models.messaging.command_ledger import prune_idempotency_keys
from tasks.broker.hint_publisher import HintPublisher
from workers.runtime.polling import POLL_SECONDS, run_polling_loop

OVERDUE_SECONDS: Final = 3.0
"""How many seconds an accepted command may wait before it counts as overdue."""

HINT_INTERVAL_SECONDS: Final = 2.0
"""How many seconds pass before the sweeper sends another hint for the same subject."""

PRUNE_SECONDS: Final = 60.0
MAX_PRUNED_KEYS: Final = 10_000
KEYS_KEPT_HOURS: Final = 48

FLOOR_SECONDS: Final = 2.0
"""How many seconds pass before the floor is raised again. Until then, claims may read the index entries of the commands
that have finished in the meantime."""

IDLE_SECONDS: Final = 1.0
"""How many seconds pass between two sweeps while no command is waiting. Nothing can be overdue then, and a command that
is accepted and fails in the meantime is retried up to this much later."""

SHARE_OF_TIME: Final = 0.1
"""The maximum fraction of the time that is spent on sweeps. A long backlog makes them slower and so less frequent."""

log = structlog.get_logger(__name__)


class Sweeper:
    """Sends hints for overdue subjects about twice a second, sends canaries, and prunes rows every minute.

    While nothing is waiting, there is one transaction per second, and nothing else.

    Every relay runs one sweeper, but an advisory lock lets only one of them sweep at a time.
    """

    def __init__(self, engine: Engine, hints: HintPublisher) -> None:
        self._engine = engine
        self._hints = hints
        self._hinted_at: dict[str, float] = {}
        self._scanned_to = dict.fromkeys(Lane, 0)
        self._prune_at = 0.0
        self._raise_floor_at = 0.0
        self._stop = threading.Event()
        self._pause_seconds = POLL_SECONDS
        self._state = IDLE

    def run(self, stop: threading.Event) -> None:
        """Sweep until ``stop`` is set."""
        self._stop = stop
        run_polling_loop("sweep", self._run_once, lambda _: stop.wait(self._pause_seconds), stop)

    def sweep(self) -> list[tuple[Lane, str]]:
        """Publish hints for the next overdue subjects, and return these subjects. Send the canaries that are due.

        While another relay sweeps, do nothing and return an empty list.
        """
        overdue: list[tuple[Lane, str]] = []
        canaries: list[canary.Canary] = []
        with self._engine.begin() as connection:
            if _try_lock_sweep(connection):
                self._state = ledger_state(connection)
                overdue = self._find_overdue(connection) if self._state.is_waiting else []
                canaries = canary.insert_due_canaries(connection, every_seconds=canary.CANARY_SECONDS)
        for each in canaries:
            self._hints.publish(each.queue, [each.subject])
        hinted = self._not_hinted_lately(overdue)
        for lane in Lane:
            if subjects := [subject for subject_lane, subject in hinted if subject_lane is lane]:
                self._hints.publish(lane, subjects)
        if hinted:
            log.info("sweep.hinted", subjects=len(hinted))
        return hinted

    def _find_overdue(self, connection: Connection) -> list[tuple[Lane, str]]:
        subjects = backlog.find_due_retries(connection)
        for lane, after in self._scanned_to.items():
            found = backlog.find_overdue_subjects(connection, lane, older_than=OVERDUE_SECONDS, after=after)
            self._scanned_to[lane] = found.after
            subjects += found.subjects
        return list(dict.fromkeys(subjects))

    def raise_floor(self) -> bool:
        """Raise the floor below which no command waits, and return whether that succeeded.

        It fails if a transaction that was running at the start does not end within half a second.
        """
        with self._engine.connect() as connection:
            autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
            candidate = propose_floor(autocommit)
            for _ in range(10):
                if raise_floor(autocommit, candidate):
                    return True
                if self._stop.wait(0.05):
                    break
        return False

    def prune(self) -> int:
        """Delete old canaries and up to ``MAX_PRUNED_KEYS`` expired idempotency keys.

        Return the number of deleted keys. While another relay sweeps, do nothing and return 0.
        """
        with self._engine.begin() as connection:
            if not _try_lock_sweep(connection):
                return 0
            canary.prune_canaries(connection)
            return prune_idempotency_keys(connection, older_than_hours=KEYS_KEPT_HOURS, most=MAX_PRUNED_KEYS)

    def _run_once(self) -> bool:
        started = time.monotonic()
        self.sweep()
        if self._state.is_above_floor and started >= self._raise_floor_at:
            self.raise_floor()
            self._raise_floor_at = time.monotonic() + FLOOR_SECONDS
        # A full batch of keys means that there may be more, so the next round continues.
        if started >= self._prune_at and self.prune() < MAX_PRUNED_KEYS:
            self._prune_at = started + PRUNE_SECONDS
        least = POLL_SECONDS if self._state.is_waiting else IDLE_SECONDS
        self._pause_seconds = max(least, (time.monotonic() - started) / SHARE_OF_TIME)
        return False

    def _not_hinted_lately(self, overdue: list[tuple[Lane, str]]) -> list[tuple[Lane, str]]:
        now = time.monotonic()
        self._hinted_at = {subject: at for subject, at in self._hinted_at.items() if now - at < HINT_INTERVAL_SECONDS}
        due = [(lane, subject) for lane, subject in overdue if subject not in self._hinted_at]
        self._hinted_at.update((subject, now) for _, subject in due)
        return due


def _try_lock_sweep(connection: Connection) -> bool:
    """Try to become the only relay that sweeps until this transaction ends, and return whether that succeeded."""
    return bool(connection.exec_driver_sql("SELECT pg_try_advisory_xact_lock(hashtextextended('sweep', 0))").scalar())
