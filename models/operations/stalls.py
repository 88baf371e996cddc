"""Stall detection: what waits for too long, and which process no longer does its part.

A stall is a state, not an event: it is found as long as it lasts. The overview, `tocsin doctor`, the metrics and the
alerts show the same stalls. docs/operations.md says what to do about each kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from models.enums import Lane
from models.messaging.backlog import find_stalled_lanes
from models.messaging.canary import ALL_QUEUES, CANARY_SECONDS, NOTIFIER, CanaryStatus, canary_status
from models.messaging.claims import FROM_FLOOR
from models.messaging.hold import is_channel_held, is_held
from models.notifications.delivery import DeliveryState
from models.operations.processes import list_processes
from models.serializers.operations import ProcessState

NO_CONSUMER_SECONDS: Final = 2 * CANARY_SECONDS
"""If a canary was sent longer ago and neither it nor a later one was consumed, nothing consumes the queue."""

SILENT_SECONDS: Final = 3 * CANARY_SECONDS
"""If the last canary was sent longer ago, no relay works."""

STALLED_SECONDS: Final = 30.0
"""A lane is stalled if a subject that no worker has locked has been due for this long."""

OLDEST_SECONDS: Final = 300.0
"""How long a command, or a delivery that is due, may wait before that needs attention, even while others proceed."""

UNANNOUNCED_SECONDS: Final = 30.0
UNPLANNED_SECONDS: Final = 300.0
"""How long an event may be unannounced or unplanned before that needs attention."""


class StallKind(StrEnum):
    """What is wrong.

    ``no_consumer``: nothing consumes a queue. ``stalled``: no worker works off what is due on a lane. ``oldest``: what
    waits longest on a lane has waited too long, although workers proceed. ``relay``, ``notifier``: events wait, or no
    canaries are sent. ``process``: all processes of a kind are gone.
    """

    NO_CONSUMER = "no_consumer"
    STALLED = "stalled"
    OLDEST = "oldest"
    RELAY = "relay"
    NOTIFIER = "notifier"
    PROCESS = "process"


TARGETS: Final[dict[StallKind, tuple[str, ...]]] = {
    StallKind.NO_CONSUMER: tuple(ALL_QUEUES["queues"]),
    StallKind.STALLED: tuple(lane.value for lane in Lane),
    StallKind.OLDEST: tuple(lane.value for lane in Lane),
    StallKind.RELAY: ("canaries", "events"),
    StallKind.NOTIFIER: ("events",),
    StallKind.PROCESS: ("gateway", "notifier", "relay", "worker"),
}
"""What each kind of stall can be about: a queue, a lane, what a process has to do, or a kind of process."""


RUNBOOKS: Final[dict[StallKind, str]] = {
    StallKind.NO_CONSUMER: "docs/operations.md#no-consumer",
    StallKind.STALLED: "docs/operations.md#no-progress",
    StallKind.OLDEST: "docs/operations.md#oldest-command",
    StallKind.RELAY: "docs/operations.md#relay-away",
    StallKind.NOTIFIER: "docs/operations.md#notifier-away",
    StallKind.PROCESS: "docs/operations.md#process-gone",
}
"""Where an operator reads what to do about each kind."""


class Stall(NamedTuple):
    """Something that has been wrong for ``seconds``. ``target`` is one of the kind's :data:`TARGETS`."""

    kind: StallKind
    target: str
    seconds: float

    @property
    def text(self) -> str:
        """A sentence that says what is wrong, and since when."""
        return _TEXTS[self.kind, self.target].format(since=duration(self.seconds), target=self.target)

    @property
    def runbook(self) -> str:
        """The paragraph that says what to do, as a file of this project with an anchor."""
        return RUNBOOKS[self.kind]


def find_stalls(connection: Connection) -> list[Stall]:
    """Return everything that is wrong, in the order in which an operator should look at it."""
    statuses = canary_status(connection)
    return [
        *_without_consumer(statuses),
        *_stalled(connection),
        *_too_old(connection),
        *_without_relay_or_notifier(connection, statuses),
        *_without_process(connection),
    ]


def is_consumed(status: CanaryStatus) -> bool:
    """Return whether a queue is consumed, as far as its canaries tell. If no relay sends any, they tell nothing."""
    return status.unseen_seconds is None or status.unseen_seconds <= NO_CONSUMER_SECONDS


def _without_consumer(statuses: list[CanaryStatus]) -> Iterator[Stall]:
    for status in statuses:
        if not is_consumed(status):
            yield Stall(StallKind.NO_CONSUMER, status.queue, status.age_seconds)


def _stalled(connection: Connection) -> Iterator[Stall]:
    for lane in sorted(find_stalled_lanes(connection, older_than=STALLED_SECONDS)):
        yield Stall(StallKind.STALLED, lane.value, STALLED_SECONDS)
    due = connection.exec_driver_sql(_DELIVERIES, {"recent": STALLED_SECONDS}).one()
    if due.oldest and due.oldest > STALLED_SECONDS and not due.is_moving:
        yield Stall(StallKind.STALLED, Lane.DELIVERIES.value, due.oldest)


def _too_old(connection: Connection) -> Iterator[Stall]:
    for row in connection.exec_driver_sql(_OLDEST):
        if row.seconds is not None and row.seconds > OLDEST_SECONDS:
            yield Stall(StallKind.OLDEST, row.lane, row.seconds)


def _without_relay_or_notifier(connection: Connection, statuses: list[CanaryStatus]) -> Iterator[Stall]:
    silent = min((status.sent_seconds for status in statuses), default=0.0)
    if silent > SILENT_SECONDS:
        yield Stall(StallKind.RELAY, "canaries", silent)
    events = connection.exec_driver_sql(_EVENTS).one()
    if events.unannounced and events.unannounced > UNANNOUNCED_SECONDS:
        yield Stall(StallKind.RELAY, "events", events.unannounced)
    if events.unplanned and events.unplanned > UNPLANNED_SECONDS:
        yield Stall(StallKind.NOTIFIER, "events", events.unplanned)


def _without_process(connection: Connection) -> Iterator[Stall]:
    """Yield the kinds of processes that were there within the last hour and of which none is left."""
    processes = list_processes(connection)
    alive = {process["kind"] for process in processes if process["state"] is not ProcessState.GONE}
    for kind in sorted({process["kind"] for process in processes} - alive):
        seconds = connection.exec_driver_sql(_LAST_SEEN, {"kind": kind}).scalar_one()
        yield Stall(StallKind.PROCESS, kind, seconds)


def duration(seconds: float) -> str:
    """Return a duration in words, rounded down.

    >>> duration(95), duration(45.2), duration(7260)
    ('1 min', '45 s', '2 h')
    """
    if seconds < 60:
        return f"{int(seconds)} s"
    return f"{int(seconds // 60)} min" if seconds < 3600 else f"{int(seconds // 3600)} h"


_TEXTS: Final = {
    **{(StallKind.NO_CONSUMER, lane.value): "No worker has consumed the queue {target} for {since}." for lane in Lane},
    (StallKind.NO_CONSUMER, NOTIFIER): "No notifier has consumed its queue for {since}.",
    **{
        (StallKind.STALLED, lane.value): "Commands on the queue {target} have been due for {since} and no worker"
        " applies them."
        for lane in Lane
    },
    (StallKind.STALLED, Lane.DELIVERIES.value): "Deliveries have been due for {since} and no worker sends them.",
    **{
        (StallKind.OLDEST, lane.value): "The oldest command on the queue {target} has been waiting for {since}."
        for lane in Lane
    },
    (StallKind.OLDEST, Lane.DELIVERIES.value): "The oldest delivery has been due for {since}.",
    (StallKind.RELAY, "canaries"): "No canary has been sent for {since}: no relay works.",
    (StallKind.RELAY, "events"): "An event has not been announced for {since}: no relay works.",
    (StallKind.NOTIFIER, "events"): "An event has not been planned for {since}: no notifier works.",
    **{
        (StallKind.PROCESS, kind): "No {target} has reported itself for {since}: the last one is gone."
        for kind in TARGETS[StallKind.PROCESS]
    },
}

# What is held is meant to wait.
_OLDEST: Final = f"""
SELECT c.lane, extract(epoch FROM clock_timestamp() - min(c.accepted_at))::float8 AS seconds
FROM commands c WHERE {FROM_FLOOR} AND c.lane = ANY(ARRAY['{Lane.COMMANDS}', '{Lane.BULK}']) AND NOT {is_held("c")}
GROUP BY c.lane
UNION ALL
SELECT '{Lane.DELIVERIES}', extract(epoch FROM clock_timestamp() - min(due_at))::float8
FROM deliveries WHERE state = '{DeliveryState.PENDING}' AND due_at <= clock_timestamp()
    AND NOT {is_channel_held("channel")}
"""  # noqa: S608 - our own conditions

_DELIVERIES: Final = f"""
SELECT extract(epoch FROM clock_timestamp() - min(due_at))::float8 AS oldest,
       EXISTS (
           SELECT FROM deliveries WHERE claimed_by IS NOT NULL
           UNION ALL
           SELECT FROM deliveries WHERE finished_at >= clock_timestamp() - make_interval(secs => %(recent)s)
       ) AS is_moving
FROM deliveries WHERE state = '{DeliveryState.PENDING}' AND due_at <= clock_timestamp()
    AND NOT {is_channel_held("channel")}
"""  # noqa: S608 - our own conditions

_EVENTS: Final = """
SELECT (SELECT extract(epoch FROM clock_timestamp() - min(date_created))::float8 FROM events
        WHERE announced_at IS NULL) AS unannounced,
       (SELECT extract(epoch FROM clock_timestamp() - min(date_created))::float8 FROM events
        WHERE planned_at IS NULL) AS unplanned
"""

_LAST_SEEN: Final = """
SELECT extract(epoch FROM clock_timestamp() - max(last_seen_at))::float8 FROM process_heartbeats WHERE kind = %(kind)s
"""
