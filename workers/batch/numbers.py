"""The numbers of new incidents, which count up without gaps in each organization."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.engine import Connection

# Locks the organizations in the order of their ids, so that two batches cannot deadlock.
_LOCK: Final = """
SELECT pg_advisory_xact_lock(hashtextextended('number:' || o.id, 0))
FROM (SELECT id FROM unnest(%(ids)s::bigint[]) AS o(id) ORDER BY id) AS o
"""
_READ: Final = """
SELECT o.id, coalesce((SELECT max(identifier) FROM incidents WHERE organization_id = o.id), 0) AS last
FROM unnest(%(ids)s::bigint[]) AS o(id)
"""


@dataclass(slots=True)
class IncidentNumbers:
    """Assigns the numbers of the incidents that a batch opens.

    The first assignment locks the numbers of all these organizations until the batch's transaction ends, so that
    batches which open incidents in the same organization wait for each other. Batches that open none do not lock.
    """

    connection: Connection
    organization_ids: Iterable[int]
    _last: dict[int, int] = field(default_factory=dict)

    def assign_next(self, organization_id: int) -> int:
        """Return the next number for an incident in one of the organizations."""
        if not self._last:
            self._lock_and_read()
        self._last[organization_id] += 1
        return self._last[organization_id]

    def _lock_and_read(self) -> None:
        parameters = {"ids": list(self.organization_ids)}
        self.connection.exec_driver_sql(_LOCK, parameters)
        # In a second statement, whose snapshot includes the incidents of the batches for which the first one waited.
        rows = self.connection.exec_driver_sql(_READ, parameters)
        self._last = {row.id: row.last for row in rows}
