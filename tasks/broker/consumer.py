"""The consumer of a Celery worker; only workers import it, by the name that :mod:`tasks.app` configures."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer


class HintConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer with quick reconnects and without delayed delivery.

    Delayed delivery would declare 28 queues next to the quorum queues, for ETAs that tocsin never sends.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Celery's boot steps, except that of delayed delivery."""

        default_steps = [  # noqa: RUF012 - Celery's own name and type
            step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        ]

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, and retry until it succeeds."""
        # Celery's delays grow to 30 s, and work would wait that long for a broker that is back already.
        conn.ensure_connection = partial(conn.ensure_connection, interval_start=0.2, interval_step=0.2, interval_max=2)
        return super().ensure_connected(conn)
