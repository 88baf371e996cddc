"""Closing the incidents of alerts that Alertmanager no longer mentions.

Alertmanager says nothing about alerts that are resolved while they are silenced or inhibited, and forgets all alerts
when it loses its storage. ``?stale=`` in its URL says how long an incident may stay open without being mentioned.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.engine import Connection

from models.enums import IncidentStatus
from models.incidents.incident import IS_OPEN
from models.messaging.command_ledger import IS_WAITING, accept_commands
from tasks.commands.incidents import SetStatus
from workers.follow_ups import make_follow_up

MAX_CLOSED: Final = 1_000
"""The maximum number of incidents that are closed at once."""

# A waiting command on the incident's subject may mention the alerts, or be one that closes the incident.
_STALE: Final = f"""
SELECT organization_id, identifier, version, alerts_stale_seconds
FROM incidents i
WHERE {IS_OPEN} AND alerts_stale_at <= clock_timestamp() AND NOT EXISTS (
    SELECT FROM commands c
    WHERE c.subject = 'key:' || i.organization_id || ':' || md5(i.dedup_key) AND c.{IS_WAITING}
)
ORDER BY alerts_stale_at
LIMIT {MAX_CLOSED}
"""  # noqa: S608 - our own conditions


def close_stale_alerts(connection: Connection) -> list[str]:
    """Add a command to the ledger for each incident whose alerts are stale, and return the subjects of the commands.

    Each command closes its incident on the condition that the alerts have not been mentioned since.
    """
    return accept_commands(
        connection,
        [
            make_follow_up(
                SetStatus(
                    incident=str(row.identifier),
                    status=IncidentStatus.CLOSED,
                    comment=f"Alertmanager has not mentioned these alerts for {_duration(row.alerts_stale_seconds)}.",
                ),
                organization_id=row.organization_id,
            )._replace(expected_version=row.version)
            for row in connection.exec_driver_sql(_STALE)
        ],
    )


def _duration(seconds: int) -> str:
    """Return a duration as Prometheus writes it.

    >>> _duration(46_800), _duration(90)
    ('13h', '1m30s')
    """
    parts = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
