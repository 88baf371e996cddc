"""Functions that write the changes to alert rules, with one bulk statement per table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy.engine import Connection

from models.alert_rules.alert_rule import (
    AlertRule,
    alert_rule_activities,
    alert_rule_generations,
    alert_rule_projects,
    alert_rule_snoozes,
    alert_rules,
    environments,
)
from models.base import insert_rows, update_rows
from workers.batch.changes import ArchivedGeneration, NewRuleActivity, RuleChanges

_RULE_COLUMNS: Final = tuple(column.name for column in alert_rules.c)
_UPDATED_COLUMNS: Final = ("id", "status", "version", "generation", "event_sequence", "date_modified", "definition")

_DELETE_SNOOZES: Final = """
DELETE FROM alert_rule_snoozes s
USING unnest(%(rules)s::bigint[], %(users)s::bigint[]) AS w(rule_id, user_id)
WHERE s.rule_id = w.rule_id AND s.user_id IS NOT DISTINCT FROM w.user_id
"""


def write_rules(connection: Connection, changes: RuleChanges) -> None:
    """Write the changes to alert rules, in the batch's transaction."""
    created = {rule.id for rule in changes.created}
    insert_rows(connection, alert_rules, _RULE_COLUMNS, (_row(rule, _RULE_COLUMNS) for rule in changes.created))
    updated = [rule for rule in changes.updated.values() if rule.id not in created]
    update_rows(connection, alert_rules, _UPDATED_COLUMNS, (_row(rule, _UPDATED_COLUMNS) for rule in updated))
    _write_projects(connection, [*changes.created, *changes.updated.values()])
    insert_rows(
        connection,
        alert_rule_generations,
        ArchivedGeneration._fields,
        (
            (each.rule_id, each.generation, each.definition.model_dump_json(), each.date_modified)
            for each in changes.archived_generations
        ),
        "ON CONFLICT DO NOTHING",
    )
    insert_rows(connection, environments, ("organization_id", "name"), changes.environments, "ON CONFLICT DO NOTHING")
    insert_rows(connection, alert_rule_activities, NewRuleActivity._fields, changes.activities)
    if changes.ended_snoozes:
        rules, users = zip(*changes.ended_snoozes, strict=True)
        connection.exec_driver_sql(_DELETE_SNOOZES, {"rules": list(rules), "users": list(users)})
    insert_rows(
        connection,
        alert_rule_snoozes,
        ("rule_id", "user_id", "owner_id", "until", "date_added"),
        ((each.rule_id, each.user_id, each.owner_id, each.until, each.date_added) for each in changes.snoozes.values()),
    )


def purge_rules(connection: Connection, changes: RuleChanges) -> None:
    """Delete the rows of purged rules, with the rows that refer to them.

    This comes last, because earlier commands of the batch may have written such rows.
    """
    if changes.purged:
        connection.exec_driver_sql("DELETE FROM alert_rules WHERE id = ANY(%(ids)s::bigint[])", {"ids": changes.purged})


def _write_projects(connection: Connection, rules: list[AlertRule]) -> None:
    if not rules:
        return
    pairs = {(rule.id, project) for rule in rules for project in rule.projects}
    parameters = {"rules": [rule for rule, _ in pairs], "projects": [project for _, project in pairs]}
    connection.exec_driver_sql(
        "DELETE FROM alert_rule_projects WHERE rule_id = ANY(%(ids)s::bigint[]) AND (rule_id, project_id) NOT IN"
        " (SELECT * FROM unnest(%(rules)s::bigint[], %(projects)s::bigint[]))",
        {"ids": [rule.id for rule in rules], **parameters},
    )
    insert_rows(connection, alert_rule_projects, ("rule_id", "project_id"), pairs, "ON CONFLICT DO NOTHING")


def _row(rule: AlertRule, columns: Iterable[str]) -> tuple[Any, ...]:
    values = {name: getattr(rule, name) for name in columns}
    values |= {"status": int(rule.status), "definition": rule.definition.model_dump_json()}
    return tuple(values[name] for name in columns)
