"""The query for a person's preferences for messages."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import select

from gateway.reads.database import QueryRunner
from models.directory.policy_facts import (
    MEMBERSHIPS,
    ORGANIZATION_COLUMNS,
    actor_from_membership,
    organization_facts,
    project_from_row,
)
from models.enums import CallerKind
from models.incidents.queries import PROJECTS_OF_INCIDENTS
from models.notifications.preferences import Preferences
from models.notifications.stored_preferences import notification_preferences
from models.policy import Actor, ProjectFacts, may_read

_MUTES: Final = f"""
SELECT m.incident_id, {ORGANIZATION_COLUMNS}, membership.role, membership.teams
FROM incident_mutes m
JOIN incidents i ON i.id = m.incident_id
JOIN organizations o ON o.id = i.organization_id
LEFT JOIN LATERAL (
    {MEMBERSHIPS} WHERE members.organization_id = o.id AND members.user_id = m.user_id
) AS membership ON true
WHERE m.user_id = %(user)s AND m.until IS NULL
ORDER BY m.incident_id
"""  # noqa: S608 - our own columns


class StoredPreferences(NamedTuple):
    """A person's preferences with their version, which is 0 if nothing is set, and the incidents muted without end."""

    preferences: Preferences
    version: int
    muted_incidents: list[int]


class PreferenceQueries:
    """Queries for people's own preferences."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def preferences(self, actor: Actor) -> StoredPreferences:
        """Return a person's preferences. Muted incidents are limited to those that the person may read now."""
        # The version first: if the preferences change in between, a PUT with this version is refused.
        rows = await self._rows(
            select(notification_preferences.c.document, notification_preferences.c.version).where(
                notification_preferences.c.user_id == actor.user_id
            )
        )
        preferences = Preferences.from_document(rows[0].document if rows else None)
        return StoredPreferences(preferences, rows[0].version if rows else 0, await self._muted_incidents(actor))

    async def _muted_incidents(self, actor: Actor) -> list[int]:
        mutes = await self._rows(_MUTES, {"user": actor.user_id})
        if not mutes:
            return []
        projects: dict[int, list[ProjectFacts]] = {row.incident_id: [] for row in mutes}
        for row in await self._rows(PROJECTS_OF_INCIDENTS, {"ids": list(projects)}):
            projects[row.incident_id].append(project_from_row(row).facts)
        return [row.incident_id for row in mutes if _may_read(actor, row, projects[row.incident_id])]


def _may_read(actor: Actor, row: Any, projects: list[ProjectFacts]) -> bool:
    # A service acts in its own organization only.
    if actor.kind is CallerKind.SERVICE and actor.organization_id != row.organization_id:
        return False
    return may_read(actor_from_membership(row, user_id=actor.user_id), organization_facts(row), projects)
