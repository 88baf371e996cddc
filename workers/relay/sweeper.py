"""The sweeper, which sends new hints for accepted commands that no worker has claimed, even if earlier hints were lost.

It also sends canaries, which show whether a worker consumes each queue, deletes expired rows, carries out requeues,
records the numbers of each minute, releases holds whose time has come, and closes the incidents of stale alerts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from models.database.errors import is_contention
from models.enums import Lane
from models.messaging import backlog, canary
from models.messaging.backlog import IDLE, ledger_state
from models.messaging.claims import propose_floor, raise_floor
from models.messaging.command_ledger import prune_idempotency_keys
from models.operations.holds import release_expired_holds
from models.operations.processes import prune_processes
from models.operations.requeue import advance_requeue
from models.operations.retention import RetentionPass
from models.operations.series import record_minute
from tasks.broker.hint_publisher import HintPublisher
from workers.relay.stale_alerts import close_stale_alerts
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

RECORD_SECONDS: Final = 5.0
"""How many seconds pass before the sweeper looks again whether a minute is over, a hold has expired, a requeue was
asked for, or alerts have become stale."""

RETENTION_SECONDS: Final = 24 * 3600.0
RETENTION_DELAY_SECONDS: Final = 60.0
"""How many seconds pass between two passes that delete old rows, and before the first one."""

IDLE_SECONDS: Final = 1.0
"""How many seconds pass between two sweeps while no command is waiting. Nothing can be overdue then, and a command that
is accepted and fails in the meantime is retried up to this much later."""

SHARE_OF_TIME: Final = 0.1
"""The maximum fraction of the time that is spent on sweeps. A long backlog makes them slower and so less frequent."""

log = structlog.get_logger(__name__)


class Sweeper:
    """Sends hints for overdue subjects about twice a second, sends canaries, and prunes rows every minute.

    While nothing is waiting, it sweeps once a second. Every few seconds it also records the numbers of the last minute,
    releases expired holds and starts requeues.

    Every relay runs one sweeper, but an advisory lock lets only one of them sweep at a time.
    """

    def __init__(
        self,
        engine: Engine,
        hints: HintPublisher,
        *,
        keep_days: int = 0,
        send_notifier_canary: Callable[[], object] = lambda: None,
    ) -> None:
        """Set up the sweeper. ``keep_days`` is the age at which finished work is deleted; 0 keeps everything.

        ``send_notifier_canary`` is called when the notifier's queue is to get a canary.
        """
        self._engine = engine
        self._send_notifier_canary = send_notifier_canary
        self._keep_days = keep_days
        self._retention: RetentionPass | None = None
        # Not at the start, when there is more urgent work.
        self._retain_at = time.monotonic() + RETENTION_DELAY_SECONDS
        self._hints = hints
        self._hinted_at: dict[str, float] = {}
        self._scanned_to = dict.fromkeys(Lane, 0)
        self._prune_at = 0.0
        self._raise_floor_at = 0.0
        self._record_at = 0.0
        self._is_requeueing = False
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
            if each.queue == canary.NOTIFIER:
                self._send_notifier_canary()
            else:
                self._hints.publish(Lane(each.queue), [each.subject])
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

    def advance_requeue(self) -> bool:
        """Carry out the next step of a requeue, and return whether another one can follow at once.

        A subject that stays busy for longer than the step waits is left to the next step.
        """
        try:
            with self._engine.begin() as connection:
                requeued = advance_requeue(connection)
        except DBAPIError as error:
            if not is_contention(error):
                raise
            return False
        self._is_requeueing = requeued is not None
        if requeued is None:
            return False
        for lane in Lane:
            if subjects := [subject for name, subject in requeued.subjects if name == lane]:
                self._hints.publish(lane, subjects)
        return requeued.continues

    def record_operations(self) -> None:
        """Record the numbers of the last minute and the releases of expired holds, and forget processes long gone.

        Also have the incidents of stale alerts closed. While another relay sweeps, do nothing.
        """
        stale: list[str] = []
        with self._engine.begin() as connection:
            if _try_lock_sweep(connection):
                release_expired_holds(connection)
                record_minute(connection)
                prune_processes(connection)
                stale = close_stale_alerts(connection)
        if stale:
            self._hints.publish(Lane.COMMANDS, stale)
            log.info("sweep.closed_stale", incidents=len(stale))

    def delete_old_rows(self) -> bool:
        """Delete the next part of the rows that are older than they have to be kept. Return whether there may be more.

        While another relay sweeps, do nothing.
        """
        if self._retention is None:
            self._retention = RetentionPass(self._keep_days)
        with self._engine.begin() as connection:
            if not _try_lock_sweep(connection) or self._retention.step(connection):
                return True
        if any(self._retention.deleted.values()):
            log.info("sweep.deleted_old", keep_days=self._keep_days, **self._retention.deleted)
        self._retention = None
        return False

    def _run_once(self) -> bool:
        started = time.monotonic()
        self.sweep()
        if self._is_requeueing or started >= self._record_at:
            while self.advance_requeue() and not self._stop.is_set():
                pass
        if started >= self._record_at:
            self.record_operations()
            self._record_at = time.monotonic() + RECORD_SECONDS
        if self._state.is_above_floor and started >= self._raise_floor_at:
            self.raise_floor()
            self._raise_floor_at = time.monotonic() + FLOOR_SECONDS
        # A full batch of keys means that there may be more, so the next round continues.
        if started >= self._prune_at and self.prune() < MAX_PRUNED_KEYS:
            self._prune_at = started + PRUNE_SECONDS
        if self._keep_days and started >= self._retain_at and not self.delete_old_rows():
            self._retain_at = started + RETENTION_SECONDS
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
