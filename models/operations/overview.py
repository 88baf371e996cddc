"""The overview and the queues: what waits, since when, what was done, and what needs an operator's attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy.engine import Connection

from models.enums import CommandState, Lane
from models.messaging.backlog import find_stalled_lanes
from models.messaging.canary import CanaryStatus, canary_status
from models.messaging.claims import FROM_FLOOR
from models.messaging.command_ledger import IS_DEAD
from models.messaging.hold import ANY_HOLD_IN_FORCE, HoldScope, is_channel_held, is_held
from models.notifications.delivery import IS_UNCLAIMED, DeliveryState
from models.operations.holds import list_holds
from models.operations.series import CLOCK_SLACK, count_accepted, first_id
from models.operations.stalls import STALLED_SECONDS, StallKind, duration, find_stalls, is_consumed
from models.serializers.operations import (
    AttentionJson,
    BrokerStatusJson,
    HoldJson,
    OverviewJson,
    QueueCanaryJson,
    QueueJson,
    QueueState,
    Severity,
)
from models.timestamps import iso

SAMPLED: Final = 5_000
"""From how many of the last minute's commands the percentiles of the wait are computed at most."""

MINUTE: Final = timedelta(minutes=1)


def read_queues(
    connection: Connection,
    *,
    consumers: Mapping[Lane, int | None] = dict.fromkeys(Lane),
) -> list[QueueJson]:
    """Return every queue. ``consumers`` is what the broker knows, see :mod:`tasks.broker_status`."""
    now = _now(connection)
    holds = {(hold["scope"], hold["target"]): hold for hold in list_holds(connection)}
    canaries = {status.queue: status for status in canary_status(connection)}
    stalled = find_stalled_lanes(connection, older_than=STALLED_SECONDS)
    rows = {row.lane: row for row in connection.exec_driver_sql(_WAITING_BY_LANE)}
    finished = {
        row.lane: row.finished for row in connection.exec_driver_sql(_FINISHED_BY_LANE, {"start": now - MINUTE})
    }
    accepted = {row.lane: row.accepted for row in connection.exec_driver_sql(_ACCEPTED_BY_LANE, _since(now - MINUTE))}
    queues = [
        _queue_json(
            lane,
            rows.get(lane.value),
            accepted.get(lane.value, 0),
            finished.get(lane.value, 0),
            holds.get((HoldScope.QUEUE, lane.value)),
            canaries.get(lane),
            is_stalled=lane in stalled,
            consumers=consumers.get(lane),
        )
        for lane in Lane
        if lane is not Lane.DELIVERIES
    ]
    deliveries = connection.exec_driver_sql(_DELIVERIES, _since(now - MINUTE)).one()
    queues.append(
        _queue_json(
            Lane.DELIVERIES,
            deliveries,
            deliveries.planned,
            deliveries.finished,
            holds.get((HoldScope.QUEUE, Lane.DELIVERIES.value)),
            canaries.get(Lane.DELIVERIES),
            is_stalled=bool(deliveries.oldest and deliveries.oldest > STALLED_SECONDS and not deliveries.is_moving),
            consumers=consumers.get(Lane.DELIVERIES),
        )
    )
    return queues


def _queue_json(
    lane: Lane,
    waiting: Any,
    in_per_minute: int,
    out_per_minute: int,
    hold: HoldJson | None,
    canary: CanaryStatus | None,
    *,
    is_stalled: bool,
    consumers: int | None,
) -> QueueJson:
    count = 0 if waiting is None else waiting.waiting
    held = 0 if waiting is None else waiting.held
    drained_per_minute = out_per_minute - in_per_minute
    drains = round(60 * (count - held) / drained_per_minute) if count > held and drained_per_minute > 0 else None
    return {
        "name": lane,
        "waiting": count,
        "oldestSeconds": None if waiting is None or waiting.oldest is None else round(waiting.oldest, 1),
        "held": held,
        "inPerMinute": in_per_minute,
        "outPerMinute": out_per_minute,
        "drainSeconds": 0 if count <= held else drains,
        "state": _queue_state(hold, canary, is_stalled=is_stalled, consumers=consumers),
        "hold": hold,
        "canary": _canary_json(canary),
        "consumers": consumers,
    }


def _queue_state(
    hold: HoldJson | None, canary: CanaryStatus | None, *, is_stalled: bool, consumers: int | None
) -> QueueState:
    if hold is not None:
        return QueueState.HELD
    # RabbitMQ knows at once, canaries show it after a minute on any broker.
    if consumers == 0:
        return QueueState.NO_CONSUMER
    if canary is not None and not is_consumed(canary):
        return QueueState.NO_CONSUMER
    if is_stalled:
        return QueueState.STALLED
    return QueueState.UNKNOWN if canary is None else QueueState.RUNNING


def _canary_json(canary: CanaryStatus | None) -> QueueCanaryJson | None:
    if canary is None:
        return None
    was_seen = canary.way_seconds is not None
    return {
        "sentSecondsAgo": round(canary.sent_seconds, 1),
        "seenSecondsAgo": round(canary.age_seconds, 1) if was_seen else None,
        "wayMs": round(1000 * canary.way_seconds, 1) if canary.way_seconds is not None else None,
    }


def read_overview(connection: Connection, *, broker: BrokerStatusJson) -> OverviewJson:
    """Return the state of the whole system. ``broker`` is what :mod:`tasks.broker_status` has found out."""
    now = _now(connection)
    waiting = connection.exec_driver_sql(_WAITING).one()
    events = connection.exec_driver_sql(_EVENTS).one()
    dead, due = connection.exec_driver_sql(_DEAD_AND_DUE).one()
    finished = connection.exec_driver_sql(_FINISHED, {"start": now - MINUTE}).one()
    percentiles = connection.exec_driver_sql(_PERCENTILES, {"start": now - MINUTE, "sampled": SAMPLED}).one()
    return {
        "at": iso(now),
        "database": {"status": "ok"},
        "broker": broker,
        "waiting": waiting.waiting,
        "oldestSeconds": None if waiting.oldest is None else round(waiting.oldest, 1),
        "held": waiting.held,
        "dead": dead,
        "unannounced": events.unannounced,
        "unplanned": events.unplanned,
        "deliveriesDue": due,
        "acceptedPerMinute": count_accepted(connection, now - MINUTE, now),
        "finishedPerMinute": finished.finished,
        "rejectedPerMinute": finished.rejected,
        "waitP50Ms": _rounded(percentiles.p50),
        "waitP95Ms": _rounded(percentiles.p95),
        "attention": list(_attention(connection, broker, dead)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


# --- what needs attention ----------------------------------------------------------------------------------------


def _attention(connection: Connection, broker: BrokerStatusJson, dead: int) -> Iterator[AttentionJson]:
    """Yield what needs attention, in the order in which an operator should look at it."""
    if broker["status"] != "ok":
        yield _attend("broker", Severity.CRITICAL, broker["detail"], "/ops/queues/")
    for stall in find_stalls(connection):
        severity = Severity.WARNING if stall.kind is StallKind.OLDEST else Severity.CRITICAL
        yield _attend(stall.kind.value, severity, stall.text, _STALL_LINKS.get(stall.kind, "/ops/workers/"))
    if dead:
        text = f"{dead} dead {'letter waits' if dead == 1 else 'letters wait'} for a decision."
        yield _attend("dead", Severity.WARNING, text, "/ops/dead/?group=1")
    for hold in list_holds(connection):
        until = f"until {hold['releaseAt'][:16].replace('T', ' ')} UTC" if hold["releaseAt"] else "with no end set"
        for_ = duration((_now(connection) - datetime.fromisoformat(hold["since"])).total_seconds())
        text = f"{hold['by']} has held the {hold['scope']} {hold['target']} for {for_}, {until}: {hold['reason']}"
        yield _attend("hold", Severity.WARNING, text, "/ops/holds/")


def _attend(kind: str, severity: Severity, text: str, link: str) -> AttentionJson:
    return {"kind": kind, "severity": severity, "text": text, "link": link}


_STALL_LINKS: Final = dict.fromkeys((StallKind.NO_CONSUMER, StallKind.STALLED, StallKind.OLDEST), "/ops/queues/")


# --- statements --------------------------------------------------------------------------------------------------


def _now(connection: Connection) -> datetime:
    now: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return now.astimezone(UTC)


def _since(start: datetime) -> dict[str, Any]:
    return {"start": start, "low": first_id(start - CLOCK_SLACK)}


# A command behind a held one is not counted as held: it may be one of thousands, each with a search of its own.
_HELD: Final = f"count(*) FILTER (WHERE {is_held('c')})"
_OLDEST: Final = "extract(epoch FROM clock_timestamp() - min(c.accepted_at))::float8"

_WAITING: Final = f"""
SELECT count(*) AS waiting, {_OLDEST} AS oldest,
       CASE WHEN ({ANY_HOLD_IN_FORCE}) THEN {_HELD} ELSE 0 END AS held
FROM commands c WHERE {FROM_FLOOR}
"""  # noqa: S608 - our own conditions

_WAITING_BY_LANE: Final = f"""
SELECT c.lane, count(*) AS waiting, {_OLDEST} AS oldest, {_HELD} AS held
FROM commands c WHERE {FROM_FLOOR} GROUP BY c.lane
"""  # noqa: S608 - our own conditions

_ACCEPTED_BY_LANE: Final = """
SELECT lane, count(*) AS accepted FROM commands WHERE id >= %(low)s AND accepted_at >= %(start)s GROUP BY lane
"""

_FINISHED_BY_LANE: Final = """
SELECT lane, count(*) AS finished FROM commands WHERE finished_at >= %(start)s GROUP BY lane
"""

_FINISHED: Final = f"""
SELECT count(*) AS finished, count(*) FILTER (WHERE state = '{CommandState.REJECTED}') AS rejected
FROM commands WHERE finished_at >= %(start)s
"""  # noqa: S608 - our own value

_PERCENTILES: Final = """
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY wait) AS p50,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY wait) AS p95
FROM (
    SELECT 1000 * extract(epoch FROM claimed_at - accepted_at)::float8 AS wait FROM commands
    WHERE finished_at >= %(start)s AND claimed_at IS NOT NULL ORDER BY finished_at DESC LIMIT %(sampled)s
) AS latest
"""

_EVENTS: Final = """
SELECT (SELECT count(*) FROM events WHERE announced_at IS NULL) AS unannounced,
       (SELECT count(*) FROM events WHERE planned_at IS NULL) AS unplanned
"""

_DEAD_AND_DUE: Final = f"""
SELECT (SELECT count(*) FROM commands WHERE {IS_DEAD}),
       (SELECT count(*) FROM deliveries WHERE {IS_UNCLAIMED} AND due_at <= clock_timestamp())
"""  # noqa: S608 - our own conditions

_DELIVERIES: Final = f"""
SELECT count(*) AS waiting, count(*) FILTER (WHERE {is_channel_held("channel")}) AS held,
       extract(epoch FROM clock_timestamp() - min(due_at))::float8 AS oldest,
       (SELECT count(*) FROM deliveries WHERE id >= %(low)s AND date_created >= %(start)s) AS planned,
       (SELECT count(*) FROM deliveries WHERE finished_at >= %(start)s) AS finished,
       EXISTS (SELECT FROM deliveries WHERE claimed_by IS NOT NULL OR finished_at >= %(start)s) AS is_moving
FROM deliveries WHERE state = '{DeliveryState.PENDING}' AND due_at <= clock_timestamp()
"""  # noqa: S608 - our own conditions
