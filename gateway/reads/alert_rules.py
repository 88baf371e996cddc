"""Alert rules as callers see them: the rows, and the names that stand for the ids in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Final, NamedTuple

from starlette.datastructures import QueryParams

from gateway.http.pagination import Page
from gateway.reads.database import QueryRunner
from gateway.reads.incident_filters import selected_projects
from gateway.reads.queries import INCIDENT_COLUMNS, PERSON_COLUMNS, PROJECTS, incident_of, person_from_row, project_of
from models.alert_rules.alert_rule import AlertRule, Definition, Snooze
from models.alert_rules.queries import (
    GENERATIONS,
    RULE_COLUMNS,
    RULES,
    SNOOZES,
    TEAMS,
    definition_of,
    people_in,
    rule_of,
    snooze_of,
    teams_in,
)
from models.alert_rules.serializers import RuleReferences, RuleSnapshot
from models.enums import JSON
from models.incidents.incident import Incident
from models.policy import Actor, OrganizationFacts, ProjectFacts
from models.refusals import NotFound
from models.serializers import IncidentRule, incident_json

_PEOPLE: Final = f"SELECT {PERSON_COLUMNS} FROM users u WHERE u.id = ANY(%(ids)s::bigint[])"  # noqa: S608 - our own columns
_PROJECT_SLUGS: Final = "SELECT id, slug FROM projects WHERE id = ANY(%(ids)s::bigint[])"


_LISTED: Final = """
FROM alert_rules r
WHERE r.organization_id = %(organization)s AND r.status <> 4
  AND (%(monitor_type)s::numeric IS NULL OR (r.definition->>'monitor_type')::numeric = %(monitor_type)s::numeric)
  AND (NOT %(only_events)s OR r.definition->>'dataset' = 'events')
  AND EXISTS (
      SELECT 1 FROM alert_rule_projects rp WHERE rp.rule_id = r.id AND rp.project_id = ANY(%(projects)s::bigint[])
  )
"""

_LATEST: Final = f"""
SELECT {INCIDENT_COLUMNS}, ARRAY(
    SELECT p.slug FROM incident_projects ip JOIN projects p ON p.id = ip.project_id WHERE ip.incident_id = i.id
    ORDER BY p.slug
) AS slugs
FROM alert_rules r
CROSS JOIN LATERAL (
    SELECT * FROM incidents
    WHERE alert_rule_id = r.id AND alert_rule_generation = r.generation ORDER BY id DESC LIMIT 1
) AS i
WHERE r.id = ANY(%(ids)s::bigint[])
"""  # noqa: S608 - our own columns


class RuleListQuery(NamedTuple):
    """Which rules a list asks for; ``projects`` are ids, ``monitor_type`` asks nothing where it is ``None``."""

    organization: int
    projects: list[int]
    monitor_type: int | None
    only_events: bool


class AlertRuleQueries:
    """Reads rules, in a fixed number of queries for any number of them."""

    def __init__(self, reader: QueryRunner) -> None:
        self._rows = reader.rows

    async def incident_rules(self, incidents: Collection[Incident], viewer: int | None) -> dict[int, IncidentRule]:
        """For each incident that a rule found, by its id: the rule as it was then."""
        found = {each.id: each for each in incidents if each.alert_rule_id is not None}
        if not found:
            return {}
        rules = await self.rules({each.alert_rule_id or 0 for each in found.values()})
        earlier = await self._earlier(rules, found.values())
        editions = {}
        for incident in found.values():
            rule = rules[incident.alert_rule_id or 0]
            editions[incident.id] = earlier.get(
                (rule.id, incident.alert_rule_generation or 0), RuleSnapshot.current(rule)
            )
        snoozes = await self.snoozes(rules)
        names = await self.references(list(rules.values()), [each.definition for each in editions.values()])
        silent = {
            rule for rule in rules if any(each.user_id is None or each.user_id == viewer for each in snoozes[rule])
        }
        return {id_: IncidentRule(edition, names, edition.rule.id in silent) for id_, edition in editions.items()}

    async def rule(self, organization: int, id_: int) -> tuple[AlertRule, list[ProjectFacts]]:
        """A live rule, with the facts that decide who may read it.

        :raises NotFound: the organization has none of this id.
        """
        rule = (await self.rules([id_])).get(id_)
        if rule is None or rule.organization_id != organization or not rule.is_live:
            raise NotFound
        rows = await self._rows(PROJECTS, {"organization": organization})
        return rule, [project.facts for row in rows if (project := project_of(row)).facts.id in rule.projects]

    async def project(self, organization: int, slug: str) -> ProjectFacts:
        """A project in use, as the policy asks for it.

        :raises NotFound: the organization has none of this slug.
        """
        rows = await self._rows(PROJECTS, {"organization": organization})
        found = next((project for row in rows if (project := project_of(row)).slug == slug), None)
        if found is None or not found.facts.active:
            raise NotFound
        return found.facts

    async def selected_projects(
        self, query: QueryParams, actor: Actor, organization: OrganizationFacts
    ) -> tuple[int, ...]:
        """The projects whose rules are asked for.

        :raises Refusal: a name does not fit, or the caller does not reach what it names.
        """
        rows = await self._rows(PROJECTS, {"organization": organization.id})
        return selected_projects(query, actor, organization, [project_of(row) for row in rows])

    async def page(self, wish: RuleListQuery, page: Page) -> list[AlertRule]:
        """Live rules on these projects, the youngest first, one page."""
        rows = await self._rows(
            f"SELECT {RULE_COLUMNS} {_LISTED} {page.keyset_clause(('r.date_added', 'r.id'), descending=True)}",
            wish._asdict() | page.parameters,
        )
        return [rule_of(row) for row in rows]

    async def count(self, wish: RuleListQuery) -> int:
        """How many there are in all."""
        count: int = (await self._rows(f"SELECT count(*) {_LISTED}", wish._asdict()))[0][0]
        return count

    async def latest_incidents(self, rules: Collection[AlertRule], viewer: int | None) -> dict[int, JSON]:
        """The last thing that each rule found since it says what it says, by the rule's id; null where nothing is."""
        rows = await self._rows(_LATEST, {"ids": [rule.id for rule in rules]}) if rules else ()
        found = {row.alert_rule_id: (incident_of(row), row.slugs) for row in rows}
        by = await self.incident_rules([incident for incident, _ in found.values()], viewer)
        return {
            rule.id: incident_json(found[rule.id][0], projects=found[rule.id][1], alert_rule=by[found[rule.id][0].id])
            if rule.id in found
            else None
            for rule in rules
        }

    async def rules(self, ids: Collection[int]) -> dict[int, AlertRule]:
        """Rules by id, whatever their status."""
        rows = await self._rows(RULES, {"ids": list(ids)}) if ids else ()
        return {row.id: rule_of(row) for row in rows}

    async def snoozes(self, rules: Collection[int]) -> dict[int, list[Snooze]]:
        """The snoozes that hold now, by rule."""
        holding: dict[int, list[Snooze]] = defaultdict(list)
        now = datetime.now(UTC)
        for row in await self._rows(SNOOZES, {"ids": list(rules)}) if rules else ():
            snooze = snooze_of(row)
            if snooze.is_active(now):
                holding[snooze.rule_id].append(snooze)
        return holding

    async def references(
        self, rules: Sequence[AlertRule], definitions: Iterable[Definition] = (), people: Iterable[int] = ()
    ) -> RuleReferences:
        """What the ids in these rules, and in what they said earlier, stand for; and more people by id."""
        said = [*definitions, *(rule.definition for rule in rules)]
        creators = {rule.created_by for rule in rules if rule.created_by is not None}
        projects = await self._rows(_PROJECT_SLUGS, {"ids": list(set(chain(*(rule.projects for rule in rules))))})
        teams = await self._rows(TEAMS, {"ids": list(teams_in(said))})
        persons = await self._rows(_PEOPLE, {"ids": list(people_in(said) | creators | set(people))})
        return RuleReferences(
            projects={row.id: row.slug for row in projects},
            teams={row.id: row.slug for row in teams},
            people={row.id: person_from_row(row) for row in persons},
        )

    async def _earlier(
        self, rules: dict[int, AlertRule], incidents: Iterable[Incident]
    ) -> dict[tuple[int, int], RuleSnapshot]:
        began = {(each.alert_rule_id or 0, each.alert_rule_generation or 0) for each in incidents}
        past = [(rule, generation) for rule, generation in began if generation < rules[rule].generation]
        if not past:
            return {}
        asked = {"rules": [rule for rule, _ in past], "generations": [generation for _, generation in past]}
        return {
            (row.rule_id, row.generation): RuleSnapshot(
                rules[row.rule_id], definition_of(row.definition), row.date_modified, is_snapshot=True
            )
            for row in await self._rows(GENERATIONS, asked)
        }
