"""How a worker consumes; only a worker loads it, by the name that :mod:`tasks.app` gives to Celery."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer


class HintConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, back soon after an outage, and without its delayed delivery.

    For quorum queues that would declare 28 queues for ETAs, which we never send.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """The consumer's steps."""

        default_steps = [  # noqa: RUF012 - Celery's own name and type
            step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        ]

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying again for ever."""
        # Celery's own pauses grow to 30 s, and work would wait that long for a broker that has long been back.
        conn.ensure_connection = partial(conn.ensure_connection, interval_start=0.2, interval_step=0.2, interval_max=2)
        return super().ensure_connected(conn)
