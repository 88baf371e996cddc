"""The incident list: what a selection means, a page at a time, with what its readers want to see beside it."""

# ruff: noqa: S608 - statements are put together from words of our own; what callers say goes along as parameters
from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from starlette.datastructures import QueryParams

from gateway.http.pagination import Page
from gateway.reads.database import QueryRunner, Rows
from gateway.reads.incident_filters import IncidentFilter, select, team_ids
from gateway.reads.incident_list_pages import page_keys
from gateway.reads.queries import (
    ACTIVITY_COLUMNS,
    INCIDENT_COLUMNS,
    PERSON_COLUMNS,
    PROJECTS,
    activity_from_row,
    author_from_row,
    incident_of,
    person_from_row,
    project_of,
)
from models.directory.tables import Person
from models.enums import Feature
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.policy import Actor, OrganizationFacts, TeamFacts

MOST_ACTIVITIES: Final = 1_000
"""Of a whole page, when activities are asked for with it."""


class IncidentListItem(NamedTuple):
    """An incident of a page. ``activities`` and ``seen_by`` are ``None`` unless they were asked for."""

    incident: Incident
    projects: list[str]
    activities: list[tuple[Activity, Person | None]] | None
    seen_by: list[tuple[Person, datetime]] | None


class IncidentList:
    """Reads the list."""

    def __init__(self, reader: QueryRunner) -> None:
        self._rows = reader.rows

    async def parse_filter(self, query: QueryParams, actor: Actor, organization: OrganizationFacts) -> IncidentFilter:
        """The incidents that the parameters ask for.

        :raises Refusal: a parameter does not fit, or names what the caller does not reach.
        """
        here = {"organization": organization.id}
        projects = await self._rows(PROJECTS, here)
        ids = team_ids(query)
        teams = await self._rows(_TEAMS, {"ids": ids}) if ids else ()
        environments = await self._rows(_ENVIRONMENTS, here) if "environment" in query else ()
        others = () if organization.has(Feature.PERFORMANCE) else await self._rows(_OTHER_DATASETS, here)
        return select(
            query,
            actor=actor,
            organization=organization,
            projects=[project_of(row) for row in projects],
            teams={row.id: TeamFacts(row.id, row.organization_id, row.name, row.active) for row in teams},
            environments=[row.name for row in environments],
            has_other_datasets=bool(others),
            today=datetime.now(UTC),
        )

    async def keys(self, selection: IncidentFilter, page: Page) -> Rows:
        """Which incidents are on the page, by ``date_started`` and ``incident_id``, one more than its size at most."""
        asking = page_keys(selection, page)
        try:
            statement, parameters = next(asking)
            while True:
                statement, parameters = asking.send(await self._rows(statement, parameters))
        except StopIteration as end:
            found: Rows = end.value
            return found

    async def items(self, keys: Rows, *, activities: bool, seen_by: bool) -> dict[int, IncidentListItem]:
        """The incidents of these keys by their ids, with what was asked for beside them."""
        if not keys:
            return {}
        ids = {"ids": [key.incident_id for key in keys]}
        incidents = await self._rows(_INCIDENTS, ids)
        happened: dict[int, list[tuple[Activity, Person | None]]] = {row.id: [] for row in incidents}
        for row in await self._rows(_ACTIVITIES, ids) if activities else ():
            happened.setdefault(row.incident_id, []).append((activity_from_row(row), author_from_row(row)))
        seen: dict[int, list[tuple[Person, datetime]]] = {row.id: [] for row in incidents}
        for row in await self._rows(_SEEN, ids) if seen_by else ():
            seen.setdefault(row.incident_id, []).append((person_from_row(row), row.last_seen))
        return {
            row.id: IncidentListItem(
                incident_of(row),
                row.slugs,
                happened[row.id] if activities else None,
                seen[row.id] if seen_by else None,
            )
            for row in incidents
        }


# --- what is shown ---------------------------------------------------------------------------------------------

_TEAMS: Final = """
SELECT id, organization_id, name, status = 'active' AS active FROM teams WHERE id = ANY(%(ids)s::bigint[])
"""

_ENVIRONMENTS: Final = "SELECT name FROM environments WHERE organization_id = %(organization)s"

_OTHER_DATASETS: Final = """
SELECT 1 FROM alert_rules r WHERE r.organization_id = %(organization)s AND (
    r.definition->>'dataset' <> 'events' OR EXISTS (
        SELECT 1 FROM alert_rule_generations g WHERE g.rule_id = r.id AND g.definition->>'dataset' <> 'events'))
LIMIT 1
"""

_INCIDENTS: Final = f"""
SELECT {INCIDENT_COLUMNS}, ARRAY(
    SELECT p.slug FROM incident_projects ip JOIN projects p ON p.id = ip.project_id WHERE ip.incident_id = i.id
    ORDER BY p.slug
) AS slugs
FROM incidents i WHERE i.id = ANY(%(ids)s::bigint[])
"""

_ACTIVITIES: Final = f"""
SELECT {ACTIVITY_COLUMNS}
FROM unnest(%(ids)s::bigint[]) AS wanted(id)
CROSS JOIN LATERAL (
    SELECT * FROM incident_activities WHERE incident_id = wanted.id
    ORDER BY date_added DESC, id DESC LIMIT {MOST_ACTIVITIES}
) AS a
LEFT JOIN users u ON u.id = a.user_id
ORDER BY a.date_added DESC, a.id DESC LIMIT {MOST_ACTIVITIES}
"""

_SEEN: Final = f"""
SELECT s.incident_id, s.last_seen, {PERSON_COLUMNS}
FROM incident_seen s JOIN users u ON u.id = s.user_id
WHERE s.incident_id = ANY(%(ids)s::bigint[]) ORDER BY s.last_seen DESC, u.id
"""
