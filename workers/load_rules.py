"""Loading what a batch has to know of alert rules; no query is made where none is named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from itertools import chain

from sqlalchemy.engine import Connection

from models.alert_rule import AlertRule, Definition, Snooze
from models.incident import Incident
from models.rule_reading import (
    GENERATIONS,
    RULES,
    SNOOZES,
    TEAM_SLUGS,
    definition_of,
    people_in,
    rule_of,
    snooze_of,
    teams_in,
)
from workers.rulebook import Earlier, Rulebook
from workers.world import Wants


def load_rulebook(connection: Connection, wants: Wants, incidents: Collection[Incident]) -> Rulebook:
    """The rules that are named, and those that found the incidents as they were then; names people in ``wants``."""
    found_by = {each.alert_rule_id for each in incidents if each.alert_rule_id is not None}
    ids = wants.rules | found_by
    book = Rulebook()
    if ids:
        rows = connection.exec_driver_sql(RULES, {"ids": list(ids)})
        book.rules = {row.id: rule_of(row) for row in rows}
        book.earlier = _load_earlier(connection, book.rules, incidents)
        book.snoozes = _load_snoozes(connection, book.rules)
    definitions = [
        *(rule.definition for rule in book.rules.values()),
        *(each.definition for each in book.earlier.values()),
    ]
    book.team_slugs = _load_team_slugs(connection, teams_in(definitions))
    wants.users.update(_people_of(book, definitions))
    return book


def _people_of(book: Rulebook, definitions: Iterable[Definition]) -> set[int]:
    snoozers = (each.owner_id for each in chain.from_iterable(book.snoozes.values()))
    creators = (rule.created_by for rule in book.rules.values())
    return people_in(definitions) | {id_ for id_ in chain(creators, snoozers) if id_ is not None}


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
    return {(row.rule_id, row.generation): Earlier(definition_of(row.definition), row.date_modified) for row in rows}


def _load_snoozes(connection: Connection, rules: dict[int, AlertRule]) -> dict[int, list[Snooze]]:
    snoozes: dict[int, list[Snooze]] = defaultdict(list)
    for row in connection.exec_driver_sql(SNOOZES, {"ids": list(rules)}):
        snoozes[row.rule_id].append(snooze_of(row))
    return snoozes


def _load_team_slugs(connection: Connection, ids: Collection[int]) -> dict[int, str]:
    if not ids:
        return {}
    return {row.id: row.slug for row in connection.exec_driver_sql(TEAM_SLUGS, {"ids": list(ids)})}
