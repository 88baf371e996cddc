"""A command with its timeline: everything that the database knows about it, from acceptance to every delivery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from models.enums import CommandState
from models.messaging.hold import HoldScope, find_held
from models.operations.commands import COLUMNS, JOINS, command_facts_json
from models.operations.series import CLOCK_SLACK, first_id
from models.refusals import NotFound
from models.serializers.commands import OutcomeJson
from models.serializers.operations import CommandDetailJson, TimelineEntryJson, TimelineStep
from models.timestamps import iso


class _Step(NamedTuple):
    at: datetime
    step: TimelineStep
    detail: str


def read_command(connection: Connection, command_id: UUID, *, with_texts: bool) -> CommandDetailJson:
    """Return a command with its timeline. Without ``with_texts``, payload and outcome body are null, as for viewers.

    The timeline never contains what users wrote.

    :raises NotFound: there is no such command.
    """
    row = connection.exec_driver_sql(_READ, {"id": command_id}).one_or_none()
    if row is None:
        raise NotFound
    held = find_held(connection, [row.id]) if row.state == CommandState.ACCEPTED else {}
    body = row.outcome_body if with_texts else None
    outcome: OutcomeJson | None = (
        None if row.outcome_status is None else {"status": int(row.outcome_status), "body": body}
    )
    events = _read_events(connection, row)
    return {
        **command_facts_json(row, held.get(row.id)),
        "outcome": outcome,
        "payload": row.payload if with_texts else None,
        "idempotencyKey": row.idempotency_key,
        "traceId": None if row.traceparent is None else [*row.traceparent.split("-"), ""][1] or None,
        "requestId": row.request_id,
        "incident": _incident(row, events),
        "activities": [str(activity) for activity in _activities(events)],
        "timeline": _timeline_json(sorted(_steps(connection, row, events), key=lambda step: step.at)),
    }


_READ: Final = f"""
SELECT {COLUMNS}, c.payload, c.outcome_body, (
    -- The caller's keys of the time around the acceptance, by the primary key of (caller, key).
    SELECT k.key FROM idempotency_keys k WHERE k.caller = c.caller AND k.command_ids @> to_jsonb(ARRAY[c.id::text])
        AND k.date_created BETWEEN c.accepted_at - interval '1 minute' AND c.accepted_at + interval '1 minute' LIMIT 1
) AS idempotency_key
FROM commands c {JOINS} WHERE c.id = %(id)s
"""  # noqa: S608 - our own columns


def _incident(row: Any, events: Sequence[Any]) -> str | None:
    """Return the number of the incident that the command is about: by its events or, without any, as it was sent."""
    for event in events:
        kind, _, number = event.subject.partition("/")
        if kind == "incidents":
            return str(number)
    sent = row.payload.get("incident") if isinstance(row.payload, dict) else None
    return sent if isinstance(sent, str) and sent.isascii() and sent.isdigit() else None


def _activities(events: Sequence[Any]) -> list[int]:
    return list(dict.fromkeys(event.activity_id for event in events if event.activity_id is not None))


def _timeline_json(steps: Sequence[_Step]) -> list[TimelineEntryJson]:
    entries: list[TimelineEntryJson] = []
    before = steps[0].at if steps else None
    for step in steps:
        after = (step.at - (before or step.at)) / timedelta(milliseconds=1)
        entries.append({"at": iso(step.at), "step": step.step, "detail": step.detail, "afterMs": round(after, 1)})
        before = step.at
    return entries


def _steps(connection: Connection, row: Any, events: Sequence[Any]) -> Iterator[_Step]:
    yield _Step(row.accepted_at, TimelineStep.ACCEPTED, f"on queue {row.lane}, subject {row.subject}")
    yield from _hold_steps(connection, row)
    yield from _failure_steps(connection, row)
    yield from _requeue_steps(connection, row)
    if row.claimed_at is not None:
        yield _Step(row.claimed_at, TimelineStep.CLAIMED, "by a worker")
    if row.finished_at is not None:
        yield _Step(row.finished_at, TimelineStep(row.state), _outcome_detail(row))
    yield from _event_steps(connection, events)


def _outcome_detail(row: Any) -> str:
    if row.state == CommandState.DEAD:
        return row.error or ""
    return "" if row.outcome_status is None else f"HTTP status {row.outcome_status}"


# --- holds, failures and requeues --------------------------------------------------------------------------------

_HOLDS: Final = f"""
SELECT h.* FROM holds h
WHERE h.since < coalesce(%(finished)s::timestamptz, now())
    AND coalesce(h.released_at, h.release_at, 'infinity') > %(accepted)s
    AND (h.scope = '{HoldScope.QUEUE}' AND h.target = %(lane)s OR h.scope = '{HoldScope.TYPE}' AND h.target = %(type)s
        OR h.scope = '{HoldScope.ORGANIZATION}' AND h.organization_id = %(organization)s)
ORDER BY h.id DESC LIMIT 20
"""  # noqa: S608 - our own values


def _hold_steps(connection: Connection, row: Any) -> Iterator[_Step]:
    """Yield when holds on the command itself began and ended. A hold on a command before it is in ``heldBy`` only."""
    parameters = {
        "accepted": row.accepted_at,
        "finished": row.finished_at,
        "lane": row.lane,
        "type": row.type,
        "organization": row.organization_id,
    }
    for hold in connection.exec_driver_sql(_HOLDS, parameters):
        name = f"{hold.scope} {hold.target}"
        yield _Step(max(hold.since, row.accepted_at), TimelineStep.HELD, f"{name}, by {hold.held_by}: {hold.reason}")
        if hold.released_at is not None:
            yield _Step(hold.released_at, TimelineStep.RELEASED, f"{name}, by {hold.released_by}")


def _failure_steps(connection: Connection, row: Any) -> Iterator[_Step]:
    failures = connection.exec_driver_sql(
        "SELECT at, error FROM command_failures WHERE command_id = %(id)s ORDER BY id DESC LIMIT 50", {"id": row.id}
    )
    for failure in failures:
        yield _Step(failure.at, TimelineStep.ATTEMPT_FAILED, failure.error)


_REQUEUES: Final = """
SELECT r.at, r.died_at, r.error, b.who, b.reason, b.id FROM requeued_commands r
JOIN bulk_operations b ON b.id = r.operation_id WHERE r.command_id = %(id)s ORDER BY r.at DESC LIMIT 20
"""


def _requeue_steps(connection: Connection, row: Any) -> Iterator[_Step]:
    for requeue in connection.exec_driver_sql(_REQUEUES, {"id": row.id}):
        if requeue.died_at is not None:
            yield _Step(requeue.died_at, TimelineStep.DEAD, requeue.error or "")
        yield _Step(requeue.at, TimelineStep.REQUEUED, f"by {requeue.who}, in operation {requeue.id}: {requeue.reason}")


# --- events and what follows from them ----------------------------------------------------------------------------

# The ids of the events that a command caused begin with the time of its transaction, so the primary key finds them.
_EVENTS: Final = """
SELECT id, type, subject, sequence, activity_id, date_created, announced_at, planned_at FROM events
WHERE id >= %(low)s AND id < %(high)s AND command_id = %(id)s
UNION
SELECT id, type, subject, sequence, activity_id, date_created, announced_at, planned_at FROM events
WHERE organization_id = %(organization)s AND subject = %(own)s
ORDER BY id LIMIT 100
"""

_DECISIONS: Final = """
SELECT d.at, d.channel, d.outcome, d.rule, coalesce(u.username, d.user_id::text) AS username
FROM notification_decisions d LEFT JOIN users u ON u.id = d.user_id
WHERE d.activity_id = ANY(%(activities)s::bigint[]) ORDER BY d.at LIMIT 200
"""

_DELIVERIES: Final = """
SELECT d.id, d.channel, d.state, d.date_created, d.finished_at, u.username FROM deliveries d
LEFT JOIN users u ON u.id = d.user_id
WHERE d.id = ANY(ARRAY(
    SELECT id FROM deliveries WHERE activity_id = ANY(%(activities)s::bigint[]) AND action_id IS NULL
        AND user_id IS NOT NULL
    UNION SELECT id FROM deliveries WHERE activity_id = ANY(%(activities)s::bigint[]) AND action_id IS NOT NULL
    UNION SELECT id FROM deliveries WHERE event_id = ANY(%(events)s::uuid[]) AND destination_id IS NOT NULL
        AND user_id IS NULL
)) ORDER BY d.id LIMIT 200
"""


def _read_events(connection: Connection, row: Any) -> Sequence[Any]:
    parameters = {
        "id": row.id,
        "low": first_id((row.claimed_at or row.accepted_at) - CLOCK_SLACK),
        "high": first_id((row.finished_at or row.accepted_at) + CLOCK_SLACK),
        "organization": row.organization_id or 0,
        "own": f"commands/{row.id}",
    }
    if row.finished_at is None:
        # Only the events about the command itself can exist.
        parameters["high"] = parameters["low"]
    return connection.exec_driver_sql(_EVENTS, parameters).all()


def _event_steps(connection: Connection, events: Sequence[Any]) -> Iterator[_Step]:
    for event in events:
        yield _Step(event.date_created, TimelineStep.EVENT, f"{event.type} on {event.subject}, event {event.id}")
        if event.announced_at is not None:
            yield _Step(event.announced_at, TimelineStep.ANNOUNCED, f"{event.type} on {event.subject}")
        # An event that notifies nobody is marked as planned when it is written.
        if event.planned_at is not None and event.planned_at > event.date_created:
            yield _Step(event.planned_at, TimelineStep.PLANNED, f"{event.type} on {event.subject}")
    if not events:
        return
    named = {"activities": _activities(events), "events": [event.id for event in events]}
    for decision in connection.exec_driver_sql(_DECISIONS, named):
        detail = f"{decision.username}, {decision.channel}: {decision.outcome} by rule {decision.rule}"
        yield _Step(decision.at, TimelineStep.DECISION, detail)
    for delivery in connection.exec_driver_sql(_DELIVERIES, named):
        whom = f"{delivery.username}, " if delivery.username else ""
        detail = f"{whom}{delivery.channel}: {delivery.state}, delivery {delivery.id}"
        yield _Step(delivery.finished_at or delivery.date_created, TimelineStep.DELIVERY, detail)
