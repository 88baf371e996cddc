"""What was observed of a rule, and who may look: the last values of each of its projects, with what each did."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from gateway.http.pagination import Page
from gateway.reads.database import QueryRunner, Rows
from models.directory.policy_facts import PROJECT_COLUMNS, project_facts
from models.policy import ProjectFacts
from models.refusals import NotFound

_PROJECTS: Final = f"""
SELECT {PROJECT_COLUMNS}
FROM alert_rules r
LEFT JOIN alert_rule_projects rp ON rp.rule_id = r.id
LEFT JOIN projects p ON p.id = rp.project_id
WHERE r.organization_id = %(organization)s AND r.id = %(rule)s AND r.status <> 4
ORDER BY p.slug
"""  # noqa: S608 - our own columns

_OBSERVATIONS: Final = """
SELECT o.project_id, p.slug, o.number, o.timestamp, o.value, o.comparison_value, o.result, o.accepted_at
FROM alert_rule_observations o JOIN projects p ON p.id = o.project_id
WHERE o.rule_id = %(rule)s AND o.project_id = ANY(%(projects)s::bigint[])
"""


class RuleProject(NamedTuple):
    """A project that a rule watches."""

    slug: str
    facts: ProjectFacts


class ObservationQueries:
    """Reads observations."""

    def __init__(self, reader: QueryRunner) -> None:
        self._rows = reader.rows

    async def projects(self, organization: int, rule: int) -> list[RuleProject]:
        """The projects of a live rule.

        :raises NotFound: the organization has no such rule.
        """
        rows = await self._rows(_PROJECTS, {"organization": organization, "rule": rule})
        if not rows:
            raise NotFound
        return [RuleProject(row.slug, project_facts(row)) for row in rows if row.id is not None]

    async def page(self, rule: int, projects: Collection[int], page: Page) -> Rows:
        """The last values of a rule on these projects, newest first, one page."""
        return await self._rows(
            _OBSERVATIONS + page.keyset_clause(("o.accepted_at", "o.number", "o.project_id"), descending=True),
            {"rule": rule, "projects": list(projects)} | page.parameters,
        )
