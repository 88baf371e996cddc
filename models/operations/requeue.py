"""Requeues: dead commands that become accepted again, at the place in their subject that they had.

A requeue is a row that the relays advance in small steps (:mod:`workers.relay.sweeper`), so that it can be watched and
stopped, survives restarts, and never holds many locks. A requeued command keeps its ``seq``, and with it its place
before every later command of its subject; the floor is lowered for it. While it becomes accepted, the subject is locked
as for a batch, so a later command is applied either before the requeue or after the command.
docs/decisions/0033-ops-reads.md says why it gets no new ``seq``.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from models.enums import CommandState
from models.messaging.claims import lower_floor
from models.operations.audit import TOCSIN, record_audit, require_reason
from models.operations.dead import DeadSelection, describe_selection
from models.operations.tables import bulk_operations
from models.refusals import InvalidFields, NotFound
from models.serializers.operations import BulkOperationJson, BulkState, RequeuePreviewJson

DEFAULT_STOP_AFTER: Final = 10

COMMANDS_PER_STEP: Final = 100
"""How many commands a step requeues at most, in one transaction."""

UNSETTLED_AT_FIRST: Final = 100
"""How many requeued commands may be undecided at first. Each one that does not die again allows one more, so that a
requeue whose commands all die again stops after about this many, not after thousands."""

BUSY_SECONDS: Final = 2
"""How long a step waits for the lock of a subject if every subject is busy."""


def preview_requeue(connection: Connection, selection: DeadSelection) -> RequeuePreviewJson:
    """Return how many commands a requeue would take, and on how many subjects. Nothing is changed.

    :raises InvalidFields: the selection is not valid.
    """
    selection.require_valid()
    row = connection.exec_driver_sql(
        "SELECT count(*) AS matching, count(DISTINCT c.subject) AS subjects"  # noqa: S608 - our own condition
        f" FROM commands c WHERE {selection.condition}",
        selection.parameters,
    ).one()
    return {"matching": row.matching, "subjects": row.subjects}


def require_limits(rate_per_second: int | None, stop_after: int) -> None:
    """Require valid limits of a requeue.

    :raises InvalidFields: if one of them is not valid.
    """
    if rate_per_second is not None and not 1 <= rate_per_second <= 10_000:
        raise InvalidFields({"ratePerSecond": ["Ensure this value is between 1 and 10000."]})
    if not 1 <= stop_after <= 1_000_000:
        raise InvalidFields({"stopAfter": ["Ensure this value is between 1 and 1000000."]})


def start_requeue(
    connection: Connection,
    selection: DeadSelection,
    *,
    reason: str | None,
    by: str,
    rate_per_second: int | None = None,
    stop_after: int = DEFAULT_STOP_AFTER,
) -> BulkOperationJson:
    """Start a requeue of the commands that are dead now. A relay carries it out from the commit on.

    ``rate_per_second`` limits how fast, and after ``stop_after`` of them have died again it stops.

    :raises InvalidFields: the reason is missing, or another field is not valid.
    """
    text = require_reason(reason)
    require_limits(rate_per_second, stop_after)
    matching = preview_requeue(connection, selection)["matching"]
    values = {
        "who": by,
        "reason": text,
        "selection": selection.to_json(),
        "rate_per_second": rate_per_second,
        "stop_after": stop_after,
        "state": (BulkState.RUNNING if matching else BulkState.DONE).value,
        "matching": matching,
    }
    operation = connection.execute(insert(bulk_operations).values(values).returning(bulk_operations)).one()
    after = {"operation": str(operation.id), "matching": matching, "ratePerSecond": rate_per_second}
    record_audit(
        connection,
        by=by,
        action="dead.requeued",
        target=describe_selection(selection),
        reason=text,
        before={"status": CommandState.DEAD.value, **selection.to_json()},
        after=after | {"status": CommandState.ACCEPTED.value, "stopAfter": stop_after},
    )
    return _operation_json(operation)


def read_operation(connection: Connection, operation_id: int) -> BulkOperationJson:
    """Return a requeue.

    :raises NotFound: there is none with this id.
    """
    row = connection.execute(select(bulk_operations).where(bulk_operations.c.id == operation_id)).one_or_none()
    if row is None:
        raise NotFound
    return _operation_json(row)


def list_operations(connection: Connection, *, most: int = 20) -> list[BulkOperationJson]:
    """Return the latest requeues, newest first."""
    query = select(bulk_operations).order_by(bulk_operations.c.id.desc()).limit(most)
    return [_operation_json(row) for row in connection.execute(query)]


def stop_operation(connection: Connection, operation_id: int, *, reason: str | None, by: str) -> BulkOperationJson:
    """Stop a requeue, unless it has ended. What it has requeued stays requeued.

    :raises InvalidFields: the reason is missing.
    :raises NotFound: there is none with this id.
    """
    text = require_reason(reason)
    _end(connection, operation_id, BulkState.STOPPED, f"stopped by {by}: {text}", by=by, reason=text)
    return read_operation(connection, operation_id)


def _operation_json(row: Any) -> BulkOperationJson:
    return {
        "id": str(row.id),
        "state": BulkState(row.state),
        "matching": row.matching,
        "requeued": row.requeued,
        "diedAgain": row.died_again,
        "by": row.who,
        "reason": row.reason,
        "detail": row.detail or "",
    }


def _end(
    connection: Connection, operation_id: int, state: BulkState, detail: str | None, *, by: str, reason: str
) -> None:
    table = bulk_operations
    ended = connection.execute(
        update(table)
        .where(table.c.id == operation_id, table.c.state == BulkState.RUNNING.value)
        .values(state=state.value, detail=detail, ended_at=_now(connection))
        .returning(table)
    ).one_or_none()
    if ended is not None and state is BulkState.STOPPED:
        target = f"operation {operation_id}"
        after = {"requeued": ended.requeued, "diedAgain": ended.died_again, "matching": ended.matching}
        record_audit(connection, by=by, action="operation.stopped", target=target, reason=reason[:500], after=after)


def _now(connection: Connection) -> Any:
    return connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()


# --- carrying it out ---------------------------------------------------------------------------------------------


class Requeued(NamedTuple):
    """What a step requeued: a lane and the subject that needs a hint, and whether more can be done at once."""

    subjects: list[tuple[str, str]]
    continues: bool


# One relay at a time, and no waiting for one that is busy with it.
_RUNNING: Final = """
SELECT * FROM bulk_operations WHERE state = 'running' ORDER BY advanced_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""

_SETTLE: Final = f"""
WITH settled AS (
    UPDATE requeued_commands r SET is_settled = true, died_again = c.state = '{CommandState.DEAD}'
    FROM commands c
    WHERE r.operation_id = %(id)s AND NOT r.is_settled AND c.id = r.command_id AND c.state <> '{CommandState.ACCEPTED}'
    RETURNING r.died_again
)
UPDATE bulk_operations SET died_again = died_again + (SELECT count(*) FROM settled WHERE settled.died_again)
WHERE id = %(id)s
RETURNING died_again, requeued, (SELECT count(*) FROM requeued_commands WHERE operation_id = %(id)s AND NOT is_settled)
    - (SELECT count(*) FROM settled) AS unsettled,
    extract(epoch FROM clock_timestamp() - created_at)::float8 AS seconds
"""  # noqa: S608 - our own values

# In the order of acceptance: of two dead commands of a subject, the earlier one first.
_CANDIDATES: Final = """
SELECT c.id, c.seq, c.subject, c.lane FROM commands c
WHERE {condition} AND c.finished_at <= %(started)s
    AND NOT EXISTS (SELECT FROM requeued_commands r WHERE r.operation_id = %(operation)s AND r.command_id = c.id)
ORDER BY c.seq LIMIT %(most)s
"""

_TRY_LOCK: Final = """
SELECT s.subject FROM unnest(%(subjects)s::text[]) AS s(subject)
WHERE pg_try_advisory_xact_lock(hashtextextended('apply:' || s.subject, 0))
"""
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('apply:' || %(subject)s, 0))"

_REQUEUE: Final = f"""
WITH taken AS (
    SELECT c.id, c.finished_at, c.error, c.attempts + c.timeouts AS attempts FROM commands c
    WHERE c.id = ANY(%(ids)s::uuid[]) AND c.state = '{CommandState.DEAD}' ORDER BY c.seq FOR UPDATE
), recorded AS (
    INSERT INTO requeued_commands (operation_id, command_id, died_at, error, attempts)
    SELECT %(operation)s, id, finished_at, error, attempts FROM taken
)
UPDATE commands c SET state = '{CommandState.ACCEPTED}', attempts = 0, timeouts = 0, is_alone = false, error = NULL,
    fingerprint = NULL, next_attempt_at = NULL, finished_at = NULL, claimed_at = NULL
FROM taken WHERE c.id = taken.id
RETURNING c.seq, c.subject, c.lane
"""  # noqa: S608 - our own values

_COUNT: Final = """
UPDATE bulk_operations SET requeued = requeued + %(requeued)s, advanced_at = clock_timestamp() WHERE id = %(id)s
"""


def advance_requeue(connection: Connection) -> Requeued | None:
    """Carry out the next step of a running requeue, in the caller's transaction. Return ``None`` if there is none.

    Send hints for the subjects after the commit.
    """
    operation = connection.exec_driver_sql(_RUNNING).one_or_none()
    if operation is None:
        return None
    progress = connection.exec_driver_sql(_SETTLE, {"id": operation.id}).one()
    if progress.died_again >= operation.stop_after:
        detail = f"stopped because {progress.died_again} of the requeued commands died again"
        _end(connection, operation.id, BulkState.STOPPED, detail, by=TOCSIN, reason=detail)
        return Requeued([], continues=False)
    most = _allowance(operation, progress)
    candidates = _candidates(connection, operation, max(most, 1))
    if not candidates:
        if progress.unsettled == 0:
            _end(connection, operation.id, BulkState.DONE, None, by=TOCSIN, reason="")
        else:
            connection.exec_driver_sql(_COUNT, {"id": operation.id, "requeued": 0})
        return Requeued([], continues=False)
    requeued = _requeue(connection, operation.id, candidates) if most > 0 else []
    connection.exec_driver_sql(_COUNT, {"id": operation.id, "requeued": len(requeued)})
    if requeued:
        # Last, because it locks the floor until the commit.
        lower_floor(connection, min(row.seq for row in requeued))
    subjects = dict.fromkeys((row.lane, row.subject) for row in requeued)
    return Requeued(list(subjects), continues=len(requeued) == COMMANDS_PER_STEP)


def _allowance(operation: Any, progress: Any) -> int:
    """Return how many commands may be requeued now."""
    succeeded = progress.requeued - progress.unsettled - progress.died_again
    most: int = min(COMMANDS_PER_STEP, UNSETTLED_AT_FIRST + succeeded - progress.unsettled)
    if operation.rate_per_second is not None:
        # The first one at once.
        most = min(most, int(operation.rate_per_second * progress.seconds) + 1 - progress.requeued)
    return max(0, most)


def _candidates(connection: Connection, operation: Any, most: int) -> list[Any]:
    selection = DeadSelection.from_json(operation.selection)
    parameters = selection.parameters | {"operation": operation.id, "started": operation.created_at, "most": most}
    return list(connection.exec_driver_sql(_CANDIDATES.format(condition=selection.condition), parameters))


def _requeue(connection: Connection, operation_id: int, candidates: list[Any]) -> list[Any]:
    """Requeue those candidates whose subjects no worker has locked; if all are locked, wait for the first one."""
    subjects = list(dict.fromkeys(row.subject for row in candidates))
    locked = set(connection.exec_driver_sql(_TRY_LOCK, {"subjects": subjects}).scalars())
    if not locked:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'")
        connection.exec_driver_sql(_LOCK, {"subject": subjects[0]})
        locked = {subjects[0]}
    ids = [row.id for row in candidates if row.subject in locked]
    return list(connection.exec_driver_sql(_REQUEUE, {"ids": ids, "operation": operation_id}))
