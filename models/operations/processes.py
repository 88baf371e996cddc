"""Heartbeats: each process reports itself every ten seconds, and the reports give the list of processes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from models.enums import CommandState
from models.serializers.operations import ProcessJson, ProcessState
from models.timestamps import iso

HEARTBEAT_SECONDS: Final = 10.0
"""How many seconds pass between two reports of a process."""

GONE_AFTER: Final = timedelta(seconds=30)
"""A process that has not reported for this long counts as gone."""

SHOWN_FOR: Final = timedelta(hours=1)
"""How long a process that is gone is listed."""


class ProcessFacts(NamedTuple):
    """What a process knows about itself from the start. ``worker`` is its name in the record of batches in flight."""

    id: UUID
    kind: str
    host: str
    pid: int
    version: str
    lanes: Sequence[str] = ()
    worker: str | None = None


class ProcessReport(NamedTuple):
    """What a process reports. ``finished`` counts since the start what the process is for.

    A gateway counts accepted commands, a worker finished ones, a relay and a notifier events.
    """

    finished: int
    finished_per_minute: int | None
    rss_bytes: int | None


# An entry that expired, for example because the database was away, is written again.
REPORT: Final = """
INSERT INTO process_heartbeats AS p
    (id, kind, host, pid, version, lanes, worker, finished, finished_per_minute, rss_bytes)
VALUES (%(id)s, %(kind)s, %(host)s, %(pid)s, %(version)s, %(lanes)s::text[], %(worker)s, %(finished)s,
    %(finished_per_minute)s, %(rss_bytes)s)
ON CONFLICT (id) DO UPDATE SET last_seen_at = clock_timestamp(), finished = excluded.finished,
    finished_per_minute = excluded.finished_per_minute, rss_bytes = excluded.rss_bytes, ended_at = NULL
"""
"""The statement with which a process reports itself, with :func:`report_parameters`."""

END: Final = (
    "UPDATE process_heartbeats SET ended_at = clock_timestamp(), last_seen_at = clock_timestamp() WHERE id = %(id)s"
)
"""The statement with which a process says that it ends, with its id as ``id``."""


def report_parameters(facts: ProcessFacts, report: ProcessReport) -> dict[str, Any]:
    """Return the parameters for :data:`REPORT`."""
    return facts._asdict() | report._asdict() | {"lanes": [str(lane) for lane in facts.lanes]}


def prune_processes(connection: Connection) -> int:
    """Delete the processes that are no longer listed, and return their number."""
    return connection.exec_driver_sql(
        "DELETE FROM process_heartbeats WHERE last_seen_at < clock_timestamp() - %(shown)s", {"shown": SHOWN_FOR}
    ).rowcount


# The record of a worker's last batch stays until its next one: what is finished is no longer in hand.
_LIST: Final = f"""
SELECT p.*, p.ended_at IS NOT NULL OR p.last_seen_at < clock_timestamp() - %(gone)s AS is_gone,
       ARRAY(SELECT c.id::text FROM commands c
             WHERE c.id IN (SELECT jsonb_array_elements_text(b.commands)::uuid) AND c.state = '{CommandState.ACCEPTED}'
             ORDER BY c.id) AS in_hand
FROM process_heartbeats p LEFT JOIN batches_in_hand b ON b.worker = p.worker
WHERE p.last_seen_at > clock_timestamp() - %(shown)s
ORDER BY is_gone, p.kind, p.host, p.started_at DESC
"""  # noqa: S608 - our own value


def list_processes(connection: Connection) -> list[ProcessJson]:
    """Return all processes that have reported within the last hour, those that are gone last."""
    rows = connection.exec_driver_sql(_LIST, {"gone": GONE_AFTER, "shown": SHOWN_FOR})
    return [_process_json(row) for row in rows]


def _process_json(row: Any) -> ProcessJson:
    in_hand = [] if row.is_gone else list(row.in_hand)
    state = ProcessState.GONE if row.is_gone else ProcessState.BUSY if in_hand else ProcessState.IDLE
    # What else is busy than a worker with a batch in hand shows in its numbers.
    if state is ProcessState.IDLE and row.finished_per_minute:
        state = ProcessState.BUSY
    return {
        "id": str(row.id),
        "kind": row.kind,
        "host": row.host,
        "pid": row.pid,
        "version": row.version,
        "startedAt": iso(row.started_at),
        "lastSeenAt": iso(row.last_seen_at),
        "state": state,
        "lanes": list(row.lanes),
        "inHand": in_hand,
        "finishedPerMinute": None if row.is_gone else row.finished_per_minute,
        "rssBytes": None if row.is_gone else row.rss_bytes,
    }
