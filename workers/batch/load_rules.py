"""Functions that load the requested facts about alert rules. If a batch needs none, they make no query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime
from itertools import chain
from typing import Any, Final

from sqlalchemy.engine import Connection

from models.alert_rules.alert_rule import IS_LIVE, AlertRule, Definition, Snooze, TriggerStatus
from models.alert_rules.evaluation import Progress, TriggerCounter
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
from models.directory.queries import TEAMS, team_facts_from_row
from models.incidents.incident import IS_OPEN, Incident
from workers.batch.fact_request import FactRequest
from workers.batch.rule_facts import PastGeneration, RuleFacts, RuleTeam, TriggerState

_PROGRESS: Final = """
SELECT rule_id, project_id, generation, observed, last_timestamp, counters
FROM alert_rule_progress WHERE rule_id = ANY(%(ids)s::bigint[])
"""

_TRIGGER_STATES: Final = """
SELECT incident_id, trigger_id, label, status FROM incident_triggers WHERE incident_id = ANY(%(ids)s::bigint[])
"""

_OPEN_INCIDENTS: Final = f"""
SELECT alert_rule_id, identifier, alert_rule_generation FROM incidents
WHERE alert_rule_id = ANY(%(ids)s::bigint[]) AND {IS_OPEN}
"""  # noqa: S608 - our own words

_LIVE_RULES: Final = f"""
SELECT o.id, (SELECT count(*) FROM alert_rules WHERE organization_id = o.id AND {IS_LIVE}) AS live
FROM unnest(%(ids)s::bigint[]) AS o(id)
"""  # noqa: S608


def load_rule_facts(connection: Connection, request: FactRequest, incidents: Collection[Incident]) -> RuleFacts:
    """Load the requested rules and those that opened the incidents.

    The people and teams to which the rules refer are added to the request.
    """
    opened_by = {each.alert_rule_id for each in incidents if each.alert_rule_id is not None}
    ids = request.rule_ids | opened_by
    facts = RuleFacts()
    if ids:
        rows = connection.exec_driver_sql(RULES, {"ids": list(ids)})
        facts.by_id = {row.id: rule_from_row(row) for row in rows}
        facts.past_generations = _load_past_generations(connection, facts.by_id, incidents)
        facts.snoozes = _load_snoozes(connection, facts.by_id)
    if request.observed_projects:
        facts.progress = _load_progress(connection, facts.by_id)
    if request.action_recipients and opened_by:
        facts.trigger_states = _load_trigger_states(
            connection, [each.id for each in incidents if each.alert_rule_id is not None]
        )
    definitions = [
        *(rule.definition for rule in facts.by_id.values()),
        *(each.definition for each in facts.past_generations.values()),
    ]
    teams = targeted_teams(definitions)
    facts.teams = _load_teams(connection, teams | request.target_team_ids)
    facts.open_incidents = _load_open_incidents(connection, request.ending_rule_ids)
    facts.last_generations_with_incident = _load_last_generations(connection, request.ending_rule_ids)
    facts.rule_counts = _load_rule_counts(connection, request.rule_count_organization_ids)
    request.user_ids.update(_people_of(facts, definitions))
    if request.action_recipients:
        request.team_ids |= teams
    return facts


def _people_of(facts: RuleFacts, definitions: Iterable[Definition]) -> set[int]:
    snoozers = (each.owner_id for each in chain.from_iterable(facts.snoozes.values()))
    creators = (rule.created_by for rule in facts.by_id.values())
    return targeted_users(definitions) | {id_ for id_ in chain(creators, snoozers) if id_ is not None}


def _load_past_generations(
    connection: Connection, rules: dict[int, AlertRule], incidents: Iterable[Incident]
) -> dict[tuple[int, int], PastGeneration]:
    generations = {(each.alert_rule_id or 0, each.alert_rule_generation or 0) for each in incidents}
    past = [(id_, generation) for id_, generation in generations if id_ in rules and generation < rules[id_].generation]
    if not past:
        return {}
    rows = connection.exec_driver_sql(
        GENERATIONS, {"rules": [id_ for id_, _ in past], "generations": [generation for _, generation in past]}
    )
    return {
        (row.rule_id, row.generation): PastGeneration(definition_from_json(row.definition), row.date_modified)
        for row in rows
    }


def _load_snoozes(connection: Connection, rules: dict[int, AlertRule]) -> dict[int, list[Snooze]]:
    snoozes: dict[int, list[Snooze]] = defaultdict(list)
    for row in connection.exec_driver_sql(SNOOZES, {"ids": list(rules)}):
        snoozes[row.rule_id].append(snooze_from_row(row))
    return snoozes


def _load_progress(connection: Connection, rules: Collection[int]) -> dict[tuple[int, int], Progress]:
    return {
        (row.rule_id, row.project_id): Progress(
            row.generation,
            row.observed,
            row.last_timestamp,
            {int(id_): _counter(each) for id_, each in row.counters.items()},
        )
        for row in connection.exec_driver_sql(_PROGRESS, {"ids": list(rules)})
    }


def _counter(stored: dict[str, Any]) -> TriggerCounter:
    opened_at = stored.get("opened_at")
    return TriggerCounter(
        stored["alerts"], stored["resolves"], None if opened_at is None else datetime.fromisoformat(opened_at)
    )


def _load_trigger_states(connection: Connection, incidents: list[int]) -> dict[int, dict[int, TriggerState]]:
    states: dict[int, dict[int, TriggerState]] = defaultdict(dict)
    for row in connection.exec_driver_sql(_TRIGGER_STATES, {"ids": incidents}):
        states[row.incident_id][row.trigger_id] = TriggerState(row.label, TriggerStatus(row.status))
    return states


def _load_teams(connection: Connection, ids: Collection[int]) -> dict[int, RuleTeam]:
    if not ids:
        return {}
    return {
        row.id: RuleTeam(row.slug, team_facts_from_row(row))
        for row in connection.exec_driver_sql(TEAMS, {"ids": list(ids)})
    }


def _load_open_incidents(connection: Connection, rules: Collection[int]) -> dict[int, dict[int, int | None]]:
    open_: dict[int, dict[int, int | None]] = defaultdict(dict)
    if rules:
        rows = connection.exec_driver_sql(_OPEN_INCIDENTS, {"ids": list(rules)})
        for row in rows:
            open_[row.alert_rule_id][row.identifier] = row.alert_rule_generation
    return open_


def _load_last_generations(connection: Connection, rules: Collection[int]) -> dict[int, int]:
    if not rules:
        return {}
    rows = connection.exec_driver_sql(
        "SELECT w.id, (SELECT max(alert_rule_generation) FROM incidents WHERE alert_rule_id = w.id) AS generation"
        " FROM unnest(%(ids)s::bigint[]) AS w(id)",
        {"ids": list(rules)},
    )
    return {row.id: row.generation for row in rows if row.generation is not None}


def _load_rule_counts(connection: Connection, organizations: Collection[int]) -> dict[int, int]:
    if not organizations:
        return {}
    rows = connection.exec_driver_sql(_LIVE_RULES, {"ids": list(organizations)})
    return {row.id: row.live for row in rows}
