"""Functions that write a batch's changes to people's preferences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson
from sqlalchemy.engine import Connection

from models.base import insert_rows
from models.notifications.stored_preferences import incident_mutes, notification_preferences
from workers.batch.changes import PreferenceChanges

_UNMUTE: Final = """
DELETE FROM incident_mutes
WHERE (incident_id, user_id) IN (SELECT * FROM unnest(%(incidents)s::bigint[], %(users)s::bigint[]))
"""


def write_preferences(connection: Connection, changes: Mapping[int, PreferenceChanges]) -> None:
    """Write documents, versions and muted incidents, by user id."""
    _write_documents(connection, {user: each for user, each in changes.items() if each.document is not None})
    insert_rows(
        connection,
        notification_preferences,
        ("user_id", "version"),
        ((user, each.version) for user, each in changes.items() if each.document is None),
        "ON CONFLICT (user_id) DO UPDATE SET version = excluded.version, date_modified = excluded.date_modified",
    )
    mutes = [(id_, user, mute) for user, each in changes.items() for id_, mute in each.mutes.items()]
    if ended := [(id_, user) for id_, user, mute in mutes if mute is None]:
        incidents, users = zip(*ended, strict=True)
        connection.exec_driver_sql(_UNMUTE, {"incidents": list(incidents), "users": list(users)})
    insert_rows(
        connection,
        incident_mutes,
        ("incident_id", "user_id", "until"),
        ((id_, user, mute.until) for id_, user, mute in mutes if mute is not None),
        "ON CONFLICT (incident_id, user_id) DO UPDATE SET until = excluded.until",
    )


def _write_documents(connection: Connection, changes: Mapping[int, PreferenceChanges]) -> None:
    insert_rows(
        connection,
        notification_preferences,
        ("user_id", "document", "version"),
        ((user, orjson.dumps(each.document).decode(), each.version) for user, each in changes.items()),
        "ON CONFLICT (user_id) DO UPDATE SET document = excluded.document, version = excluded.version,"
        " date_modified = excluded.date_modified",
    )
