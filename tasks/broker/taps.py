# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""The queues of `tocsin tap` on Valkey, each of which is deleted when its tap no longer renews its lease.

Valkey does not notice that a tap is gone. RabbitMQ does: there, the queue of a tap is exclusive to its connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import structlog

from tasks.broker.bindings import Binding

QUEUE_PREFIX: Final = "tocsin.tap."

LEASE_SECONDS: Final = 60
"""How many seconds a tap's queue is kept without a renewal."""

RENEW_SECONDS: Final = 10.0
"""How many seconds pass before a tap renews its lease."""

log = structlog.get_logger(__name__)


def renew_lease(channel: Any, queue: str) -> bool:
    """Extend the lease of a tap's queue, and return whether there was one."""
    with channel.conn_or_acquire() as client:
        pipeline = client.pipeline()
        pipeline.exists(_lease(queue)).set(_lease(queue), "", ex=LEASE_SECONDS)
        existed, _ = pipeline.execute()
    return bool(existed)


def end_lease(channel: Any, queue: str) -> None:
    """Delete the lease of a tap's queue."""
    with channel.conn_or_acquire() as client:
        client.delete(_lease(queue))


def find_dead_taps(channel: Any, bindings: Iterable[Binding]) -> list[str]:
    """Return the queues among ``bindings`` that are a tap's and have no lease."""
    queues = sorted({binding.queue for binding in bindings if binding.queue.startswith(QUEUE_PREFIX)})
    if not queues:
        return []
    with channel.conn_or_acquire() as client:
        pipeline = client.pipeline(transaction=False)
        for queue in queues:
            pipeline.exists(_lease(queue))
        leases = pipeline.execute()
    return [queue for queue, has_lease in zip(queues, leases, strict=True) if not has_lease]


def remove_dead_taps(channel: Any, exchange: str, bindings: list[Binding]) -> None:
    """Delete the queues and the bindings of taps whose lease has ended."""
    dead = find_dead_taps(channel, bindings)
    if not dead:
        return
    members = [channel.sep.join(binding) for binding in bindings if binding.queue in dead]
    with channel.conn_or_acquire() as client:
        pipeline = client.pipeline()
        pipeline.srem(channel.keyprefix_queue % exchange, *members)
        pipeline.srem(channel.keyprefix_binding_permanent % exchange, *members)
        pipeline.delete(*dead)
        pipeline.execute()
    log.info("broker.taps_removed", queues=dead)


def _lease(queue: str) -> str:
    return f"{queue}:lease"
