"""The Celery worker's consumer. Celery imports this module only in workers, by the name set in :mod:`tasks.app`."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer


class HintConsumer(Consumer):  # type: ignore[misc]
    """A Celery consumer that reconnects quickly and does not set up delayed delivery.

    With quorum queues, Celery would declare 28 more queues for delayed delivery, which tocsin never uses.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Celery's boot steps, except the one for delayed delivery."""

        default_steps = [  # noqa: RUF012 - Celery's own name and type
            step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        ]

    def ensure_connected(self, conn: Any) -> Any:
        """Connect to the broker, retrying until the connection succeeds."""
        # Celery's delays grow to 30 s, so work could wait that long after the broker has come back.
        conn.ensure_connection = partial(conn.ensure_connection, interval_start=0.2, interval_step=0.2, interval_max=2)
        return super().ensure_connected(conn)
