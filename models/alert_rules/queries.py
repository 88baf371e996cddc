"""Statements that read alert rules, and functions that build entities from the rows.

The gateway and the workers share them. The statements are plain SQL, which is fast to execute, because workers load
rules for every batch that needs them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from models.alert_rules.alert_rule import (
    Action,
    AlertRule,
    Definition,
    RuleStatus,
    Snooze,
    alert_rule_generations,
    alert_rule_snoozes,
    alert_rules,
)
from models.alert_rules.enums import TargetType
from models.base import select_list

# ruff: noqa: S608 - the statements are made of our own columns; callers' values are parameters

RULES: Final = f"""
SELECT {select_list(alert_rules.c, "r")},
    ARRAY(SELECT rp.project_id FROM alert_rule_projects rp WHERE rp.rule_id = r.id) AS projects
FROM alert_rules r WHERE r.id = ANY(%(ids)s::bigint[])
"""
"""The query for the rules with these ids, whatever their status."""

GENERATIONS: Final = f"""
SELECT {select_list(alert_rule_generations.c, "g")}
FROM unnest(%(rules)s::bigint[], %(generations)s::bigint[]) AS w(rule_id, generation)
JOIN alert_rule_generations g ON g.rule_id = w.rule_id AND g.generation = w.generation
"""
"""The query for the definitions of earlier generations. Each is given by rule id and generation."""

SNOOZES: Final = f"""
SELECT {select_list(alert_rule_snoozes.c, "s")} FROM alert_rule_snoozes s WHERE s.rule_id = ANY(%(ids)s::bigint[])
"""
"""The query for every snooze of these rules, including expired ones."""


def rule_from_row(row: Any) -> AlertRule:
    """Build a rule from a row of :data:`RULES`."""
    return AlertRule(
        id=row.id,
        organization_id=row.organization_id,
        status=RuleStatus(row.status),
        version=row.version,
        generation=row.generation,
        event_sequence=row.event_sequence,
        created_by=row.created_by,
        definition=definition_from_json(row.definition),
        date_added=row.date_added,
        date_modified=row.date_modified,
        projects=frozenset(row.projects),
    )


def definition_from_json(stored: Any) -> Definition:
    """Build a definition from the parsed value of its JSON column."""
    return Definition.model_validate(stored)


def snooze_from_row(row: Any) -> Snooze:
    """Build a snooze from a row of :data:`SNOOZES`."""
    return Snooze(
        rule_id=row.rule_id,
        user_id=row.user_id,
        owner_id=row.owner_id,
        until=row.until,
        date_added=row.date_added,
    )


def targeted_users(definitions: Iterable[Definition]) -> set[int]:
    """Return the ids of the users whom the definitions' actions target."""
    return {int(action.target) for action in _actions(definitions) if action.target_type is TargetType.USER}


def targeted_teams(definitions: Iterable[Definition]) -> set[int]:
    """Return the ids of the teams that the definitions' actions target."""
    return {int(action.target) for action in _actions(definitions) if action.target_type is TargetType.TEAM}


def _actions(definitions: Iterable[Definition]) -> Iterable[Action]:
    return (action for definition in definitions for action in definition.actions)
