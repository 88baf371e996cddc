"""What may be read, already filtered for the reader.

The policy decides; where the database must cut a list into pages, its verdict goes along as two facts: whether the
reader reaches every active project, and which teams open the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from gateway.http.pagination import Page
from gateway.reads.database import QueryRunner, Rows
from gateway.reads.incident_filters import Project
from models.directory.policy_facts import PROJECT_COLUMNS, project_facts
from models.directory.tables import Person
from models.enums import ActivityType, IncidentStatus, IncidentType, StatusMethod
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.messaging.canary import ALL_QUEUES, CANARY_STATUS, CanaryStatus, canary_status_from_row
from models.policy import Actor, OrganizationFacts, ProjectFacts, has_project_access
from models.refusals import NotFound
from models.scopes import GLOBAL_ROLES

PERSON_COLUMNS: Final = "u.id, u.username, u.name, u.email, u.is_active, u.is_superuser, u.date_joined"

INCIDENT_COLUMNS: Final = """i.id, i.organization_id, i.identifier, i.title, i.status, i.status_method, i.type,
       i.dedup_key, i.version, i.event_sequence, i.date_started, i.date_detected, i.date_added, i.date_closed,
       i.last_activity_at, i.alert_rule_id, i.alert_rule_generation"""

_ACTIVITY_FIELDS: Final = (
    "id", "incident_id", "user_id", "type", "value", "previous_value", "comment", "date_added", "version",
)  # fmt: skip

ACTIVITY_COLUMNS: Final = (
    ", ".join(f"a.{name}" for name in _ACTIVITY_FIELDS)
    + ", u.id AS author, u.username, u.name, u.email, u.is_active, u.is_superuser, u.date_joined"
)
"""An activity with its author, if it has one."""

PROJECTS: Final = f"""
SELECT {PROJECT_COLUMNS} FROM projects p WHERE p.organization_id = %(organization)s ORDER BY p.id
"""  # noqa: S608 - our own columns
"""The projects of an organization with their policy facts."""

_INCIDENT: Final = f"""
SELECT {INCIDENT_COLUMNS}
FROM incidents i WHERE i.organization_id = %(organization)s AND i.identifier = %(identifier)s
"""  # noqa: S608 - our own columns

_INCIDENT_PROJECTS: Final = f"""
SELECT i.id AS incident, {PROJECT_COLUMNS}
FROM incidents i
LEFT JOIN incident_projects ip ON ip.incident_id = i.id
LEFT JOIN projects p ON p.id = ip.project_id
WHERE i.organization_id = %(organization)s AND i.identifier = %(identifier)s
ORDER BY p.slug
"""  # noqa: S608 - our own columns

# The policy's project access, for the reader described by %(all)s and %(teams)s.
_REACHES: Final = """(p.status = 'active' AND (%(all)s OR EXISTS (
    SELECT 1 FROM project_teams pt WHERE pt.project_id = p.id AND pt.team_id = ANY(%(teams)s::bigint[]))))"""

_READABLE: Final = f"""EXISTS (
    SELECT 1 FROM incident_projects ip JOIN projects p ON p.id = ip.project_id
    WHERE ip.incident_id = n.incident_id AND {_REACHES})"""  # noqa: S608 - our own words

# The same for a list of people, each with a place in the organization.
_SUBSCRIBERS: Final = f"""
SELECT {PERSON_COLUMNS}, s.reason
FROM incident_subscriptions s
JOIN users u ON u.id = s.user_id AND u.is_active
JOIN members m ON m.user_id = u.id AND m.organization_id = %(organization)s
WHERE s.incident_id = %(incident)s AND (%(open)s OR m.role = ANY(%(global)s::text[]) OR EXISTS (
    SELECT 1 FROM incident_projects ip
    JOIN projects p ON p.id = ip.project_id AND p.status = 'active'
    JOIN project_teams pt ON pt.project_id = p.id
    JOIN teams t ON t.id = pt.team_id AND t.status = 'active'
    JOIN team_members tm ON tm.team_id = t.id AND tm.member_id = m.id AND tm.is_active
    WHERE ip.incident_id = s.incident_id))
"""  # noqa: S608 - our own columns

_MEMBERS: Final = f"""
SELECT m.id AS member_id, m.role, {PERSON_COLUMNS}, ARRAY(
    SELECT t.slug FROM team_members tm JOIN teams t ON t.id = tm.team_id AND t.status = 'active'
    WHERE tm.member_id = m.id AND tm.is_active
) AS teams
FROM members m JOIN users u ON u.id = m.user_id AND u.is_active
WHERE m.organization_id = %(organization)s AND (%(wanted)s = '' OR strpos(lower(u.name), %(wanted)s) > 0
      OR strpos(lower(u.username), %(wanted)s) > 0 OR strpos(lower(u.email), %(wanted)s) > 0)
"""  # noqa: S608

_NAMED: Final = "(%(wanted)s = '' OR strpos(lower(p.name), %(wanted)s) > 0 OR strpos(lower(p.slug), %(wanted)s) > 0)"

_INBOX: Final = f"""
SELECT n.id, n.reason, n.event_id, n.event_type, n.activity_id, n.retracted, n.date_created, n.date_read,
       i.identifier, i.title, a.type AS activity_type, a.value, a.previous_value, a.comment
FROM notifications n
JOIN incidents i ON i.id = n.incident_id
LEFT JOIN incident_activities a ON a.id = n.activity_id
WHERE n.user_id = %(user)s AND n.organization_id = %(organization)s AND {_READABLE}
"""  # noqa: S608

_UNREAD: Final = f"""
SELECT count(*) FROM notifications n
WHERE n.user_id = %(user)s AND n.organization_id = %(organization)s AND n.date_read IS NULL AND {_READABLE}
"""  # noqa: S608


class IncidentDetails(NamedTuple):
    """An incident by itself; ``seen_by`` is most recent first."""

    incident: Incident
    projects: list[str]
    seen_by: list[tuple[Person, datetime]]
    is_subscribed: bool


class Queries:
    """Reads, each with a name."""

    def __init__(self, reader: QueryRunner) -> None:
        self._rows = reader.rows

    async def incident_projects(self, organization: int, identifier: int) -> list[ProjectFacts]:
        """The projects of an incident, as the policy asks for them (steps 10 and 11).

        :raises NotFound: the organization has no incident of this number.
        """
        rows = await self._rows(_INCIDENT_PROJECTS, {"organization": organization, "identifier": identifier})
        if not rows:
            raise NotFound
        return _facts(rows)

    async def incident_id(self, organization: int, identifier: int) -> int:
        """The id of an incident by its number.

        :raises NotFound: the organization has no incident of this number.
        """
        rows = await self._rows(_INCIDENT, {"organization": organization, "identifier": identifier})
        if not rows:
            raise NotFound
        id_: int = rows[0].id
        return id_

    async def incident(
        self, organization: int, identifier: int, viewer: int | None
    ) -> tuple[IncidentDetails, list[ProjectFacts]]:
        """An incident's details, with the facts that decide who may read them.

        :raises NotFound: the organization has no incident of this number.
        """
        named = {"organization": organization, "identifier": identifier}
        found, projects = await self._rows(_INCIDENT, named), await self._rows(_INCIDENT_PROJECTS, named)
        if not found or not projects:
            raise NotFound
        incident = incident_of(found[0])
        seen = await self._rows(
            f"SELECT {PERSON_COLUMNS}, s.last_seen FROM incident_seen s JOIN users u ON u.id = s.user_id"  # noqa: S608
            " WHERE s.incident_id = %(incident)s ORDER BY s.last_seen DESC, u.id",
            {"incident": incident.id},
        )
        subscribed = await self._rows(
            "SELECT 1 FROM incident_subscriptions WHERE incident_id = %(incident)s AND user_id = %(viewer)s",
            {"incident": incident.id, "viewer": viewer},
        )
        slugs = [row.slug for row in projects if row.slug is not None]
        details = IncidentDetails(
            incident, slugs, [(person_from_row(row), row.last_seen) for row in seen], bool(subscribed)
        )
        return details, _facts(projects)

    async def activities(self, organization: int, identifier: int, page: Page, *, descending: bool) -> Rows:
        """What happened on an incident, one page; each row with its author."""
        return await self._rows(
            f"SELECT {ACTIVITY_COLUMNS}"  # noqa: S608
            " FROM incident_activities a JOIN incidents i ON i.id = a.incident_id LEFT JOIN users u ON u.id = a.user_id"
            " WHERE i.organization_id = %(organization)s AND i.identifier = %(identifier)s "
            + page.keyset_clause(("a.date_added", "a.id"), descending=descending),
            {"organization": organization, "identifier": identifier} | page.parameters,
        )

    async def subscribers(self, organization: OrganizationFacts, identifier: int, page: Page) -> Rows:
        """Who will hear of a change, one page: subscribers who may read the incident now."""
        incident = await self._rows(_INCIDENT, {"organization": organization.id, "identifier": identifier})
        if not incident:
            raise NotFound
        parameters = {
            "organization": organization.id,
            "incident": incident[0].id,
            "open": organization.open_membership,
            "global": [role.value for role in GLOBAL_ROLES],
        }
        return await self._rows(_SUBSCRIBERS + page.keyset_clause(("u.id",)), parameters | page.parameters)

    async def organization(self, organization: int) -> Mapping[str, Any]:
        """An organization's row."""
        rows = await self._rows("SELECT * FROM organizations WHERE id = %(id)s", {"id": organization})
        if not rows:
            raise NotFound
        row: Mapping[str, Any] = rows[0]._mapping
        return row

    async def members(self, organization: int, wanted: str, page: Page) -> Rows:
        """Active people of the organization whose name, username or address contains the text, one page."""
        parameters = {"organization": organization, "wanted": _plain(wanted)}
        return await self._rows(_MEMBERS + page.keyset_clause(("m.id",)), parameters | page.parameters)

    async def teams(self, organization: int, wanted: str, page: Page) -> Rows:
        """Active teams of the organization whose name or slug contains the text, one page."""
        return await self._rows(
            f"SELECT p.id, p.slug, p.name, p.status FROM teams p WHERE p.organization_id = %(organization)s"  # noqa: S608
            f" AND p.status = 'active' AND {_NAMED} {page.keyset_clause(('p.slug',))}",
            {"organization": organization, "wanted": _plain(wanted)} | page.parameters,
        )

    async def projects(self, actor: Actor, organization: OrganizationFacts, wanted: str, page: Page) -> Rows:
        """Projects that the actor reaches and whose name or slug contains the text, one page."""
        return await self._rows(
            f"SELECT p.id, p.slug, p.name, p.status FROM projects p WHERE p.organization_id = %(organization)s"  # noqa: S608
            f" AND {_REACHES} AND {_NAMED} {page.keyset_clause(('p.slug',))}",
            {"organization": organization.id, "wanted": _plain(wanted)} | _reach(actor, organization) | page.parameters,
        )

    async def inbox(self, actor: Actor, organization: OrganizationFacts, page: Page, *, unread: bool) -> Rows:
        """A person's inbox, newest first, one page: items of incidents that they may read now."""
        filtered = "AND n.date_read IS NULL " if unread else ""
        parameters = {"user": actor.user_id, "organization": organization.id} | _reach(actor, organization)
        return await self._rows(
            f"{_INBOX} {filtered}{page.keyset_clause(('n.id',), descending=True)}", parameters | page.parameters
        )

    async def unread_count(self, actor: Actor, organization: OrganizationFacts) -> int:
        """How many items of the inbox wait to be read."""
        parameters = {"user": actor.user_id, "organization": organization.id} | _reach(actor, organization)
        count: int = (await self._rows(_UNREAD, parameters))[0][0]
        return count

    async def command(self, id_: Any) -> Any:
        """A row of the ledger with the slug of its organization; ``None`` if there is none."""
        rows = await self._rows(
            "SELECT c.id, c.type, c.state, c.caller, c.accepted_at, c.finished_at, c.attempts, c.outcome_status,"
            " c.outcome_body::text AS outcome_body, c.error, o.slug"
            " FROM commands c LEFT JOIN organizations o ON o.id = c.organization_id WHERE c.id = %(id)s",
            {"id": id_},
        )
        return rows[0] if rows else None

    async def canaries(self) -> list[CanaryStatus]:
        """What the canaries of every queue tell."""
        return [canary_status_from_row(row) for row in await self._rows(CANARY_STATUS, ALL_QUEUES)]

    async def schema_revision(self) -> str | None:
        """The revision that the database stands at."""
        rows = await self._rows("SELECT version_num FROM alembic_version", {})
        return rows[0][0] if rows else None


def person_from_row(row: Any) -> Person:
    """The person in a row."""
    return Person(row.id, row.username, row.name, row.email, row.is_active, row.is_superuser, row.date_joined)


def author_from_row(row: Any) -> Person | None:
    """The author in a row of activities, if it has one."""
    if row.author is None:
        return None
    return Person(row.author, row.username, row.name, row.email, row.is_active, row.is_superuser, row.date_joined)


def activity_from_row(row: Any) -> Activity:
    """The activity in a row."""
    facts = {name: getattr(row, name) for name in _ACTIVITY_FIELDS}
    return Activity(**facts | {"type": ActivityType(row.type)})


def incident_of(row: Any) -> Incident:
    """The incident in a row, its projects aside."""
    facts = {name: getattr(row, name) for name in _INCIDENT_FIELDS}
    closed_sets: dict[str, Callable[[int], Any]] = {
        "status": IncidentStatus,
        "status_method": StatusMethod,
        "type": IncidentType,
    }
    return Incident(**facts | {name: closed_set(facts[name]) for name, closed_set in closed_sets.items()})


_INCIDENT_FIELDS: Final = [name.strip().removeprefix("i.") for name in INCIDENT_COLUMNS.split(",")]


def project_of(row: Any) -> Project:
    """The project in a row of :data:`PROJECTS`."""
    return Project(row.slug, project_facts(row))


def _facts(rows: Rows) -> list[ProjectFacts]:
    return [project_facts(row) for row in rows if row.id is not None]


def _reach(actor: Actor, organization: OrganizationFacts) -> dict[str, Any]:
    # A project without teams: who reaches it reaches every active one.
    nobodys = ProjectFacts(id=0, active=True, teams=frozenset())
    return {"all": has_project_access(actor, organization, nobodys), "teams": list(actor.teams)}


def _plain(wanted: str) -> str:
    # No name holds a NUL, and the database takes none.
    return wanted.strip().lower().replace("\0", "\ufffd")
