"""Functions that write a batch's changes, with one bulk statement per table."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Final

import orjson
from sqlalchemy.engine import Connection

from models.base import insert_rows, update_rows
from models.incidents.activity import Activity, activities
from models.incidents.incident import Incident, incident_projects, incident_seen, incidents
from models.incidents.queries import ACTIVITY_COLUMNS, INCIDENT_COLUMNS
from models.incidents.subscription import subscriptions
from models.messaging.command_ledger import accept_commands
from models.messaging.outbox import write_events
from models.notifications.delivery import NewDelivery, deliveries
from models.notifications.notification import insert_decisions
from workers.batch.changes import Changes
from workers.batch.write_chat import write_chat_destinations
from workers.batch.write_observations import write_observations
from workers.batch.write_preferences import write_preferences
from workers.batch.write_rules import purge_rules, write_rules
from workers.batch.write_webhooks import write_webhooks

_INCIDENT_FIELDS: Final = tuple(column.name for column in INCIDENT_COLUMNS)
_ACTIVITY_FIELDS: Final = tuple(column.name for column in ACTIVITY_COLUMNS if column.name != "mentions")
_UPDATED_FIELDS: Final = (
    "id",
    "title",
    "status",
    "status_method",
    "date_started",
    "version",
    "event_sequence",
    "date_closed",
    "last_activity_at",
    "alerts_stale_at",
    "alerts_stale_seconds",
)
_EDITED_FIELDS: Final = ("id", "comment", "version")
_PAIRS: Final = "SELECT * FROM unnest(%(incidents)s::bigint[], %(users)s::bigint[])"

# If the notifier promotes an item meanwhile, the item gets another id and stays unread.
_READ_BY_ID: Final = """
UPDATE notifications SET date_read = clock_timestamp() WHERE id = ANY(%(ids)s::bigint[]) AND date_read IS NULL
"""
# An array, because a join might be planned as a scan of the whole table.
_READ_SLICES: Final = """
UPDATE notifications SET date_read = clock_timestamp()
WHERE date_read IS NULL AND id = ANY(ARRAY(
    SELECT unread.id
    FROM unnest(%(users)s::bigint[], %(organizations)s::bigint[], %(up_to)s::bigint[], %(most)s::bigint[])
        AS s(user_id, organization_id, up_to, most)
    CROSS JOIN LATERAL (
        SELECT n.id FROM notifications n
        WHERE n.user_id = s.user_id AND n.organization_id = s.organization_id
            AND n.date_read IS NULL AND NOT n.retracted AND n.id <= s.up_to
        ORDER BY n.id LIMIT s.most
    ) AS unread
))
"""


def write_changes(connection: Connection, changes: Changes) -> None:
    """Write all of a batch's changes in the batch's transaction."""
    # Rules first: when an incident is written, a database trigger copies its rule's facts into the list projection.
    write_rules(connection, changes.rules)
    opened = {incident.id for incident in changes.opened}
    known = [incident for incident in changes.updated.values() if incident.id not in opened]
    # Closed incidents first: another one with the same deduplication key may have been opened or reopened since.
    _update_incidents(connection, [incident for incident in known if not incident.is_open])
    insert_rows(connection, incidents, _INCIDENT_FIELDS, (_row(each, _INCIDENT_FIELDS) for each in changes.opened))
    insert_rows(
        connection,
        incident_projects,
        ("incident_id", "project_id"),
        ((incident.id, project) for incident in changes.opened for project in incident.projects),
    )
    _update_incidents(connection, [incident for incident in known if incident.is_open])
    insert_rows(
        connection,
        activities,
        (*_ACTIVITY_FIELDS, "notification_uuid", "mentions"),
        ((*_row(activity, _ACTIVITY_FIELDS), uuid, _mentions(activity)) for activity, uuid in changes.activities),
    )
    update_rows(
        connection,
        activities,
        (*_EDITED_FIELDS, "mentions"),
        ((*_row(comment, _EDITED_FIELDS), _mentions(comment)) for comment in changes.edited_comments.values()),
    )
    if changes.deleted_comments:
        connection.exec_driver_sql(
            "DELETE FROM incident_activities WHERE id = ANY(%(ids)s::bigint[])", {"ids": changes.deleted_comments}
        )
    if changes.unsubscribed:
        incidents_, users = zip(*changes.unsubscribed, strict=True)
        connection.exec_driver_sql(
            f"DELETE FROM incident_subscriptions WHERE (incident_id, user_id) IN ({_PAIRS})",  # noqa: S608
            {"incidents": list(incidents_), "users": list(users)},
        )
    insert_rows(
        connection,
        subscriptions,
        ("incident_id", "user_id", "reason", "date_added"),
        ((*pair, reason, at) for pair, (reason, at) in changes.subscribed.items()),
        "ON CONFLICT DO NOTHING",
    )
    insert_rows(
        connection,
        incident_seen,
        ("incident_id", "user_id", "last_seen"),
        ((*pair, at) for pair, at in changes.seen.items()),
        "ON CONFLICT (incident_id, user_id) DO UPDATE"
        " SET last_seen = greatest(incident_seen.last_seen, excluded.last_seen)",
    )
    _mark_as_read(connection, changes)
    write_preferences(connection, changes.preferences)
    write_observations(connection, changes.observed)
    purge_rules(connection, changes.rules)
    insert_decisions(connection, changes.decisions, "ON CONFLICT DO NOTHING")
    insert_rows(connection, deliveries, NewDelivery._fields, changes.deliveries, "ON CONFLICT DO NOTHING")
    write_webhooks(connection, changes.webhooks)
    write_chat_destinations(connection, changes.chat)
    accept_commands(connection, changes.follow_ups)
    write_events(connection, changes.events)


def _update_incidents(connection: Connection, updated: Iterable[Incident]) -> None:
    update_rows(connection, incidents, _UPDATED_FIELDS, (_row(incident, _UPDATED_FIELDS) for incident in updated))


def _mark_as_read(connection: Connection, changes: Changes) -> None:
    if changes.read_notifications:
        connection.exec_driver_sql(_READ_BY_ID, {"ids": changes.read_notifications})
    if changes.read_slices:
        users, organizations = zip(*changes.read_slices, strict=True)
        up_to, most = zip(*changes.read_slices.values(), strict=True)
        connection.exec_driver_sql(
            _READ_SLICES,
            {"users": list(users), "organizations": list(organizations), "up_to": list(up_to), "most": list(most)},
        )


def _row(entity: Any, columns: Iterable[str]) -> tuple[Any, ...]:
    """Return the entity's values for these columns, with integer enum members as plain integers for psycopg."""
    values = (getattr(entity, name) for name in columns)
    return tuple(int(value) if isinstance(value, IntEnum) else value for value in values)


def _mentions(activity: Activity) -> str | None:
    if not activity.mentioned_users and not activity.mentioned_teams:
        return None
    ever = {"users": sorted(activity.mentioned_users), "teams": sorted(activity.mentioned_teams)}
    return orjson.dumps(ever).decode()
