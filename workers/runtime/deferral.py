"""Deferral of rows that could not be processed: they stay in their table and are retried at growing intervals."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

FORGET_SECONDS: Final = 1200
"""How many seconds an entry is kept after its retry was due. By then, another process has handled the row."""


class DeferredRows:
    """The rows to skip until their delay has elapsed. They are remembered in this process only.

    Nothing is lost when the process ends: the next process retries every row at once.
    """

    def __init__(self, delays_seconds: Sequence[float]) -> None:
        """Set the delays after a row's 1st, 2nd, … failure. The last delay repeats."""
        self._delays_seconds = delays_seconds
        self._rows: dict[UUID, tuple[int, float]] = {}
        # The threads of a process may share the rows.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def failures(self, row: UUID) -> int:
        """Return how many times the row has been deferred since it last succeeded."""
        return self._rows.get(row, (0, 0.0))[0]

    def defer(self, row: UUID) -> float:
        """Skip the row for a while, and return the delay in seconds."""
        with self._lock:
            failures = self.failures(row)
            delay = self._delays_seconds[min(failures, len(self._delays_seconds) - 1)]
            self._rows[row] = (failures + 1, time.monotonic() + delay)
        return delay

    def clear(self, rows: Iterable[UUID]) -> None:
        """Forget rows that have been processed."""
        with self._lock:
            for row in rows:
                self._rows.pop(row, None)

    def not_due(self) -> list[UUID]:
        """Return the rows whose delay has not elapsed yet."""
        now = time.monotonic()
        with self._lock:
            self._rows = {row: entry for row, entry in self._rows.items() if entry[1] > now - FORGET_SECONDS}
            return [row for row, (_, due) in self._rows.items() if due > now]
