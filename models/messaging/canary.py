"""Canaries: one per queue every half minute, sent the way of real work, to know that somebody takes from it.

A canary is a row, and a hint that names it. It is no command of the ledger, because a ledger's command proves nothing
about its queue: whichever worker is awake claims it, whatever queue it was hinted on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Self

from sqlalchemy import BigInteger, Column, Identity, Index, Table, Text
from sqlalchemy.engine import Connection

from models.base import METADATA, moment_column
from models.enums import Lane

KEPT_HOURS: Final = 1
"""How long a canary is remembered; the last one seen of a queue stays longer."""

canaries = Table(
    "canaries",
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("queue", Text, nullable=False),
    moment_column("sent_at"),
    moment_column("seen_at", nullable=True),
    Column("worker", Text, nullable=True),
)
Index("canaries_queue_sent_at_idx", canaries.c.queue, canaries.c.sent_at)


class Canary(NamedTuple):
    """One canary on its way; as a subject of a hint it is ``canary:17``."""

    queue: Lane
    id: int

    @property
    def subject(self) -> str:
        """What the hint says."""
        return f"{_PREFIX}{self.id}"

    @classmethod
    def from_subjects(cls, queue: Lane, subjects: Iterable[str]) -> list[Self]:
        """The canaries that a hint on this queue names.

        >>> Canary.among(Lane.BULK, ["incident:1:7", "canary:17", "canary:x"])
        [Canary(queue=<Lane.BULK: 'bulk'>, id=17)]
        """
        numbers = (subject.removeprefix(_PREFIX) for subject in subjects if subject.startswith(_PREFIX))
        return [cls(queue, int(number)) for number in numbers if number.isdecimal() and len(number) < _DIGITS]


_PREFIX: Final = "canary:"
# Every number of fewer digits is a bigint; a forged hint may say anything.
_DIGITS: Final = 19


class CanaryStatus(NamedTuple):
    """What a queue's canaries tell: ages in seconds; ``way_seconds`` is how long the last one seen was on its way.

    Of a queue on which none was ever seen, ``age_seconds`` counts from the first one sent.
    """

    queue: Lane
    sent_seconds: float
    age_seconds: float
    way_seconds: float | None
    worker: str | None


CANARY_STATUS: Final = """
SELECT q.queue,
       extract(epoch FROM clock_timestamp() - sent.latest)::float8 AS sent_seconds,
       extract(epoch FROM clock_timestamp() - coalesce(seen.seen_at, sent.first))::float8 AS age_seconds,
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
WHERE sent.latest IS NOT NULL
ORDER BY q.turn
"""
"""One row per queue that has ever had a canary, in the order asked for: the fields of :class:`CanaryStatus`."""

ALL_QUEUES: Final = {"queues": [lane.value for lane in Lane]}
"""The parameters of :data:`CANARY_STATUS` for every queue there is."""


def canary_status(connection: Connection) -> list[CanaryStatus]:
    """What the canaries of every queue tell."""
    rows = connection.exec_driver_sql(CANARY_STATUS, ALL_QUEUES)
    return [CanaryStatus(Lane(queue), *facts) for queue, *facts in rows]


def insert_due_canaries(connection: Connection, *, every_seconds: float) -> list[Canary]:
    """Write down a canary for each queue whose last one is this old; the caller hints at them after the commit.

    Callers come one after the other, under the lock of the sweep.
    """
    rows = connection.exec_driver_sql(
        "INSERT INTO canaries (queue) SELECT q.queue FROM unnest(%(queues)s::text[]) AS q(queue)"
        " WHERE NOT EXISTS (SELECT FROM canaries c WHERE c.queue = q.queue"
        " AND c.sent_at > clock_timestamp() - make_interval(secs => %(every)s))"
        " RETURNING queue, id",
        {**ALL_QUEUES, "every": every_seconds},
    )
    return [Canary(Lane(row.queue), row.id) for row in rows]


def mark_canaries_seen(connection: Connection, came: Sequence[Canary], *, worker: str) -> None:
    """Write down that these have come; one that was never sent on this queue, or came before, changes nothing."""
    connection.exec_driver_sql(
        "UPDATE canaries c SET seen_at = clock_timestamp(), worker = %(worker)s"
        " FROM unnest(%(queues)s::text[], %(ids)s::bigint[]) AS came(queue, id)"
        " WHERE c.id = came.id AND c.queue = came.queue AND c.seen_at IS NULL",
        {
            "queues": [canary.queue.value for canary in came],
            "ids": [canary.id for canary in came],
            "worker": worker,
        },
    )


def queues_with_unseen_canary(connection: Connection, *, older_than: float) -> set[Lane]:
    """The queues whose latest canary was sent this many seconds ago, and that nobody has seen."""
    rows = connection.exec_driver_sql(
        "SELECT queue FROM (SELECT DISTINCT ON (queue) queue, sent_at, seen_at FROM canaries"
        " WHERE queue = ANY(%(queues)s::text[]) ORDER BY queue, sent_at DESC) AS latest"
        " WHERE seen_at IS NULL AND sent_at < clock_timestamp() - make_interval(secs => %(older)s)",
        {**ALL_QUEUES, "older": older_than},
    )
    return {Lane(queue) for queue in rows.scalars()}


def prune_canaries(connection: Connection) -> None:
    """Forget old canaries, except the last one seen of each queue."""
    connection.exec_driver_sql(
        "DELETE FROM canaries old WHERE sent_at < clock_timestamp() - make_interval(hours => %(hours)s)"
        " AND (seen_at IS NULL OR EXISTS (SELECT FROM canaries newer WHERE newer.queue = old.queue"
        " AND newer.sent_at > old.sent_at AND newer.seen_at IS NOT NULL))",
        {"hours": KEPT_HOURS},
    )
