"""Loading what a batch has to know of alert rules; no query is made where none is named."""

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
from workers.batch.facts import Wants
from workers.batch.rule_facts import Earlier, Hold, Rulebook, Team

_PROGRESS: Final = """
SELECT rule_id, project_id, generation, observed, last_timestamp, counters
FROM alert_rule_progress WHERE rule_id = ANY(%(ids)s::bigint[])
"""

_HOLDS: Final = """
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


def load_rulebook(connection: Connection, wants: Wants, incidents: Collection[Incident]) -> Rulebook:
    """The rules that are named, and those that found the incidents as they were then; names people in ``wants``."""
    found_by = {each.alert_rule_id for each in incidents if each.alert_rule_id is not None}
    ids = wants.rules | found_by
    book = Rulebook()
    if ids:
        rows = connection.exec_driver_sql(RULES, {"ids": list(ids)})
        book.rules = {row.id: rule_from_row(row) for row in rows}
        book.earlier = _load_earlier(connection, book.rules, incidents)
        book.snoozes = _load_snoozes(connection, book.rules)
    if wants.observed:
        book.progress = _load_progress(connection, book.rules)
    if wants.may_call and found_by:
        book.holds = _load_holds(connection, [each.id for each in incidents if each.alert_rule_id is not None])
    definitions = [
        *(rule.definition for rule in book.rules.values()),
        *(each.definition for each in book.earlier.values()),
    ]
    teams = targeted_teams(definitions)
    book.teams = _load_teams(connection, teams | wants.told_teams)
    book.open_incidents = _load_open_incidents(connection, wants.ending)
    book.last_found = _load_last_found(connection, wants.ending)
    book.counts = _load_counts(connection, wants.counted)
    wants.users.update(_people_of(book, definitions))
    if wants.may_call:
        wants.teams |= teams
    return book


def _people_of(book: Rulebook, definitions: Iterable[Definition]) -> set[int]:
    snoozers = (each.owner_id for each in chain.from_iterable(book.snoozes.values()))
    creators = (rule.created_by for rule in book.rules.values())
    return targeted_users(definitions) | {id_ for id_ in chain(creators, snoozers) if id_ is not None}


def _load_earlier(
    connection: Connection, rules: dict[int, AlertRule], incidents: Iterable[Incident]
) -> dict[tuple[int, int], Earlier]:
    began = {(each.alert_rule_id or 0, each.alert_rule_generation or 0) for each in incidents}
    past = [(id_, generation) for id_, generation in began if id_ in rules and generation < rules[id_].generation]
    if not past:
        return {}
    rows = connection.exec_driver_sql(
        GENERATIONS, {"rules": [id_ for id_, _ in past], "generations": [generation for _, generation in past]}
    )
    return {
        (row.rule_id, row.generation): Earlier(definition_from_json(row.definition), row.date_modified) for row in rows
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


def _load_holds(connection: Connection, incidents: list[int]) -> dict[int, dict[int, Hold]]:
    holds: dict[int, dict[int, Hold]] = defaultdict(dict)
    for row in connection.exec_driver_sql(_HOLDS, {"ids": incidents}):
        holds[row.incident_id][row.trigger_id] = Hold(row.label, TriggerStatus(row.status))
    return holds


def _load_teams(connection: Connection, ids: Collection[int]) -> dict[int, Team]:
    if not ids:
        return {}
    return {
        row.id: Team(row.slug, team_facts_from_row(row))
        for row in connection.exec_driver_sql(TEAMS, {"ids": list(ids)})
    }


def _load_open_incidents(connection: Connection, rules: Collection[int]) -> dict[int, dict[int, int | None]]:
    open_: dict[int, dict[int, int | None]] = defaultdict(dict)
    if rules:
        rows = connection.exec_driver_sql(_OPEN_INCIDENTS, {"ids": list(rules)})
        for row in rows:
            open_[row.alert_rule_id][row.identifier] = row.alert_rule_generation
    return open_


def _load_last_found(connection: Connection, rules: Collection[int]) -> dict[int, int]:
    if not rules:
        return {}
    rows = connection.exec_driver_sql(
        "SELECT w.id, (SELECT max(alert_rule_generation) FROM incidents WHERE alert_rule_id = w.id) AS generation"
        " FROM unnest(%(ids)s::bigint[]) AS w(id)",
        {"ids": list(rules)},
    )
    return {row.id: row.generation for row in rows if row.generation is not None}


def _load_counts(connection: Connection, organizations: Collection[int]) -> dict[int, int]:
    if not organizations:
        return {}
    rows = connection.exec_driver_sql(_LIVE_RULES, {"ids": list(organizations)})
    return {row.id: row.live for row in rows}
