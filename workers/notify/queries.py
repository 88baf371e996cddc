"""The planner's queries: a fixed number per batch, whatever its size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from sqlalchemy.engine import Connection

from workers.notify.audience import Audiences, NotifiableEvent


def load_audiences(connection: Connection, events: Collection[NotifiableEvent]) -> Audiences:
    """Return the subscribers of the events' incidents and the members of the teams that the events mention."""
    subscribers: dict[int, list[int]] = defaultdict(list)
    incidents = list({event.incident_id for event in events})
    for row in connection.exec_driver_sql(_SUBSCRIBERS, {"incidents": incidents}).all():
        subscribers[row.incident_id].append(row.user_id)
    team_members: dict[tuple[int, int], list[int]] = defaultdict(list)
    if teams := list({team for event in events for team in event.mentioned_teams}):
        for row in connection.exec_driver_sql(_TEAM_MEMBERS, {"teams": teams}).all():
            team_members[row.organization_id, row.team_id].append(row.user_id)
    return Audiences(subscribers, team_members)


_SUBSCRIBERS = """
SELECT incident_id, user_id FROM incident_subscriptions WHERE incident_id = ANY(%(incidents)s::bigint[])
"""

_TEAM_MEMBERS = """
SELECT t.organization_id, t.id AS team_id, m.user_id
FROM teams t
JOIN team_members tm ON tm.team_id = t.id AND tm.is_active
JOIN members m ON m.id = tm.member_id AND m.organization_id = t.organization_id
JOIN users u ON u.id = m.user_id AND u.is_active
WHERE t.id = ANY(%(teams)s::bigint[])
"""
