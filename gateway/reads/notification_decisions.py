"""Queries for the decisions on whether a person was notified."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import and_, select

from gateway.reads.database import QueryRunner
from gateway.reads.queries import is_readable_item
from models.directory.policy_facts import MEMBERSHIP_COLUMNS, actor_from_membership
from models.directory.tables import members, users
from models.incidents.incident import incidents
from models.notifications.derivation import (
    IncidentAccess,
    activity_event_from_row,
    explain_activities,
    select_activity_events,
    select_decisions,
)
from models.notifications.explanation import DECISION_COLUMNS, ExplainedDecision, decision_from_row
from models.notifications.notification import decisions, notifications
from models.policy import Actor, OrganizationFacts, ProjectFacts
from models.refusals import NotFound
from tasks.events import AUDIENCE_EVENTS

MAX_DECISIONS: Final = 1000
"""How many decisions about a person and an incident are returned, the newest ones."""

_AUDIENCE_TYPES: Final = tuple(event.type for event in AUDIENCE_EVENTS)


class DecisionQueries:
    """Queries for the decisions on whether people were notified."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def of_inbox_item(
        self, actor: Actor, organization: OrganizationFacts, notification: int
    ) -> list[ExplainedDecision]:
        """Return the decisions about a person and the activity of one of their inbox items, newest first.

        :raises NotFound: if there is no such item in the part of the person's inbox that they may read.
        """
        about_the_item = and_(
            decisions.c.activity_id == notifications.c.activity_id, decisions.c.user_id == notifications.c.user_id
        )
        rows = await self._rows(
            select(*DECISION_COLUMNS)
            .select_from(notifications.outerjoin(decisions, about_the_item))
            .where(notifications.c.id == notification, *is_readable_item(actor, organization))
            .order_by(decisions.c.at.desc(), decisions.c.channel)
        )
        if not rows:
            raise NotFound
        return [decision_from_row(row) for row in rows if row.channel is not None]

    async def of_incident(
        self, organization: OrganizationFacts, identifier: int, projects: Iterable[ProjectFacts], user: int
    ) -> list[ExplainedDecision]:
        """Return the decisions about a person and an incident's activities, recorded or derived, newest first.

        :raises NotFound: if there is no such incident, or if the person is not a member and no decision about them is
            recorded. Whether a stranger has an account is not revealed.
        """
        found = await self._rows(
            select(incidents.c.id).where(
                incidents.c.organization_id == organization.id, incidents.c.identifier == identifier
            )
        )
        person = await self._person(organization.id, user)
        if not found or person is None:
            raise NotFound
        incident = found[0].id
        own_events = select_activity_events(organization.id, identifier, incident, _AUDIENCE_TYPES)
        # The events first: see explain_activities.
        event_rows = await self._rows(own_events)
        decision_rows = await self._rows(select_decisions(incident, user))
        if person.role is None and not decision_rows:
            raise NotFound
        explained = explain_activities(
            map(activity_event_from_row, event_rows),
            map(decision_from_row, decision_rows),
            person,
            IncidentAccess(organization, tuple(projects)),
        )
        return [decision for activity in explained for decision in activity.decisions][:MAX_DECISIONS]

    async def _person(self, organization: int, user: int) -> Actor | None:
        in_organization = and_(members.c.user_id == users.c.id, members.c.organization_id == organization)
        rows = await self._rows(
            select(users.c.id, users.c.is_active, *MEMBERSHIP_COLUMNS)
            .select_from(users.outerjoin(members, in_organization))
            .where(users.c.id == user)
        )
        return actor_from_membership(rows[0] if rows[0].is_active else None, user_id=user) if rows else None
