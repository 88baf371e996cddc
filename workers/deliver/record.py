"""Recording what became of claimed deliveries: their state, the attempt, and the decision that explains it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from models.enums import DecisionOutcome
from models.notifications.delivery import DeliveryState
from workers.deliver.channel import AttemptResult, ClaimedDelivery

MAX_DETAIL_CHARACTERS: Final = 500


class Update(NamedTuple):
    """The new values of a claimed delivery. ``due_at`` is set if the delivery remains pending.

    ``rule`` replaces the decision's rule, unless it is ``None``.
    """

    id: UUID
    state: DeliveryState
    attempts: int
    due_at: datetime | None
    is_merged: bool
    merged_into: UUID | None
    body: bytes | None
    rule: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to send a message. ``at`` is when it began."""

    delivery: ClaimedDelivery
    at: datetime
    duration_ms: int
    result: AttemptResult


async def record(
    connection: AsyncConnection, process: UUID, updates: Sequence[Update], attempts: Iterable[Attempt] = ()
) -> set[UUID]:
    """Record updates and attempts, and return the deliveries that were still claimed by the process.

    The others were taken over meanwhile, and are left to whoever has them now.
    """
    parameters = _update_parameters(updates) | _attempt_parameters(list(attempts)) | {"process": process}
    return {row.id for row in await connection.exec_driver_sql(_RECORD, parameters)}


def _attempt_parameters(attempts: Sequence[Attempt]) -> dict[str, object]:
    return {
        "attempted": [each.delivery.id for each in attempts],
        "numbers": [each.delivery.attempts + 1 for each in attempts],
        "times": [each.at for each in attempts],
        "statuses": [each.result.status for each in attempts],
        "durations": [each.duration_ms for each in attempts],
        "errors": [_cut(each.result.error) for each in attempts],
    }


def _update_parameters(updates: Sequence[Update]) -> dict[str, object]:
    return {
        "ids": [each.id for each in updates],
        "states": [each.state.value for each in updates],
        "attempts": [each.attempts for each in updates],
        "due": [each.due_at for each in updates],
        "merged": [each.is_merged for each in updates],
        "merged_into": [each.merged_into for each in updates],
        "bodies": [each.body for each in updates],
        "outcomes": [_outcome(each).value for each in updates],
        "rules": [each.rule for each in updates],
        "details": [_cut(each.detail) or "" for each in updates],
    }


def _outcome(update: Update) -> DecisionOutcome:
    is_postponed = update.state is DeliveryState.PENDING and update.rule is not None
    return DecisionOutcome.DEFERRED if is_postponed else _OUTCOMES[update.state]


def _cut(text: str | None) -> str | None:
    # PostgreSQL stores no NUL, and an answer may contain one.
    return None if text is None else text.replace("\x00", "\ufffd")[:MAX_DETAIL_CHARACTERS]


_OUTCOMES: Final = {
    DeliveryState.PENDING: DecisionOutcome.PENDING,
    DeliveryState.DELIVERED: DecisionOutcome.DELIVERED,
    DeliveryState.SUPPRESSED: DecisionOutcome.SUPPRESSED,
    DeliveryState.CANCELLED: DecisionOutcome.SUPPRESSED,
    DeliveryState.FAILED: DecisionOutcome.FAILED,
    DeliveryState.DEAD: DecisionOutcome.FAILED,
}
"""The outcome in a person's decision, by the delivery's state."""

# One statement, because a round trip takes as long as what it does for a few rows. A decision without a rule keeps its
# own; a delivery without a detail says by which rule it ended.
_RECORD: Final = f"""
WITH updates AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(states)s::text[], %(attempts)s::smallint[], %(due)s::timestamptz[],
        %(merged)s::boolean[], %(merged_into)s::uuid[], %(bodies)s::bytea[], %(outcomes)s::text[], %(rules)s::text[],
        %(details)s::text[])
        AS u(id, state, attempts, due_at, is_merged, merged_into, body, outcome, rule, detail)
), recorded AS (
    UPDATE deliveries d SET state = u.state, attempts = u.attempts, due_at = coalesce(u.due_at, d.due_at),
        is_merged = u.is_merged, merged_into = u.merged_into, body = coalesce(u.body, d.body),
        detail = coalesce(nullif(u.detail, ''), u.rule),
        finished_at = CASE WHEN u.state <> '{DeliveryState.PENDING}' THEN clock_timestamp() END,
        claimed_by = NULL, claimed_at = NULL
    FROM updates u WHERE d.id = u.id AND d.claimed_by = %(process)s
    RETURNING d.id, d.activity_id, d.user_id, d.channel, u.outcome, u.rule, u.detail AS reason
), attempted AS (
    INSERT INTO delivery_attempts (delivery_id, number, at, status, duration_ms, error)
    SELECT a.* FROM unnest(%(attempted)s::uuid[], %(numbers)s::smallint[], %(times)s::timestamptz[],
        %(statuses)s::smallint[], %(durations)s::int[], %(errors)s::text[])
        AS a(delivery_id, number, at, status, duration_ms, error)
    JOIN recorded r ON r.id = a.delivery_id
    ON CONFLICT DO NOTHING
), decided AS (
    UPDATE notification_decisions n
    SET outcome = r.outcome, rule = coalesce(r.rule, n.rule), detail = r.reason, at = clock_timestamp()
    FROM recorded r WHERE n.activity_id = r.activity_id AND n.user_id = r.user_id AND n.channel = r.channel
)
SELECT id FROM recorded
"""  # noqa: S608 - our own columns
