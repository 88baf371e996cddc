"""Queries for the incident list: its filter, the keys of a page, and the page's incidents with related entities."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Final, NamedTuple

from sqlalchemy import exists, or_, select, true
from starlette.datastructures import QueryParams

from gateway.http.pagination import Page
from gateway.reads.database import QueryRunner, Rows
from gateway.reads.incident_filters import IncidentFilter, parse_incident_filter, team_ids
from gateway.reads.incident_list_pages import page_keys
from gateway.reads.projects import project_slugs, projects_of
from gateway.reads.queries import AUTHOR_COLUMNS, author_from_row
from models.alert_rules.alert_rule import alert_rule_generations, alert_rules, environments
from models.alert_rules.enums import Dataset
from models.directory.policy_facts import project_from_row
from models.directory.queries import PERSON_COLUMNS, TEAMS, person_from_row, team_facts_from_row
from models.directory.tables import Person, users
from models.enums import Feature
from models.incidents.activity import Activity, activities
from models.incidents.incident import Incident, incident_seen, incidents
from models.incidents.queries import ACTIVITY_COLUMNS, INCIDENT_COLUMNS, activity_from_row, incident_from_row
from models.policy import Actor, OrganizationFacts

MAX_ACTIVITIES: Final = 1_000
"""The maximum total number of activities on a page of incidents, if activities are requested."""


class IncidentListItem(NamedTuple):
    """An incident on a page of the incident list. ``projects`` holds slugs.

    ``activities`` are listed newest first, each with its author. ``seen_by`` lists the latest viewer first.
    Each of the two is ``None`` unless it was requested.
    """

    incident: Incident
    projects: list[str]
    activities: list[tuple[Activity, Person | None]] | None
    seen_by: list[tuple[Person, datetime]] | None


class IncidentList:
    """Queries for the incident list."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def parse_filter(self, query: QueryParams, actor: Actor, organization: OrganizationFacts) -> IncidentFilter:
        """Return the filter that the query parameters describe.

        :raises Refusal: if a parameter is invalid, or names something that the actor has no access to.
        """
        projects = await self._rows(projects_of(organization.id))
        ids = team_ids(query)
        teams = await self._rows(TEAMS, {"ids": ids}) if ids else ()
        return parse_incident_filter(
            query,
            actor=actor,
            organization=organization,
            projects=[project_from_row(row) for row in projects],
            teams={row.id: team_facts_from_row(row) for row in teams},
            environments=await self._environments(organization.id) if "environment" in query else (),
            has_other_datasets=not organization.has(Feature.PERFORMANCE)
            and await self._has_other_datasets(organization.id),
            today=datetime.now(UTC),
        )

    async def keys(self, filter_: IncidentFilter, page: Page) -> Rows:
        """Return a page's keys (``date_started``, ``incident_id``), and one more key if another page follows."""
        statements = page_keys(filter_, page)
        try:
            statement, parameters = next(statements)
            while True:
                statement, parameters = statements.send(await self._rows(statement, parameters))
        except StopIteration as end:
            found: Rows = end.value
            return found

    async def items(self, keys: Rows, *, activities: bool, seen_by: bool) -> dict[int, IncidentListItem]:
        """Map incident ids to the incidents with these keys. Incidents that have since been deleted are missing."""
        if not keys:
            return {}
        ids = [key.incident_id for key in keys]
        rows = await self._rows(select(*INCIDENT_COLUMNS, project_slugs(incidents.c.id)).where(incidents.c.id.in_(ids)))
        activities_of = await self._activities(ids) if activities else None
        viewers_of = await self._viewers(ids) if seen_by else None
        return {
            row.id: IncidentListItem(
                incident_from_row(row),
                row.slugs,
                None if activities_of is None else activities_of[row.id],
                None if viewers_of is None else viewers_of[row.id],
            )
            for row in rows
        }

    async def _environments(self, organization: int) -> list[str]:
        rows = await self._rows(select(environments.c.name).where(environments.c.organization_id == organization))
        return [row.name for row in rows]

    async def _has_other_datasets(self, organization: int) -> bool:
        """Return whether any rule, in any generation, watches a dataset other than events."""
        earlier = exists().where(
            alert_rule_generations.c.rule_id == alert_rules.c.id,
            alert_rule_generations.c.definition["dataset"].astext != Dataset.EVENTS,
        )
        statement = (
            select(alert_rules.c.id)
            .where(alert_rules.c.organization_id == organization)
            .where(or_(alert_rules.c.definition["dataset"].astext != Dataset.EVENTS, earlier))
            .limit(1)
        )
        return bool(await self._rows(statement))

    async def _activities(self, ids: list[int]) -> dict[int, list[tuple[Activity, Person | None]]]:
        # No incident can show more activities than the whole page, so each incident's are read only up to that number.
        latest = (
            select(*ACTIVITY_COLUMNS)
            .where(activities.c.incident_id == incidents.c.id)
            .order_by(activities.c.date_added.desc(), activities.c.id.desc())
            .limit(MAX_ACTIVITIES)
            .lateral("latest")
        )
        rows = await self._rows(
            select(*latest.c, *AUTHOR_COLUMNS)
            .select_from(incidents.join(latest, true()).outerjoin(users, users.c.id == latest.c.user_id))
            .where(incidents.c.id.in_(ids))
            .order_by(latest.c.date_added.desc(), latest.c.id.desc())
            .limit(MAX_ACTIVITIES)
        )
        found: dict[int, list[tuple[Activity, Person | None]]] = defaultdict(list)
        for row in rows:
            found[row.incident_id].append((activity_from_row(row), author_from_row(row)))
        return found

    async def _viewers(self, ids: list[int]) -> dict[int, list[tuple[Person, datetime]]]:
        rows = await self._rows(
            select(incident_seen.c.incident_id, incident_seen.c.last_seen, *PERSON_COLUMNS)
            .join_from(incident_seen, users)
            .where(incident_seen.c.incident_id.in_(ids))
            .order_by(incident_seen.c.last_seen.desc(), users.c.id)
        )
        found: dict[int, list[tuple[Person, datetime]]] = defaultdict(list)
        for row in rows:
            found[row.incident_id].append((person_from_row(row), row.last_seen))
        return found
