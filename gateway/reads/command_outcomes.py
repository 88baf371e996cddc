"""Who may read the outcome of a command now.

An outcome was meant for its caller as the caller's rights were when it was recorded. It is shown only as long as the
caller may read the incident or the alert rule that it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import Text, cast, func, select

from gateway.reads.database import QueryRunner
from models.alert_rules.alert_rule import RuleStatus, alert_rule_projects, alert_rules
from models.directory.policy_facts import PROJECT_COLUMNS, project_from_row
from models.directory.tables import organizations, projects
from models.incidents.incident import incident_projects, incidents
from models.messaging.command_ledger import commands
from models.permissions import (
    ALERT_RULE,
    ALERT_RULES,
    INCIDENT,
    INCIDENTS,
    PROJECT_ALERT_RULE,
    PROJECT_ALERT_RULES,
)
from models.policy import (
    Actor,
    OrganizationFacts,
    ProjectFacts,
    require_organization_access,
    require_project_access,
    require_token_scope,
)
from models.refusals import NotFound, Refusal
from models.types import JSON
from tasks.commands.catalog import CATALOG
from tasks.commands.fields import identifier

COMMAND_COLUMNS: Final = (
    commands.c.id,
    commands.c.seq,
    commands.c.type,
    commands.c.state,
    commands.c.caller,
    commands.c.organization_id,
    commands.c.accepted_at,
    commands.c.finished_at,
    commands.c.attempts,
    commands.c.outcome_status,
    cast(commands.c.outcome_body, Text).label("outcome_body"),
    commands.c.error,
    commands.c.payload["incident"].astext.label("incident_reference"),
    func.coalesce(commands.c.payload["alertRule"].astext, commands.c.payload["alert_rule"].astext).label(
        "rule_reference"
    ),
    organizations.c.slug,
)
"""The columns of a command with its outcome, what the outcome is about, and the organization's ``slug``."""

_IS_LIVE: Final = alert_rules.c.status != RuleStatus.SNAPSHOT


class CommandOutcomes:
    """Decides which outcomes a caller may read."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def refusals(self, actor: Actor, organization: OrganizationFacts, rows: Iterable[Any]) -> dict[UUID, Refusal]:
        """Return, by command id, how a read of what a successful command is about would be refused now.

        ``rows`` have :data:`COMMAND_COLUMNS` and belong to the organization. Commands that the caller may read, and
        commands without a successful outcome, are left out. So are commands that have removed what they were about.
        """
        finished = [row for row in rows if row.outcome_status is not None and row.outcome_status < 400]
        subjects = {row.id: _subject_of(row) for row in finished}
        by_incident = await self._incidents(organization.id, {number for number, _ in subjects.values() if number})
        by_rule = await self._rules(organization.id, {rule for _, rule in subjects.values() if rule})
        found: dict[UUID, Refusal] = {}
        for row in finished:
            incident, rule = subjects[row.id]
            try:
                _require_read(actor, organization, row.type)
                for wanted, known in ((incident, by_incident), (rule, by_rule)):
                    if wanted is not None:
                        _require_access(actor, organization, known, wanted)
            except NotFound as refusal:
                if row.outcome_body is not None:
                    found[row.id] = refusal
            except Refusal as refusal:
                found[row.id] = refusal
        return found

    async def _incidents(self, organization: int, numbers: Iterable[int]) -> Mapping[int, list[ProjectFacts]]:
        wanted = list(numbers)
        if not wanted:
            return {}
        statement = (
            select(incidents.c.identifier.label("subject"), *PROJECT_COLUMNS)
            .select_from(incidents.outerjoin(incident_projects).outerjoin(projects))
            .where(incidents.c.organization_id == organization, incidents.c.identifier.in_(wanted))
        )
        return _by_subject(await self._rows(statement))

    async def _rules(self, organization: int, ids: Iterable[int]) -> Mapping[int, list[ProjectFacts]]:
        wanted = list(ids)
        if not wanted:
            return {}
        statement = (
            select(alert_rules.c.id.label("subject"), *PROJECT_COLUMNS)
            .select_from(alert_rules.outerjoin(alert_rule_projects).outerjoin(projects))
            .where(alert_rules.c.organization_id == organization, alert_rules.c.id.in_(wanted), _IS_LIVE)
        )
        return _by_subject(await self._rows(statement))


def _by_subject(rows: Iterable[Any]) -> dict[int, list[ProjectFacts]]:
    found: dict[int, list[ProjectFacts]] = {}
    for row in rows:
        facts = found.setdefault(row.subject, [])
        if row.id is not None:
            facts.append(project_from_row(row).facts)
    return found


_ABOUT_INCIDENTS: Final = (INCIDENT, INCIDENTS)
_ABOUT_RULES: Final = (ALERT_RULE, ALERT_RULES, PROJECT_ALERT_RULE, PROJECT_ALERT_RULES)
"""The permissions of the commands whose outcomes are about an incident, or about a rule."""


def _subject_of(row: Any) -> tuple[int | None, int | None]:
    """Return the number of the incident that a command's outcome is about, and the id of the rule."""
    permission = CATALOG[row.type].permission if row.type in CATALOG else None
    if permission not in (*_ABOUT_INCIDENTS, *_ABOUT_RULES):
        return None, None
    body: JSON = orjson.loads(row.outcome_body) if row.outcome_body else {}
    shown = body if isinstance(body, dict) else {}
    if permission in _ABOUT_INCIDENTS:
        named = shown.get("incidentIdentifier") or shown.get("identifier") or row.incident_reference
        return identifier(named), None
    return None, identifier(row.rule_reference or shown.get("id"))


def _require_read(actor: Actor, organization: OrganizationFacts, type_: str) -> None:
    entry = CATALOG.get(type_)
    if entry is not None:
        require_token_scope(actor, entry.permission, "GET")
        require_organization_access(actor, organization, entry.permission, "GET")


def _require_access(
    actor: Actor, organization: OrganizationFacts, known: Mapping[int, list[ProjectFacts]], subject: int
) -> None:
    if subject not in known:
        raise NotFound
    require_project_access(actor, organization, known[subject])
