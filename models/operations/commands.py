"""Operators' search in the ledger. A command with its timeline is in :mod:`models.operations.command_details`.

A search reads a few index ranges, its *arms*, newest first, and filters what they return. Each arm reads at most
:data:`ROWS_PER_ARM` rows for a page, so a filter that hardly matches anything ends early and says where it continues,
instead of reading the whole ledger. docs/decisions/0033-ops-reads.md has the indexes and the measurements.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from models.enums import CommandState, Lane
from models.messaging.claims import FROM_FLOOR
from models.messaging.command_ledger import IS_DEAD, IS_ENDED, IS_OF_INCIDENT, IS_UNSUCCESSFUL, TRACE_ID
from models.messaging.hold import HeldCommand, find_held
from models.messaging.subject import INCIDENT_SUBJECT, SubjectKind, is_of_kind
from models.operations.keyset import Entry, Listing, Window
from models.operations.series import CLOCK_SLACK, first_id
from models.refusals import FIELD_REQUIRED, InvalidFields
from models.serializers.commands import held_by_json
from models.serializers.operations import ActorJson, CommandFactsJson, CommandRowJson, OutcomeStatusJson
from models.timestamps import iso, iso_or_none
from models.types import MAX_ID

ROWS_PER_ARM: Final = 20_000
"""How many rows of an arm a page reads at most."""

EVENTS_PER_INCIDENT: Final = 10_000
"""How many of an incident's newest events are searched for the commands that caused them."""


@dataclass(frozen=True, slots=True)
class CommandFilters:
    """What to search for. All filters that are given must match.

    ``organization`` is a slug, ``incident`` the number of one of its incidents, ``user`` a username or an id, and
    ``queue`` a lane. ``accepted_from`` and ``accepted_to`` limit the time of acceptance. ``query`` is a command id, an
    idempotency key, an event id, or a trace id.
    """

    organization: str | None = None
    incident: int | None = None
    user: str | None = None
    type: str | None = None
    state: CommandState | None = None
    queue: str | None = None
    accepted_from: datetime | None = None
    accepted_to: datetime | None = None
    query: str | None = None
    fingerprint: str | None = None


class _Arm(NamedTuple):
    """A range of an index: the conditions that select it, which may refer to the parameters of the search.

    ``source`` is a FROM item that the conditions may refer to, for example the list of types, and ``rows`` the number
    of rows that are read at most for each row of it.
    """

    conditions: str
    source: str = "(SELECT) AS one"
    rows: int = ROWS_PER_ARM


def search_commands(
    connection: Connection,
    filters: CommandFilters = CommandFilters(),
    window: Window = Window(),  # noqa: B008 - immutable
) -> Listing[CommandRowJson]:
    """Return the commands that match, newest first. Their key is ``(seq,)``.

    An organization, incident, user or query that does not exist matches nothing.

    :raises InvalidFields: ``incident`` is given without ``organization``.
    """
    rows, stopped_at = search_rows(connection, filters, window)
    held = _find_held(connection, rows)
    entries = [Entry((row.seq,), command_row_json(row, held.get(row.id))) for row in rows]
    return Listing(entries, None if stopped_at is None else (stopped_at,))


def search_rows(connection: Connection, filters: CommandFilters, window: Window) -> tuple[list[Any], int | None]:
    """Return the matching rows, with the columns of :data:`COLUMNS`, and the ``seq`` at which the search stopped."""
    parameters = _parameters(connection, filters, window)
    if parameters is None:
        return [], None
    arms = _arms(filters, parameters)
    conditions = _conditions(filters, window)
    found: dict[int, Any] = {}
    stops: list[int] = []
    for arm in arms:
        rows = connection.exec_driver_sql(_search_statement(arm, conditions, window), parameters).all()
        found |= {row.seq: row for row in rows}
        if len(rows) < window.limit:
            stop = connection.exec_driver_sql(_stop_statement(arm, conditions, window), parameters).scalar()
            if stop is not None:
                stops.append(stop)
    ordered = [found[seq] for seq in sorted(found, reverse=not window.backwards)]
    if not stops:
        return ordered[: window.limit], None
    # Beyond the first stop, another arm may have rows that were not read.
    stop = min(stops) if window.backwards else max(stops)
    complete = [row for row in ordered if (row.seq <= stop if window.backwards else row.seq >= stop)]
    return complete[: window.limit], None if len(complete) >= window.limit else stop


# --- the rows ----------------------------------------------------------------------------------------------------

COLUMNS: Final = """
c.id, c.seq, c.type, c.subject, c.lane, c.organization_id, o.slug AS organization, c.caller, c.user_id, u.username,
u.name AS user_name, c.state, c.accepted_at, c.claimed_at, c.finished_at, c.attempts,
c.outcome_status, c.error, c.fingerprint, c.request_id, c.traceparent
"""
"""The columns of a command in a list, for a query with :data:`JOINS`."""

JOINS: Final = """
LEFT JOIN organizations o ON o.id = c.organization_id
LEFT JOIN users u ON u.id = c.user_id
"""


def command_facts_json(row: Any, held: HeldCommand | None) -> CommandFactsJson:
    """Serialize what lists and details have in common, from a row with :data:`COLUMNS`."""
    return {
        "id": str(row.id),
        "type": row.type,
        "status": CommandState(row.state),
        "organization": row.organization,
        "acceptedAt": iso(row.accepted_at),
        "finishedAt": iso_or_none(row.finished_at),
        "attempts": row.attempts,
        "heldBy": held_by_json(held),
        "error": row.error,
        "subject": row.subject,
        "lane": row.lane,
        "actor": _actor_json(row),
        "waitMs": _milliseconds(row.accepted_at, row.claimed_at),
        "applyMs": _milliseconds(row.claimed_at, row.finished_at),
    }


def command_row_json(row: Any, held: HeldCommand | None) -> CommandRowJson:
    """Serialize a command in a list, from a row with :data:`COLUMNS`."""
    outcome: OutcomeStatusJson | None = None if row.outcome_status is None else {"status": int(row.outcome_status)}
    return {**command_facts_json(row, held), "outcome": outcome}


def _actor_json(row: Any) -> ActorJson:
    kind, _, rest = row.caller.partition(":")
    program = rest.partition(" as ")[0].partition(":")[2] if rest else ""
    if row.user_id is not None:
        name = row.username or f"user {row.user_id}"
        return {"type": kind, "id": str(row.user_id), "name": f"{program} as {name}" if program else name}
    return {"type": kind, "id": None, "name": program or kind}


def _milliseconds(start: datetime | None, end: datetime | None) -> float | None:
    if start is None or end is None:
        return None
    return max(0.0, round((end - start) / timedelta(milliseconds=1), 1))


def _find_held(connection: Connection, rows: Iterable[Any]) -> dict[UUID, HeldCommand]:
    waiting = [row.id for row in rows if row.state == CommandState.ACCEPTED]
    return find_held(connection, waiting) if waiting else {}


# --- statements --------------------------------------------------------------------------------------------------

_WAITING_ARM: Final = _Arm(f"{FROM_FLOOR} AND c.lane = arm.lane", "unnest(%(lanes)s::text[]) AS arm(lane)")
_WAITING_OF_SUBJECT_ARM: Final = _Arm(f"{FROM_FLOOR} AND c.subject = %(subject)s")
_SUBJECT_ARM: Final = _Arm(f"c.{IS_ENDED} AND {IS_OF_INCIDENT} AND c.subject = %(subject)s")
_IDS_ARM: Final = _Arm("c.id = ANY(%(ids)s::uuid[])")
_USER_ARM: Final = _Arm(f"c.{IS_ENDED} AND c.user_id = %(user)s")
_FINGERPRINT_ARM: Final = _Arm(f"c.{IS_DEAD} AND c.fingerprint = %(fingerprint)s")
_UNSUCCESSFUL_ARM: Final = _Arm(f"c.{IS_UNSUCCESSFUL} AND c.state = %(state)s")
_TYPE_OF_ORGANIZATION_ARM: Final = _Arm(f"c.{IS_ENDED} AND c.type = %(type)s AND c.organization_id = %(organization)s")
# Lists the types one by one, by the index.
_ORGANIZATION_ARM: Final = _Arm(
    f"c.{IS_ENDED} AND c.type = arm.type AND c.organization_id = %(organization)s",
    f"""(
        WITH RECURSIVE types AS (
            (SELECT t.type FROM commands t WHERE t.{IS_ENDED} ORDER BY t.type LIMIT 1)
            UNION ALL
            SELECT (SELECT t.type FROM commands t WHERE t.{IS_ENDED} AND t.type > types.type ORDER BY t.type LIMIT 1)
            FROM types WHERE types.type IS NOT NULL
        ) SELECT type FROM types WHERE type IS NOT NULL
    ) AS arm""",  # noqa: S608 - our own condition
    rows=ROWS_PER_ARM // 10,
)
_EVERY_ARM: Final = _Arm(f"c.{IS_ENDED}")


def _arms(filters: CommandFilters, parameters: dict[str, Any]) -> Sequence[_Arm]:
    if filters.query is not None:
        return [_IDS_ARM]
    waiting = filters.state in (None, CommandState.ACCEPTED)
    ended = filters.state is not CommandState.ACCEPTED
    if filters.incident is not None:
        # Of an incident that shares its subject, the commands that have ended are found by its events alone.
        by_subject = ended and parameters["is_own_subject"]
        own = [_IDS_ARM, *([_WAITING_OF_SUBJECT_ARM] if waiting else []), *([_SUBJECT_ARM] if by_subject else [])]
        return own if parameters["subject"] else [_IDS_ARM]
    arms = [_WAITING_ARM] if waiting else []
    if ended:
        arms.append(_ended_arm(filters))
    return arms


def _ended_arm(filters: CommandFilters) -> _Arm:
    if filters.fingerprint is not None:
        return _FINGERPRINT_ARM
    if filters.user is not None:
        return _USER_ARM
    if filters.state in (CommandState.REJECTED, CommandState.DEAD, CommandState.DISCARDED):
        return _UNSUCCESSFUL_ARM
    if filters.organization is not None:
        return _ORGANIZATION_ARM if filters.type is None else _TYPE_OF_ORGANIZATION_ARM
    return _EVERY_ARM


def _conditions(filters: CommandFilters, window: Window) -> tuple[str, str]:
    """Return the conditions on ``seq``, which bound the index ranges, and the other conditions."""
    by_seq = ["true"]
    if window.key is not None:
        by_seq.append(f"c.seq {window.operator} %(key)s")
    if filters.accepted_from is not None:
        by_seq.append("c.seq >= %(first_seq)s")
    if filters.accepted_to is not None:
        by_seq.append("c.seq <= %(last_seq)s")
    others = ["true"]
    equal = {
        "organization": "c.organization_id = %(organization)s",
        "user": "c.user_id = %(user)s",
        "type": "c.type = %(type)s",
        "state": "c.state = %(state)s",
        "queue": "c.lane = %(queue)s",
        "fingerprint": "c.fingerprint = %(fingerprint)s",
        "accepted_from": "c.accepted_at >= %(from)s",
        "accepted_to": "c.accepted_at <= %(to)s",
    }
    others += [condition for name, condition in equal.items() if getattr(filters, name) is not None]
    if filters.incident is not None:
        # A subject may be shared by all incidents of a rule or a key.
        others.append(
            "(%(is_own_subject)s AND c.subject = %(subject)s OR c.payload ->> 'incident' = %(number)s"
            " OR c.id = ANY(%(ids)s::uuid[]))"
        )
    return " AND ".join(by_seq), " AND ".join(others)


def _search_statement(arm: _Arm, conditions: tuple[str, str], window: Window) -> str:
    by_seq, others = conditions
    return f"""
SELECT {COLUMNS} FROM (
    SELECT c.* FROM {arm.source} CROSS JOIN LATERAL (
        SELECT c.* FROM (
            SELECT c.* FROM commands c WHERE {arm.conditions} AND {by_seq}
            ORDER BY c.seq {window.direction} LIMIT {arm.rows}
        ) AS c WHERE {others} ORDER BY c.seq {window.direction} LIMIT %(limit)s
    ) AS c ORDER BY c.seq {window.direction} LIMIT %(limit)s
) AS c {JOINS} ORDER BY c.seq {window.direction}
"""  # noqa: S608 - our own conditions


def _stop_statement(arm: _Arm, conditions: tuple[str, str], window: Window) -> str:
    by_seq, _ = conditions
    extreme = "min" if window.backwards else "max"
    return f"""
SELECT {extreme}(stop.seq) FROM {arm.source} CROSS JOIN LATERAL (
    SELECT c.seq FROM commands c WHERE {arm.conditions} AND {by_seq}
    ORDER BY c.seq {window.direction} LIMIT 1 OFFSET {arm.rows - 1}
) AS stop
"""  # noqa: S608 - our own conditions


# --- parameters --------------------------------------------------------------------------------------------------

# The ids around the moment are ordered like seq, apart from commands that were accepted at the same time.
_FIRST_SEQ: Final = "SELECT min(seq) FROM (SELECT seq FROM commands WHERE id >= %(id)s ORDER BY id LIMIT 1000) AS first"
_LAST_SEQ: Final = (
    "SELECT max(seq) FROM (SELECT seq FROM commands WHERE id < %(id)s ORDER BY id DESC LIMIT 1000) AS last"
)


def _parameters(connection: Connection, filters: CommandFilters, window: Window) -> dict[str, Any] | None:
    """Return the parameters of the statements, or ``None`` if a filter names something that does not exist."""
    if filters.incident is not None and filters.organization is None:
        raise InvalidFields({"organization": [FIELD_REQUIRED]})
    parameters: dict[str, Any] = {
        "limit": window.limit,
        "key": None if window.key is None else window.key[0],
        "lanes": [filters.queue] if filters.queue is not None else [lane.value for lane in Lane],
        "type": filters.type,
        "state": filters.state,
        "queue": filters.queue,
        "fingerprint": filters.fingerprint,
        "from": filters.accepted_from,
        "to": filters.accepted_to,
    }
    if filters.organization is not None:
        parameters["organization"] = find_organization(connection, filters.organization)
    if filters.user is not None:
        parameters["user"] = find_user(connection, filters.user)
    if filters.accepted_from is not None:
        id_ = first_id(filters.accepted_from - CLOCK_SLACK)
        parameters["first_seq"] = connection.exec_driver_sql(_FIRST_SEQ, {"id": id_}).scalar()
    if filters.accepted_to is not None:
        id_ = first_id(filters.accepted_to + CLOCK_SLACK)
        parameters["last_seq"] = connection.exec_driver_sql(_LAST_SEQ, {"id": id_}).scalar()
    if filters.query is not None:
        parameters["ids"] = _find_ids(connection, filters.query)
    elif filters.incident is not None:
        parameters |= _incident_parameters(connection, parameters["organization"], filters.incident)
    looked_up = ("organization", "user", "first_seq", "last_seq")
    return None if any(name in parameters and parameters[name] is None for name in looked_up) else parameters


def find_organization(connection: Connection, slug: str) -> int | None:
    """Return the id of the organization with this slug."""
    id_: int | None = connection.exec_driver_sql("SELECT id FROM organizations WHERE slug = %s", (slug,)).scalar()
    return id_


def find_user(connection: Connection, name: str) -> int | None:
    """Return the id of the user with this username or id. A username wins."""
    number = int(name) if name.isascii() and name.isdigit() and len(name) < 19 else 0
    id_: int | None = connection.exec_driver_sql(
        "SELECT id FROM users WHERE lower(username) = lower(%(name)s) OR id = %(number)s"
        " ORDER BY lower(username) = lower(%(name)s) DESC LIMIT 1",
        {"name": name, "number": number},
    ).scalar()
    return id_


_INCIDENT: Final = f"""
SELECT i.id, {INCIDENT_SUBJECT} AS subject FROM incidents i
WHERE i.organization_id = %(organization)s AND i.identifier = %(number)s
"""  # noqa: S608 - our own expression

_COMMANDS_OF_EVENTS: Final = """
SELECT DISTINCT command_id FROM (
    SELECT command_id FROM events WHERE organization_id = %(organization)s AND subject = %(subject)s
    ORDER BY sequence DESC LIMIT %(most)s
) AS newest WHERE command_id IS NOT NULL
"""


def _incident_parameters(connection: Connection, organization: int | None, number: int) -> dict[str, Any]:
    named = {"number": number if 0 < number <= MAX_ID else 0, "organization": organization}
    incident = connection.exec_driver_sql(_INCIDENT, named).one_or_none()
    if incident is None:
        return {"subject": None, "ids": [], "number": str(number), "is_own_subject": False}
    parameters = {"organization": organization, "subject": f"incidents/{number}", "most": EVENTS_PER_INCIDENT}
    ids = connection.exec_driver_sql(_COMMANDS_OF_EVENTS, parameters).scalars().all()
    return {
        "subject": incident.subject,
        "is_own_subject": is_of_kind(incident.subject, SubjectKind.INCIDENT),
        "number": str(number),
        "ids": list(ids),
    }


# The primary key is (caller, key): the callers are listed one by one, by its index.
_COMMANDS_OF_KEY: Final = """
WITH RECURSIVE callers AS (
    (SELECT caller FROM idempotency_keys ORDER BY caller LIMIT 1)
    UNION ALL
    SELECT (SELECT k.caller FROM idempotency_keys k WHERE k.caller > callers.caller ORDER BY k.caller LIMIT 1)
    FROM callers WHERE callers.caller IS NOT NULL
)
SELECT jsonb_array_elements_text(k.command_ids)::uuid AS id
FROM callers JOIN idempotency_keys k ON k.caller = callers.caller AND k.key = %(text)s
"""
_COMMANDS_OF_TRACE: Final = f"SELECT id FROM commands WHERE traceparent IS NOT NULL AND {TRACE_ID} = %(text)s"  # noqa: S608
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")


def _find_ids(connection: Connection, query: str) -> list[UUID]:
    """Return the ids of the commands that the text names: by id, event, trace, or idempotency key."""
    text = query.strip().replace("\x00", "")
    ids: set[UUID] = set(connection.exec_driver_sql(_COMMANDS_OF_KEY, {"text": text}).scalars())
    if _TRACE_ID.fullmatch(text.lower()):
        ids |= set(connection.exec_driver_sql(_COMMANDS_OF_TRACE, {"text": text.lower()}).scalars())
    try:
        id_ = UUID(text)
    except ValueError:
        return list(ids)
    command = connection.exec_driver_sql("SELECT command_id FROM events WHERE id = %(id)s", {"id": id_}).scalar()
    return [*ids, id_, *([command] if command else [])]
