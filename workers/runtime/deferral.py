"""Rows that could not be handled just now: they stay in their table, and are tried again ever more rarely."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

FORGET_SECONDS: Final = 1200
"""How long after its turn a row that nobody came for is forgotten."""


class DeferredRows:
    """Which rows to leave alone for now; it is forgotten when the process ends, and then they are simply tried."""

    def __init__(self, pauses_seconds: Sequence[float]) -> None:
        """The pauses after the 1st, 2nd, … time; then always the last."""
        self._pauses = pauses_seconds
        self._rows: dict[UUID, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def times(self, row: UUID) -> int:
        """How many times it has been put here since it was last taken back."""
        return self._rows.get(row, (0, 0.0))[0]

    def put(self, row: UUID) -> float:
        """Leave it alone for a while, and say for how many seconds."""
        times = self.times(row)
        pause = self._pauses[min(times, len(self._pauses) - 1)]
        self._rows[row] = (times + 1, time.monotonic() + pause)
        return pause

    def take_back(self, rows: Iterable[UUID]) -> None:
        """These have been handled after all."""
        for row in rows:
            self._rows.pop(row, None)

    def not_due(self) -> list[UUID]:
        """The rows whose pause is not over; long forgotten ones are dropped, somebody else handled them."""
        now = time.monotonic()
        forgotten = now - FORGET_SECONDS
        self._rows = {row: put for row, put in self._rows.items() if put[1] > forgotten}
        return [row for row, (_, until) in self._rows.items() if until > now]
