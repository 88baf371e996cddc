"""Queries for alert rules and the entities they refer to: a fixed number of queries for any number of rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Numeric, cast, exists, func, literal, select, true
from starlette.datastructures import QueryParams

from gateway.http.pagination import Page
from gateway.reads.database import QueryRunner, paginate
from gateway.reads.incident_filters import selected_projects
from gateway.reads.projects import project_slugs, projects_of
from models.alert_rules.alert_rule import AlertRule, Definition, RuleStatus, Snooze, alert_rule_projects, alert_rules
from models.alert_rules.enums import Dataset
from models.alert_rules.queries import (
    GENERATIONS,
    RULES,
    SNOOZES,
    definition_from_json,
    rule_from_row,
    snooze_from_row,
    targeted_teams,
    targeted_users,
)
from models.alert_rules.serializers import RuleReferences, RuleSnapshot
from models.directory.policy_facts import NamedProject, project_from_row
from models.directory.queries import PERSON_COLUMNS, TEAMS, person_from_row
from models.directory.tables import projects, users
from models.incidents.incident import Incident, incidents
from models.incidents.queries import INCIDENT_COLUMNS, incident_from_row
from models.policy import Actor, OrganizationFacts, ProjectFacts
from models.refusals import NotFound
from models.serializers.incidents import IncidentRule, incident_json
from models.types import JSON


class RuleListQuery(NamedTuple):
    """The filters of a list of live alert rules.

    ``projects`` holds project ids. A rule must belong to at least one of these projects. If ``monitor_type`` is
    ``None``, rules of every type are selected. ``only_events`` excludes rules that watch a dataset other than events.
    """

    organization: int
    projects: Collection[int]
    monitor_type: int | None
    only_events: bool

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """The filters as SQL conditions on ``alert_rules``."""
        conditions = [
            alert_rules.c.organization_id == self.organization,
            alert_rules.c.status != RuleStatus.SNAPSHOT,
            exists().where(
                alert_rule_projects.c.rule_id == alert_rules.c.id,
                alert_rule_projects.c.project_id.in_(self.projects),
            ),
        ]
        if self.monitor_type is not None:
            # Numeric, because the requested number may be too large for any integer type.
            stored = cast(alert_rules.c.definition["monitor_type"].astext, Numeric)
            conditions.append(stored == literal(self.monitor_type, Numeric))
        if self.only_events:
            conditions.append(alert_rules.c.definition["dataset"].astext == Dataset.EVENTS)
        return conditions


class AlertRuleQueries:
    """Queries for alert rules, their snoozes and their incidents."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def incident_rules(self, incidents: Collection[Incident], viewer: int | None) -> dict[int, IncidentRule]:
        """Map the id of each incident that has a rule to that rule, as it was when the incident began."""
        with_rule = {each.id: each for each in incidents if each.alert_rule_id is not None}
        if not with_rule:
            return {}
        rules = await self.rules({each.alert_rule_id or 0 for each in with_rule.values()})
        earlier = await self._earlier_generations(rules, with_rule.values())
        snapshots = {}
        for incident in with_rule.values():
            rule = rules[incident.alert_rule_id or 0]
            key = (rule.id, incident.alert_rule_generation or 0)
            snapshots[incident.id] = earlier.get(key, RuleSnapshot.current(rule))
        snoozes = await self.snoozes(rules)
        references = await self.references(list(rules.values()), [each.definition for each in snapshots.values()])
        snoozed = {
            rule for rule in rules if any(each.user_id is None or each.user_id == viewer for each in snoozes[rule])
        }
        return {
            id_: IncidentRule(snapshot, references, snapshot.rule.id in snoozed) for id_, snapshot in snapshots.items()
        }

    async def rule(self, organization: int, id_: int) -> tuple[AlertRule, list[ProjectFacts]]:
        """Return a live rule, and the facts about the rule's projects that decide who may read it.

        :raises NotFound: if the organization has no live rule with this id.
        """
        rule = (await self.rules([id_])).get(id_)
        if rule is None or rule.organization_id != organization or not rule.is_live:
            raise NotFound
        return rule, [each.facts for each in await self._projects(organization) if each.facts.id in rule.projects]

    async def project(self, organization: int, slug: str) -> ProjectFacts:
        """Return the facts that the policy needs about an active project.

        :raises NotFound: if the organization has no active project with this slug.
        """
        found = next((each for each in await self._projects(organization) if each.slug == slug), None)
        if found is None or not found.facts.active:
            raise NotFound
        return found.facts

    async def selected_projects(
        self, query: QueryParams, actor: Actor, organization: OrganizationFacts
    ) -> tuple[int, ...]:
        """Return the ids of the projects that the query parameters select for a list of rules.

        :raises Refusal: if a parameter is invalid, or names a project that the actor has no access to.
        """
        return selected_projects(query, actor, organization, await self._projects(organization.id))

    async def page(self, query: RuleListQuery, page: Page) -> list[AlertRule]:
        """Return a page of live rules, newest first."""
        statement = select(alert_rules.c.id).where(*query.conditions)
        rows = await self._rows(paginate(statement, page, alert_rules.c.date_added, alert_rules.c.id, descending=True))
        rules = await self.rules([row.id for row in rows])
        return [rules[row.id] for row in rows if row.id in rules]

    async def count(self, query: RuleListQuery) -> int:
        """Return the total number of rules in the list, over all pages."""
        rows = await self._rows(select(func.count().label("rules")).select_from(alert_rules).where(*query.conditions))
        count: int = rows[0].rules
        return count

    async def latest_incidents(self, rules: Collection[AlertRule], viewer: int | None) -> dict[int, JSON]:
        """Map each rule id to the latest incident in the rule's current generation, or to ``None`` if there is none."""
        latest = (
            select(*INCIDENT_COLUMNS)
            .where(
                incidents.c.alert_rule_id == alert_rules.c.id,
                incidents.c.alert_rule_generation == alert_rules.c.generation,
            )
            .order_by(incidents.c.id.desc())
            .limit(1)
            .lateral("latest")
        )
        statement = (
            select(*latest.c, project_slugs(latest.c.id))
            .select_from(alert_rules.join(latest, true()))
            .where(alert_rules.c.id.in_([rule.id for rule in rules]))
        )
        rows = await self._rows(statement) if rules else ()
        found = {row.alert_rule_id: (incident_from_row(row), row.slugs) for row in rows}
        rule_of_incident = await self.incident_rules([incident for incident, _ in found.values()], viewer)
        shown: dict[int, JSON] = {rule.id: None for rule in rules}
        for id_, (incident, slugs) in found.items():
            shown[id_] = incident_json(incident, projects=slugs, alert_rule=rule_of_incident[incident.id])
        return shown

    async def rules(self, ids: Collection[int]) -> dict[int, AlertRule]:
        """Return the rules with these ids as a mapping from id to rule. Deleted rules are included."""
        rows = await self._rows(RULES, {"ids": list(ids)}) if ids else ()
        return {row.id: rule_from_row(row) for row in rows}

    async def snoozes(self, rules: Collection[int]) -> dict[int, list[Snooze]]:
        """Map each rule id to the rule's currently active snoozes."""
        active: dict[int, list[Snooze]] = defaultdict(list)
        now = datetime.now(UTC)
        for row in await self._rows(SNOOZES, {"ids": list(rules)}) if rules else ():
            snooze = snooze_from_row(row)
            if snooze.is_active(now):
                active[snooze.rule_id].append(snooze)
        return active

    async def references(
        self, rules: Sequence[AlertRule], definitions: Iterable[Definition] = (), people: Iterable[int] = ()
    ) -> RuleReferences:
        """Return the entities to which these rules and definitions refer by id. ``people`` adds users by their ids."""
        all_definitions = [*definitions, *(rule.definition for rule in rules)]
        project_ids = set(chain.from_iterable(rule.projects for rule in rules))
        creators = {rule.created_by for rule in rules if rule.created_by is not None}
        user_ids = targeted_users(all_definitions) | creators | set(people)
        slugs = await self._rows(select(projects.c.id, projects.c.slug).where(projects.c.id.in_(project_ids)))
        teams = await self._rows(TEAMS, {"ids": list(targeted_teams(all_definitions))})
        persons = await self._rows(select(*PERSON_COLUMNS).where(users.c.id.in_(user_ids)))
        return RuleReferences(
            projects={row.id: row.slug for row in slugs},
            teams={row.id: row.slug for row in teams},
            people={row.id: person_from_row(row) for row in persons},
        )

    async def _projects(self, organization: int) -> list[NamedProject]:
        return [project_from_row(row) for row in await self._rows(projects_of(organization))]

    async def _earlier_generations(
        self, rules: dict[int, AlertRule], incidents: Iterable[Incident]
    ) -> dict[tuple[int, int], RuleSnapshot]:
        generations = {(each.alert_rule_id or 0, each.alert_rule_generation or 0) for each in incidents}
        earlier = [(rule, generation) for rule, generation in generations if generation < rules[rule].generation]
        if not earlier:
            return {}
        parameters: dict[str, Any] = {
            "rules": [rule for rule, _ in earlier],
            "generations": [generation for _, generation in earlier],
        }
        return {
            (row.rule_id, row.generation): RuleSnapshot(
                rules[row.rule_id], definition_from_json(row.definition), row.date_modified, is_snapshot=True
            )
            for row in await self._rows(GENERATIONS, parameters)
        }
