"""The gateway's read queries, which are limited to what the caller may read.

The policy decides who may read what. If the database paginates a list, that decision is a condition in the statement
(:func:`~gateway.reads.projects.is_accessible`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Select, Text, and_, exists, func, literal_column, or_, select

from gateway.http.pagination import Page
from gateway.reads.command_outcomes import COMMAND_COLUMNS
from gateway.reads.database import QueryRunner, Rows, paginate
from gateway.reads.projects import is_accessible
from models.directory.policy_facts import PROJECT_COLUMNS, project_from_row
from models.directory.queries import PERSON_COLUMNS, person_from_row
from models.directory.tables import (
    Person,
    members,
    organizations,
    project_teams,
    projects,
    team_members,
    teams,
    users,
)
from models.enums import ObjectStatus
from models.incidents.activity import activities
from models.incidents.incident import Incident, incident_projects, incident_seen, incidents
from models.incidents.queries import ACTIVITY_COLUMNS, INCIDENT_COLUMNS, incident_from_row
from models.incidents.subscription import subscriptions
from models.messaging.command_ledger import commands
from models.messaging.hold import FIND_HELD, HeldCommand, held_command_from_row
from models.notifications.notification import notifications
from models.notifications.stored_preferences import incident_mutes
from models.policy import Actor, OrganizationFacts, ProjectFacts
from models.refusals import NotFound
from models.role_scopes import GLOBAL_ROLES

AUTHOR_COLUMNS: Final = (
    users.c.id.label("author_id"),
    *(column for column in PERSON_COLUMNS if column is not users.c.id),
)
"""The columns for an author in a row that also holds an activity. The author's id is named ``author_id``."""

_IS_UNREAD: Final = (notifications.c.date_read.is_(None), notifications.c.retracted.is_(False))


class IncidentDetails(NamedTuple):
    """An incident with its details. ``projects`` holds slugs, and ``seen_by`` lists the latest viewer first."""

    incident: Incident
    projects: list[str]
    seen_by: list[tuple[Person, datetime]]
    is_subscribed: bool


class Mute(NamedTuple):
    """A person's mute of an incident, in force until ``until``; ``None`` stands for no end."""

    until: datetime | None


class Queries:
    """Queries for incidents, inboxes, the directory and the ledger. Each returns rows or entities."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def incident_projects(self, organization: int, identifier: int) -> list[ProjectFacts]:
        """Return the facts that the policy needs about an incident's projects (checks 10 and 11).

        :raises NotFound: if the organization has no incident with this number.
        """
        return _facts(await self._incident_projects(organization, identifier))

    async def incident_id(self, organization: int, identifier: int) -> int:
        """Return an incident's row id.

        :raises NotFound: if the organization has no incident with this number.
        """
        rows = await self._rows(select(incidents.c.id).where(_is_incident(organization, identifier)))
        if not rows:
            raise NotFound
        id_: int = rows[0].id
        return id_

    async def incident(
        self, organization: int, identifier: int, viewer: int | None
    ) -> tuple[IncidentDetails, list[ProjectFacts]]:
        """Return an incident's details, and the facts about the incident's projects that decide who may read it.

        :raises NotFound: if the organization has no incident with this number.
        """
        found = await self._rows(select(*INCIDENT_COLUMNS).where(_is_incident(organization, identifier)))
        project_rows = await self._incident_projects(organization, identifier)
        if not found:
            raise NotFound
        incident = incident_from_row(found[0])
        seen = await self._rows(
            select(*PERSON_COLUMNS, incident_seen.c.last_seen)
            .join_from(incident_seen, users)
            .where(incident_seen.c.incident_id == incident.id)
            .order_by(incident_seen.c.last_seen.desc(), users.c.id)
        )
        subscribed = await self._rows(
            select(subscriptions.c.user_id).where(
                subscriptions.c.incident_id == incident.id, subscriptions.c.user_id == viewer
            )
        )
        details = IncidentDetails(
            incident,
            projects=[row.slug for row in project_rows if row.slug is not None],
            seen_by=[(person_from_row(row), row.last_seen) for row in seen],
            is_subscribed=bool(subscribed),
        )
        return details, _facts(project_rows)

    async def mute(self, incident: int, user: int | None) -> Mute | None:
        """Return the person's mute of the incident with this row id, or ``None`` if none is in force."""
        c = incident_mutes.c
        rows = await self._rows(
            select(c.until).where(
                c.incident_id == incident,
                c.user_id == user,
                or_(c.until.is_(None), c.until > func.clock_timestamp()),
            )
        )
        return Mute(rows[0].until) if rows else None

    async def activities(self, organization: int, identifier: int, page: Page, *, descending: bool) -> Rows:
        """Return a page of an incident's activities, each with its author (:func:`author_from_row`)."""
        statement = (
            select(*ACTIVITY_COLUMNS, *AUTHOR_COLUMNS)
            .select_from(activities.join(incidents).outerjoin(users))
            .where(_is_incident(organization, identifier))
        )
        return await self._rows(
            paginate(statement, page, activities.c.date_added, activities.c.id, descending=descending)
        )

    async def subscribers(self, organization: OrganizationFacts, identifier: int, page: Page) -> Rows:
        """Return a page of the subscribers who may still read an incident, each with the subscription's ``reason``.

        :raises NotFound: if the organization has no incident with this number.
        """
        incident = await self.incident_id(organization.id, identifier)
        statement = (
            select(*PERSON_COLUMNS, subscriptions.c.reason)
            .join_from(subscriptions, users, and_(users.c.id == subscriptions.c.user_id, users.c.is_active))
            .join(members, and_(members.c.user_id == users.c.id, members.c.organization_id == organization.id))
            .where(subscriptions.c.incident_id == incident)
        )
        if not organization.open_membership:
            statement = statement.where(or_(members.c.role.in_(GLOBAL_ROLES), _is_on_a_team_of(incident)))
        return await self._rows(paginate(statement, page, users.c.id))

    async def organization(self, organization: int) -> Mapping[str, Any]:
        """Return an organization's row.

        :raises NotFound: if the organization does not exist.
        """
        rows = await self._rows(select(organizations).where(organizations.c.id == organization))
        if not rows:
            raise NotFound
        row: Mapping[str, Any] = rows[0]._mapping
        return row

    async def members(self, organization: int, text: str, page: Page) -> Rows:
        """Return a page of active members whose name, username or e-mail address contains the text.

        Each row holds the person's columns, ``member_id``, ``role``, and the slugs of the person's active ``teams``.
        """
        statement = (
            select(members.c.id.label("member_id"), members.c.role, *PERSON_COLUMNS, _team_slugs().label("teams"))
            .join_from(members, users, and_(users.c.id == members.c.user_id, users.c.is_active))
            .where(members.c.organization_id == organization)
            .where(_contains(text, users.c.name, users.c.username, users.c.email))
        )
        return await self._rows(paginate(statement, page, members.c.id))

    async def teams(self, organization: int, text: str, page: Page) -> Rows:
        """Return a page of active teams whose name or slug contains the text."""
        statement = (
            select(teams.c.id, teams.c.slug, teams.c.name, teams.c.status)
            .where(teams.c.organization_id == organization, teams.c.status == ObjectStatus.ACTIVE)
            .where(_contains(text, teams.c.name, teams.c.slug))
        )
        return await self._rows(paginate(statement, page, teams.c.slug))

    async def projects(self, actor: Actor, organization: OrganizationFacts, text: str, page: Page) -> Rows:
        """Return a page of projects that the actor has access to and whose name or slug contains the text."""
        statement = (
            select(projects.c.id, projects.c.slug, projects.c.name, projects.c.status)
            .where(projects.c.organization_id == organization.id, is_accessible(actor, organization))
            .where(_contains(text, projects.c.name, projects.c.slug))
        )
        return await self._rows(paginate(statement, page, projects.c.slug))

    async def inbox(self, actor: Actor, organization: OrganizationFacts, page: Page, *, unread: bool) -> Rows:
        """Return a page of a person's inbox, newest first, limited to incidents that the person may still read."""
        statement = (
            select(
                notifications.c.id,
                notifications.c.reason,
                notifications.c.event_id,
                notifications.c.event_type,
                notifications.c.activity_id,
                notifications.c.retracted,
                notifications.c.date_created,
                notifications.c.date_read,
                notifications.c.incident_id,
                incidents.c.identifier,
                incidents.c.title,
                activities.c.type.label("activity_type"),
                activities.c.value,
                activities.c.previous_value,
                activities.c.comment,
                users.c.id.label("author_id"),
                users.c.name.label("author_name"),
            )
            .join_from(notifications, incidents, incidents.c.id == notifications.c.incident_id)
            .outerjoin(activities, activities.c.id == notifications.c.activity_id)
            .outerjoin(users, users.c.id == activities.c.user_id)
            .where(*is_readable_item(actor, organization))
        )
        if unread:
            statement = statement.where(*_IS_UNREAD)
        return await self._rows(paginate(statement, page, notifications.c.id, descending=True))

    async def unread_count(self, actor: Actor, organization: OrganizationFacts) -> int:
        """Return the number of unread items in a person's inbox, limited to incidents the person may still read."""
        rows = await self._rows(
            select(func.count().label("unread"))
            .select_from(notifications)
            .where(*is_readable_item(actor, organization), *_IS_UNREAD)
        )
        count: int = rows[0].unread
        return count

    async def command(self, id_: UUID) -> Any:
        """Return a command's row with :data:`COMMAND_COLUMNS`, or ``None`` if there is none."""
        rows = await self._rows(
            select(*COMMAND_COLUMNS)
            .outerjoin_from(commands, organizations, organizations.c.id == commands.c.organization_id)
            .where(commands.c.id == id_)
        )
        return rows[0] if rows else None

    async def commands(
        self, organization: int, caller: str, page: Page, *, states: Sequence[str], types: Sequence[str]
    ) -> Rows:
        """Return a page of a caller's commands in an organization, newest first. Empty filters select all."""
        statement = (
            select(*COMMAND_COLUMNS)
            .join_from(commands, organizations, organizations.c.id == commands.c.organization_id)
            .where(commands.c.caller == caller, commands.c.organization_id == organization)
        )
        if states:
            statement = statement.where(commands.c.state.in_(states))
        if types:
            statement = statement.where(commands.c.type.in_(types))
        return await self._rows(paginate(statement, page, commands.c.seq, descending=True))

    async def held(self, id_: UUID) -> HeldCommand | None:
        """Return the hold that keeps a command from being applied, if any."""
        rows = await self._rows(FIND_HELD, {"ids": [id_]})
        return held_command_from_row(rows[0]) if rows else None

    async def schema_revision(self) -> str | None:
        """Return the database's schema revision, or ``None`` if its table of revisions is empty."""
        rows = await self._rows("SELECT version_num FROM alembic_version")
        return rows[0].version_num if rows else None

    async def _incident_projects(self, organization: int, identifier: int) -> Rows:
        rows = await self._rows(
            select(*PROJECT_COLUMNS)
            .select_from(incidents.outerjoin(incident_projects).outerjoin(projects))
            .where(_is_incident(organization, identifier))
            .order_by(projects.c.slug)
        )
        if not rows:
            raise NotFound
        return rows


def author_from_row(row: Any) -> Person | None:
    """Build an activity's author from a row with :data:`AUTHOR_COLUMNS`, or return ``None`` if tocsin itself acted."""
    return None if row.author_id is None else person_from_row(row, id_column="author_id")


def is_readable_item(actor: Actor, organization: OrganizationFacts) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that select the actor's inbox items, limited to incidents the actor may read."""
    on_a_project: Select[Any] = (
        select(literal_column("1"))
        .join_from(incident_projects, projects)
        .where(incident_projects.c.incident_id == notifications.c.incident_id, is_accessible(actor, organization))
    )
    return (
        notifications.c.user_id == actor.user_id,
        notifications.c.organization_id == organization.id,
        exists(on_a_project),
    )


def _facts(rows: Rows) -> list[ProjectFacts]:
    return [project_from_row(row).facts for row in rows if row.id is not None]


def _is_incident(organization: int, identifier: int) -> ColumnElement[bool]:
    return and_(incidents.c.organization_id == organization, incidents.c.identifier == identifier)


def _is_on_a_team_of(incident: int) -> ColumnElement[bool]:
    """Return the SQL condition that a member is on an active team of at least one of the incident's active projects."""
    memberships = incident_projects.join(projects).join(project_teams).join(teams).join(team_members)
    return exists(
        select(literal_column("1"))
        .select_from(memberships)
        .where(
            incident_projects.c.incident_id == incident,
            projects.c.status == ObjectStatus.ACTIVE,
            teams.c.status == ObjectStatus.ACTIVE,
            team_members.c.member_id == members.c.id,
            team_members.c.is_active,
        )
    )


def _team_slugs() -> ColumnElement[list[str]]:
    slugs = (
        select(teams.c.slug)
        .join_from(team_members, teams)
        .where(
            teams.c.status == ObjectStatus.ACTIVE,
            team_members.c.member_id == members.c.id,
            team_members.c.is_active,
        )
    )
    return func.array(slugs.correlate(members).scalar_subquery(), type_=ARRAY(Text))


def _contains(text: str, *columns: ColumnElement[str]) -> ColumnElement[bool]:
    # PostgreSQL cannot store NUL characters, so no name contains one.
    part = text.strip().lower().replace("\0", "\ufffd")
    return or_(*(func.strpos(func.lower(column), part) > 0 for column in columns))
