"""Who would be told by a comment, before anybody writes it.

The rules are those that post it and plan its news (:mod:`models.incidents.mentions`,
:mod:`models.notifications.suppression`); here is read what they ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from gateway.reads.database import QueryRunner
from gateway.reads.queries import PERSON_COLUMNS, person_from_row
from models.directory.policy_facts import PROJECT_COLUMNS, project_facts
from models.directory.tables import Person
from models.enums import CallerKind, DecisionOutcome, NotificationReason, Role
from models.incidents.mentions import Kind, MentionedTeam, parse, resolve_mentions
from models.notifications.suppression import Recipient, decide_notification, strongest_reasons
from models.policy import Actor, OrganizationFacts


@dataclass(frozen=True, slots=True)
class PreviewRecipient:
    """Somebody who would be told, and why."""

    person: Person
    reason: NotificationReason


@dataclass(frozen=True, slots=True)
class _Named:
    """Everyone and every team that mentions name, as :class:`models.incidents.mentions.Facts`."""

    names: Mapping[str, int]
    members: Mapping[int, frozenset[int] | None]
    teams: Mapping[int, MentionedTeam]

    def user_named(self, name: str) -> int | None:
        return self.names.get(name)

    def user_exists(self, user: int) -> bool:
        return user in self.members

    def teams_ever(self, user: int) -> Set[int] | None:
        return self.members.get(user)

    def team(self, team: int) -> MentionedTeam | None:
        return self.teams.get(team)


class CommentPreview:
    """Reads who would be told."""

    def __init__(self, reader: QueryRunner) -> None:
        self._rows = reader.rows

    async def recipients(
        self, organization: OrganizationFacts, identifier: int, mentions: Sequence[str | None], *, author: int | None
    ) -> list[PreviewRecipient]:
        """Everyone that a comment with these mentions would tell, by id.

        :raises InvalidFields: posting it would be refused for its mentions.
        """
        incident = {"organization": organization.id, "identifier": identifier}
        projects = tuple(project_facts(row) for row in await self._rows(_PROJECTS, incident))
        mentioned = resolve_mentions(
            mentions,
            await self._named(organization, mentions),
            organization=organization.id,
            attached_teams={team for project in projects for team in project.teams},
        )
        subscribers = [row.user_id for row in await self._rows(_SUBSCRIBERS, incident)]
        reasons = strongest_reasons(
            {
                NotificationReason.MENTION: mentioned.users,
                NotificationReason.TEAM_MENTION: mentioned.team_users,
                NotificationReason.SUBSCRIBED: subscribers,
            }
        )
        people = await self._rows(_PEOPLE, {"organization": organization.id, "ids": list(reasons)})
        return [
            PreviewRecipient(person_from_row(row), reasons[row.id])
            for row in people
            if decide_notification(
                Recipient(
                    _actor_of(row),
                    reasons[row.id],
                    is_author=row.id == author,
                    organization=organization,
                    projects=projects,
                )
            ).outcome
            is DecisionOutcome.DELIVERED
        ]

    async def _named(self, organization: OrganizationFacts, mentions: Sequence[str | None]) -> _Named:
        targets = [target for each in mentions if each is not None and (target := parse(each))]
        users = await self._rows(
            _MENTIONED,
            {
                "organization": organization.id,
                "ids": [target.id for target in targets if target.kind is Kind.USER],
                "names": [target.name for target in targets if target.kind is Kind.NAME],
            },
        )
        teams = await self._rows(_TEAMS, {"ids": [target.id for target in targets if target.kind is Kind.TEAM]})
        # The last to come wins: active accounts after inactive ones, older after younger, usernames after addresses.
        names = {row.email: row.id for row in users} | {row.username: row.id for row in users}
        return _Named(
            names,
            {row.id: frozenset(row.teams_ever) if row.is_member else None for row in users},
            {row.id: MentionedTeam(row.id, row.organization_id, frozenset(row.people)) for row in teams},
        )


def _actor_of(row: Any) -> Actor:
    return Actor(
        kind=CallerKind.USER,
        user_id=row.id,
        role=Role(row.role) if row.role and row.is_active else None,
        teams=frozenset(row.teams),
    )


_PROJECTS: Final = f"""
SELECT {PROJECT_COLUMNS}
FROM incidents i
JOIN incident_projects ip ON ip.incident_id = i.id
JOIN projects p ON p.id = ip.project_id
WHERE i.organization_id = %(organization)s AND i.identifier = %(identifier)s
"""  # noqa: S608 - our own columns

_SUBSCRIBERS: Final = """
SELECT s.user_id FROM incident_subscriptions s JOIN incidents i ON i.id = s.incident_id
WHERE i.organization_id = %(organization)s AND i.identifier = %(identifier)s
"""

_MENTIONED: Final = """
SELECT u.id, lower(u.username) AS username, lower(u.email) AS email, m.id IS NOT NULL AS is_member,
       ARRAY(SELECT tm.team_id FROM team_members tm WHERE tm.member_id = m.id) AS teams_ever
FROM users u LEFT JOIN members m ON m.user_id = u.id AND m.organization_id = %(organization)s
WHERE u.id = ANY(%(ids)s::bigint[]) OR lower(u.username) = ANY(%(names)s::text[])
   OR lower(u.email) = ANY(%(names)s::text[])
ORDER BY u.is_active, u.id DESC
"""

_TEAMS: Final = """
SELECT t.id, t.organization_id, coalesce(array_agg(u.id) FILTER (WHERE tm.is_active AND u.is_active), '{}') AS people
FROM teams t
LEFT JOIN team_members tm ON tm.team_id = t.id
LEFT JOIN members m ON m.id = tm.member_id AND m.organization_id = t.organization_id
LEFT JOIN users u ON u.id = m.user_id
WHERE t.id = ANY(%(ids)s::bigint[])
GROUP BY t.id
"""

_PEOPLE: Final = f"""
SELECT {PERSON_COLUMNS}, m.role, ARRAY(
    SELECT t.id FROM team_members tm JOIN teams t ON t.id = tm.team_id AND t.status = 'active'
    WHERE tm.member_id = m.id AND tm.is_active
) AS teams
FROM users u LEFT JOIN members m ON m.user_id = u.id AND m.organization_id = %(organization)s
WHERE u.id = ANY(%(ids)s::bigint[]) ORDER BY u.id
"""  # noqa: S608 - our own columns
