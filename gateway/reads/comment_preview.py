"""Previews of comments, which list the people whom a comment would notify.

Mentions are resolved, and recipients are chosen, by the same code as when a comment is posted
(:mod:`models.incidents.mentions`, :mod:`models.notifications.suppression`). This module loads the facts for that code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_, select

from gateway.reads.database import QueryRunner
from models.directory.policy_facts import (
    MEMBERSHIP_COLUMNS,
    PROJECT_COLUMNS,
    TEAMS_EVER,
    actor_from_membership,
    project_from_row,
)
from models.directory.queries import PERSON_COLUMNS, person_from_row
from models.directory.tables import Person, members, projects, users
from models.enums import DecisionOutcome, NotificationReason
from models.incidents.incident import incident_projects, incidents
from models.incidents.mentions import MentionedTeam, MentionKind, ids_by_name, parse_mention, resolve_mentions
from models.incidents.queries import MENTIONED_TEAMS, mentioned_team_from_row
from models.incidents.subscription import subscriptions
from models.notifications.reasons import strongest_reasons
from models.notifications.suppression import Recipient, decide_notification
from models.policy import OrganizationFacts


@dataclass(frozen=True, slots=True)
class PreviewRecipient:
    """A person whom a comment would notify, and the reason for the notification."""

    person: Person
    reason: NotificationReason


@dataclass(frozen=True, slots=True)
class _Directory:
    """The people and teams that mentions refer to, as :class:`models.incidents.mentions.Facts`.

    ``members`` maps the id of every account that was found to all its teams, past and present, or to ``None`` if the
    account is not a member.
    """

    names: Mapping[str, Sequence[int]]
    members: Mapping[int, frozenset[int] | None]
    teams: Mapping[int, MentionedTeam]

    def users_named(self, name: str) -> Sequence[int]:
        return self.names.get(name, ())

    def teams_ever(self, user: int) -> Set[int] | None:
        return self.members.get(user)

    def team(self, team: int) -> MentionedTeam | None:
        return self.teams.get(team)


class CommentPreview:
    """Determines whom a comment would notify, before it is posted."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def recipients(
        self, organization: OrganizationFacts, identifier: int, mentions: Sequence[str | None], *, author: int | None
    ) -> list[PreviewRecipient]:
        """Return the people whom a comment with these mentions would notify, in the order of their user ids.

        :raises InvalidFields: if a mention is invalid. The comment itself would be refused for the same reason.
        """
        is_incident = and_(incidents.c.organization_id == organization.id, incidents.c.identifier == identifier)
        project_rows = await self._rows(
            select(*PROJECT_COLUMNS).select_from(incidents.join(incident_projects).join(projects)).where(is_incident)
        )
        facts = tuple(project_from_row(row).facts for row in project_rows)
        mentioned = resolve_mentions(
            mentions,
            await self._load_mentioned(organization, mentions),
            organization=organization.id,
            attached_teams={team for project in facts for team in project.teams},
        )
        subscribers = await self._rows(
            select(subscriptions.c.user_id).join_from(subscriptions, incidents).where(is_incident)
        )
        reasons = strongest_reasons(
            {
                NotificationReason.MENTION: mentioned.users,
                NotificationReason.TEAM_MENTION: mentioned.team_users,
                NotificationReason.SUBSCRIBED: [row.user_id for row in subscribers],
            }
        )
        candidates = await self._rows(
            select(*PERSON_COLUMNS, *MEMBERSHIP_COLUMNS)
            .select_from(users.outerjoin(members, _is_member_of(organization)))
            .where(users.c.id.in_(reasons))
            .order_by(users.c.id)
        )
        return [
            PreviewRecipient(person_from_row(row), reasons[row.id])
            for row in candidates
            if decide_notification(
                Recipient(
                    actor_from_membership(row if row.is_active else None, user_id=row.id),
                    reasons[row.id],
                    is_author=row.id == author,
                    organization=organization,
                    projects=facts,
                )
            ).outcome
            is DecisionOutcome.DELIVERED
        ]

    async def _load_mentioned(self, organization: OrganizationFacts, mentions: Sequence[str | None]) -> _Directory:
        targets = [target for each in mentions if each is not None and (target := parse_mention(each))]
        named = [target.name for target in targets if target.kind is MentionKind.NAME]
        username, email = func.lower(users.c.username), func.lower(users.c.email)
        people = await self._rows(
            select(
                users.c.id,
                users.c.username,
                users.c.email,
                members.c.id.is_not(None).label("is_member"),
                TEAMS_EVER,
            )
            .select_from(users.outerjoin(members, _is_member_of(organization)))
            .where(
                or_(
                    users.c.id.in_([target.id for target in targets if target.kind is MentionKind.USER]),
                    username.in_(named),
                    email.in_(named),
                )
            )
            .order_by(users.c.is_active, users.c.id.desc())
        )
        team_ids = [target.id for target in targets if target.kind is MentionKind.TEAM]
        team_rows = await self._rows(MENTIONED_TEAMS, {"ids": team_ids})
        return _Directory(
            # Later rows are better matches: active accounts before inactive ones, older before younger.
            ids_by_name((row.id, row.username, row.email) for row in people),
            {row.id: frozenset(row.teams_ever) if row.is_member else None for row in people},
            {row.id: mentioned_team_from_row(row) for row in team_rows},
        )


def _is_member_of(organization: OrganizationFacts) -> ColumnElement[bool]:
    return and_(members.c.user_id == users.c.id, members.c.organization_id == organization.id)
