"""Canaries: test messages sent through every queue every 30 seconds, to verify that a process consumes the queue.

A canary consists of a row and a hint that refers to the row. It is not a command, because a command would prove nothing
about its queue: any worker that is awake may claim it, whatever queue its hint was sent to.

The notifier's queue of events has canaries, too. Its messages are not read, because each says only that the events
table has new rows, so every message that the notifier takes stands for the canaries sent before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Self

from sqlalchemy import BigInteger, Column, Identity, Index, Table, Text
from sqlalchemy.engine import Connection

from models.base import METADATA, timestamp_column
from models.enums import Lane

RETENTION_HOURS: Final = 1
"""The number of hours for which canaries are kept. The last canary received on each queue is kept longer."""

CANARY_SECONDS: Final = 30.0
"""How many seconds pass between two canaries on a queue."""

NOTIFIER: Final = "notifier"
"""The name of the notifier's queue among those that have canaries. The others are named as their lanes."""

canaries = Table(
    "canaries",
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("queue", Text, nullable=False),
    timestamp_column("sent_at"),
    timestamp_column("seen_at", nullable=True),
    Column("worker", Text, nullable=True),
)
Index("canaries_queue_sent_at_idx", canaries.c.queue, canaries.c.sent_at)


class Canary(NamedTuple):
    """A canary that was sent to a queue. Hints refer to it by a subject of the form ``canary:17``."""

    queue: str
    id: int

    @property
    def subject(self) -> str:
        """The subject that refers to the canary in a hint."""
        return f"{_PREFIX}{self.id}"

    @classmethod
    def from_subjects(cls, queue: str, subjects: Iterable[str]) -> list[Self]:
        """Return the canaries among the subjects of a hint from this queue, ignoring malformed subjects.

        >>> Canary.from_subjects(Lane.BULK, ["incident:1:7", "canary:17", "canary:x"])
        [Canary(queue=<Lane.BULK: 'bulk'>, id=17)]
        """
        numbers = (subject.removeprefix(_PREFIX) for subject in subjects if subject.startswith(_PREFIX))
        return [cls(queue, int(number)) for number in numbers if number.isdecimal() and len(number) < _DIGITS]


_PREFIX: Final = "canary:"
# Every number with fewer digits fits into a bigint. A forged hint may contain larger numbers.
_DIGITS: Final = 19


class CanaryStatus(NamedTuple):
    """The health of a queue, as measured by its canaries.

    ``sent_seconds`` is the time since the latest canary was sent. ``age_seconds`` is the time since a canary was last
    received or, if none has ever been received, since the first one was sent. ``unseen_seconds`` is the time since the
    first canary was sent that should have been received since, or ``None``. ``way_seconds`` is the latency of the last
    canary received, and ``worker`` is the process that received it.
    """

    queue: str
    sent_seconds: float
    age_seconds: float
    unseen_seconds: float | None
    way_seconds: float | None
    worker: str | None


_CANARY_STATUS: Final = """
SELECT q.queue,
       extract(epoch FROM clock_timestamp() - sent.latest)::float8 AS sent_seconds,
       extract(epoch FROM clock_timestamp() - coalesce(seen.seen_at, sent.first))::float8 AS age_seconds,
       extract(epoch FROM clock_timestamp() - unseen.first)::float8 AS unseen_seconds,
       extract(epoch FROM seen.seen_at - seen.sent_at)::float8 AS way_seconds,
       seen.worker
FROM unnest(%(queues)s::text[]) WITH ORDINALITY AS q(queue, turn)
CROSS JOIN LATERAL (
    SELECT min(c.sent_at) AS first, max(c.sent_at) AS latest FROM canaries c WHERE c.queue = q.queue
) AS sent
LEFT JOIN LATERAL (
    SELECT c.sent_at, c.seen_at, c.worker FROM canaries c
    WHERE c.queue = q.queue AND c.seen_at IS NOT NULL ORDER BY c.sent_at DESC LIMIT 1
) AS seen ON true
CROSS JOIN LATERAL (
    SELECT min(c.sent_at) AS first FROM canaries c
    WHERE c.queue = q.queue AND c.seen_at IS NULL AND c.sent_at > coalesce(seen.sent_at, '-infinity')
) AS unseen
WHERE sent.latest IS NOT NULL
ORDER BY q.turn
"""

ALL_QUEUES: Final = {"queues": [*(lane.value for lane in Lane), NOTIFIER]}
"""The parameters that select every queue."""


def canary_status(connection: Connection) -> list[CanaryStatus]:
    """Return the status of every queue that has had a canary."""
    return [CanaryStatus._make(row) for row in connection.exec_driver_sql(_CANARY_STATUS, ALL_QUEUES)]


def insert_due_canaries(connection: Connection, *, every_seconds: float) -> list[Canary]:
    """Insert and return a canary for each queue that was not sent one in the last ``every_seconds`` seconds.

    Send the canaries' hints after the commit. The caller must hold the sweep's lock, so that no queue gets two
    canaries.
    """
    rows = connection.exec_driver_sql(
        "INSERT INTO canaries (queue) SELECT q.queue FROM unnest(%(queues)s::text[]) AS q(queue)"
        " WHERE NOT EXISTS (SELECT FROM canaries c WHERE c.queue = q.queue"
        " AND c.sent_at > clock_timestamp() - make_interval(secs => %(every)s))"
        " RETURNING queue, id",
        {**ALL_QUEUES, "every": every_seconds},
    )
    return [Canary(row.queue, row.id) for row in rows]


def mark_canaries_seen(connection: Connection, received: Sequence[Canary], *, worker: str) -> None:
    """Record that a worker received these canaries.

    Canaries that were already received or that were sent to another queue are ignored.
    """
    connection.exec_driver_sql(
        "UPDATE canaries c SET seen_at = clock_timestamp(), worker = %(worker)s"
        " FROM unnest(%(queues)s::text[], %(ids)s::bigint[]) AS r(queue, id)"
        " WHERE c.id = r.id AND c.queue = r.queue AND c.seen_at IS NULL",
        {
            "queues": [canary.queue for canary in received],
            "ids": [canary.id for canary in received],
            "worker": worker,
        },
    )


def mark_queue_consumed(connection: Connection, queue: str, *, worker: str) -> None:
    """Record that a process has taken a message from a queue whose messages it does not read."""
    connection.exec_driver_sql(
        "UPDATE canaries SET seen_at = clock_timestamp(), worker = %(worker)s"
        " WHERE queue = %(queue)s AND seen_at IS NULL",
        {"worker": worker, "queue": queue},
    )


def lanes_with_unseen_canary(connection: Connection, *, older_than: float) -> set[Lane]:
    """Return the lanes whose latest canary was sent more than ``older_than`` seconds ago and has not been received."""
    rows = connection.exec_driver_sql(
        "SELECT queue FROM (SELECT DISTINCT ON (queue) queue, sent_at, seen_at FROM canaries"
        " WHERE queue = ANY(%(queues)s::text[]) ORDER BY queue, sent_at DESC) AS latest"
        " WHERE seen_at IS NULL AND sent_at < clock_timestamp() - make_interval(secs => %(older)s)",
        {"queues": [lane.value for lane in Lane], "older": older_than},
    )
    return {Lane(row.queue) for row in rows}


def prune_canaries(connection: Connection) -> None:
    """Delete canaries older than ``RETENTION_HOURS``, except the last one received on each queue."""
    connection.exec_driver_sql(
        "DELETE FROM canaries old WHERE sent_at < clock_timestamp() - make_interval(hours => %(hours)s)"
        " AND (seen_at IS NULL OR EXISTS (SELECT FROM canaries newer WHERE newer.queue = old.queue"
        " AND newer.sent_at > old.sent_at AND newer.seen_at IS NOT NULL))",
        {"hours": RETENTION_HOURS},
    )
