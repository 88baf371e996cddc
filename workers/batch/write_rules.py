"""Writing what a batch has done to alert rules: one bulk statement per table."""

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
from models.base import column_arrays, insert_rows
from workers.batch.changes import RuleChanges

_RULE: Final = (
    "id", "organization_id", "status", "version", "generation", "event_sequence", "created_by", "date_added",
    "date_modified", "definition",
)  # fmt: skip
_MOVES: Final = ("id", "status", "version", "generation", "event_sequence", "date_modified", "definition")

_MOVE: Final = """
UPDATE alert_rules r
SET status = m.status, version = m.version, generation = m.generation, event_sequence = m.event_sequence,
    date_modified = m.date_modified, definition = m.definition::jsonb
FROM unnest(%(id)b::bigint[], %(status)b::smallint[], %(version)b::bigint[], %(generation)b::bigint[],
            %(event_sequence)b::bigint[], %(date_modified)b::timestamptz[], %(definition)b::text[])
     AS m(id, status, version, generation, event_sequence, date_modified, definition)
WHERE r.id = m.id
"""

_WAKE: Final = """
DELETE FROM alert_rule_snoozes s
USING unnest(%(rules)s::bigint[], %(users)s::bigint[]) AS w(rule_id, user_id)
WHERE s.rule_id = w.rule_id AND s.user_id IS NOT DISTINCT FROM w.user_id
"""


def write_rules(connection: Connection, changes: RuleChanges) -> None:
    """Write everything about rules inside the batch's transaction."""
    made = {rule.id for rule in changes.created}
    insert_rows(connection, alert_rules, _RULE, (_row(rule, _RULE) for rule in changes.created))
    _write_moves(connection, [rule for rule in changes.updated.values() if rule.id not in made])
    _write_projects(connection, [*changes.created, *changes.updated.values()])
    insert_rows(
        connection,
        alert_rule_generations,
        ("rule_id", "generation", "definition", "date_modified"),
        ((*begin, definition.model_dump_json(), at) for *begin, definition, at in changes.archived_generations),
        "ON CONFLICT DO NOTHING",
    )
    insert_rows(connection, environments, ("organization_id", "name"), changes.environments, "ON CONFLICT DO NOTHING")
    insert_rows(connection, alert_rule_activities, ("rule_id", "user_id", "type", "date_added"), changes.activities)
    if changes.ended_snoozes:
        rules, users = zip(*changes.ended_snoozes, strict=True)
        connection.exec_driver_sql(_WAKE, {"rules": list(rules), "users": list(users)})
    insert_rows(
        connection,
        alert_rule_snoozes,
        ("rule_id", "user_id", "owner_id", "until", "date_added"),
        ((each.rule_id, each.user_id, each.owner_id, each.until, each.date_added) for each in changes.snoozes.values()),
    )
    if changes.purged:
        connection.exec_driver_sql("DELETE FROM alert_rules WHERE id = ANY(%(ids)s::bigint[])", {"ids": changes.purged})


def _write_moves(connection: Connection, rules: list[AlertRule]) -> None:
    if rules:
        rows = [_row(rule, _MOVES) for rule in rules]
        connection.exec_driver_sql(_MOVE, dict(column_arrays(_MOVES, rows)))


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
