"""Reading alert rules: the statements that workers and gateway share, and what becomes of their rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from models.alert_rules.alert_rule import Action, AlertRule, Definition, RuleStatus, Snooze
from models.alert_rules.enums import TargetType

RULE_COLUMNS: Final = """
    r.id, r.organization_id, r.status, r.version, r.generation, r.event_sequence, r.created_by, r.definition,
    r.date_added, r.date_modified,
    ARRAY(SELECT rp.project_id FROM alert_rule_projects rp WHERE rp.rule_id = r.id) AS projects
"""

RULES: Final = f"SELECT {RULE_COLUMNS} FROM alert_rules r WHERE r.id = ANY(%(ids)s::bigint[])"  # noqa: S608 - our own columns
"""Rules by id, whatever their status."""

GENERATIONS: Final = """
SELECT g.rule_id, g.generation, g.definition, g.date_modified
FROM unnest(%(rules)s::bigint[], %(generations)s::bigint[]) AS w(rule_id, generation)
JOIN alert_rule_generations g ON g.rule_id = w.rule_id AND g.generation = w.generation
"""
"""What rules said in earlier generations."""

SNOOZES: Final = """
SELECT rule_id, user_id, owner_id, until, date_added FROM alert_rule_snoozes WHERE rule_id = ANY(%(ids)s::bigint[])
"""
"""Every snooze of these rules, over or not."""

TEAMS: Final = """
SELECT id, slug, organization_id, name, status = 'active' AS active FROM teams WHERE id = ANY(%(ids)s::bigint[])
"""
"""What teams are called, and what the policy asks of them."""


def rule_of(row: Any) -> AlertRule:
    """The rule in a row of :data:`RULE_COLUMNS`."""
    return AlertRule(
        id=row.id,
        organization_id=row.organization_id,
        status=RuleStatus(row.status),
        version=row.version,
        generation=row.generation,
        event_sequence=row.event_sequence,
        created_by=row.created_by,
        definition=definition_of(row.definition),
        date_added=row.date_added,
        date_modified=row.date_modified,
        projects=frozenset(row.projects),
    )


def definition_of(stored: Any) -> Definition:
    """A definition from its column."""
    return Definition.model_validate(stored)


def snooze_of(row: Any) -> Snooze:
    """The snooze in a row of :data:`SNOOZES`."""
    return Snooze(row.rule_id, row.user_id, row.owner_id, row.until, row.date_added)


def people_in(definitions: Iterable[Definition]) -> set[int]:
    """Ids of the people whom these actions reach."""
    return {int(action.target) for action in _actions(definitions) if action.target_type is TargetType.USER}


def teams_in(definitions: Iterable[Definition]) -> set[int]:
    """Ids of the teams whom these actions reach."""
    return {int(action.target) for action in _actions(definitions) if action.target_type is TargetType.TEAM}


def _actions(definitions: Iterable[Definition]) -> Iterable[Action]:
    return (action for definition in definitions for action in definition.actions)
