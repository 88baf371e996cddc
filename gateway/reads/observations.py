"""Queries for the observations of alert rules, and for the rules' projects."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select

from gateway.http.pagination import Page
from gateway.reads.database import QueryRunner, Rows, paginate
from models.alert_rules.alert_rule import RuleStatus, alert_rule_observations, alert_rule_projects, alert_rules
from models.directory.policy_facts import PROJECT_COLUMNS, NamedProject, project_from_row
from models.directory.tables import projects
from models.refusals import NotFound


class ObservationQueries:
    """Queries for the observations that are kept for each rule and project."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def projects(self, organization: int, rule: int) -> list[NamedProject]:
        """Return a live rule's projects, sorted by slug.

        :raises NotFound: if the organization has no live rule with this id.
        """
        rows = await self._rows(
            select(*PROJECT_COLUMNS)
            .select_from(alert_rules.outerjoin(alert_rule_projects).outerjoin(projects))
            .where(
                alert_rules.c.organization_id == organization,
                alert_rules.c.id == rule,
                alert_rules.c.status != RuleStatus.SNAPSHOT,
            )
            .order_by(projects.c.slug)
        )
        if not rows:
            raise NotFound
        return [project_from_row(row) for row in rows if row.id is not None]

    async def page(self, rule: int, project_ids: Collection[int], page: Page) -> Rows:
        """Return a page of a rule's observations in these projects, newest first."""
        observations = alert_rule_observations
        statement = (
            select(
                observations.c.project_id,
                projects.c.slug,
                observations.c.number,
                observations.c.timestamp,
                observations.c.value,
                observations.c.comparison_value,
                observations.c.result,
                observations.c.accepted_at,
            )
            .join_from(observations, projects)
            .where(observations.c.rule_id == rule, observations.c.project_id.in_(project_ids))
        )
        key = (observations.c.accepted_at, observations.c.number, observations.c.project_id)
        return await self._rows(paginate(statement, page, *key, descending=True))
