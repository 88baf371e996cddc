"""Alert rules as callers see them: the rows, and the names that stand for the ids in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Final

from gateway.queries import PERSON_COLUMNS, person_of
from gateway.reading import Reader
from models.alert_rule import AlertRule, Definition, Snooze
from models.incident import Incident
from models.rule_reading import (
    GENERATIONS,
    RULES,
    SNOOZES,
    TEAMS,
    definition_of,
    people_in,
    rule_of,
    snooze_of,
    teams_in,
)
from models.rule_shapes import Edition, Names
from models.shapes import FoundBy

_PEOPLE: Final = f"SELECT {PERSON_COLUMNS} FROM users u WHERE u.id = ANY(%(ids)s::bigint[])"  # noqa: S608 - our own columns
_PROJECT_SLUGS: Final = "SELECT id, slug FROM projects WHERE id = ANY(%(ids)s::bigint[])"


class RuleReads:
    """Reads rules, in a fixed number of queries for any number of them."""

    def __init__(self, reader: Reader) -> None:
        self._rows = reader.rows

    async def found_by(self, incidents: Collection[Incident], viewer: int | None) -> dict[int, FoundBy]:
        """For each incident that a rule found, by its id: the rule as it was then."""
        found = {each.id: each for each in incidents if each.alert_rule_id is not None}
        if not found:
            return {}
        rules = await self.rules({each.alert_rule_id or 0 for each in found.values()})
        earlier = await self._earlier(rules, found.values())
        editions = {}
        for incident in found.values():
            rule = rules[incident.alert_rule_id or 0]
            editions[incident.id] = earlier.get((rule.id, incident.alert_rule_generation or 0), Edition.of(rule))
        snoozes = await self.snoozes(rules)
        names = await self.names(list(rules.values()), [each.definition for each in editions.values()])
        silent = {
            rule for rule in rules if any(each.user_id is None or each.user_id == viewer for each in snoozes[rule])
        }
        return {id_: FoundBy(edition, names, edition.rule.id in silent) for id_, edition in editions.items()}

    async def rules(self, ids: Collection[int]) -> dict[int, AlertRule]:
        """Rules by id, whatever their status."""
        rows = await self._rows(RULES, {"ids": list(ids)}) if ids else ()
        return {row.id: rule_of(row) for row in rows}

    async def snoozes(self, rules: Collection[int]) -> dict[int, list[Snooze]]:
        """The snoozes that hold now, by rule."""
        holding: dict[int, list[Snooze]] = defaultdict(list)
        now = datetime.now(UTC)
        for row in await self._rows(SNOOZES, {"ids": list(rules)}) if rules else ():
            snooze = snooze_of(row)
            if snooze.holds(now):
                holding[snooze.rule_id].append(snooze)
        return holding

    async def names(
        self, rules: Sequence[AlertRule], definitions: Iterable[Definition] = (), people: Iterable[int] = ()
    ) -> Names:
        """What the ids in these rules, and in what they said earlier, stand for; and more people by id."""
        said = [*definitions, *(rule.definition for rule in rules)]
        creators = {rule.created_by for rule in rules if rule.created_by is not None}
        projects = await self._rows(_PROJECT_SLUGS, {"ids": list(set(chain(*(rule.projects for rule in rules))))})
        teams = await self._rows(TEAMS, {"ids": list(teams_in(said))})
        persons = await self._rows(_PEOPLE, {"ids": list(people_in(said) | creators | set(people))})
        return Names(
            projects={row.id: row.slug for row in projects},
            teams={row.id: row.slug for row in teams},
            people={row.id: person_of(row) for row in persons},
        )

    async def _earlier(
        self, rules: dict[int, AlertRule], incidents: Iterable[Incident]
    ) -> dict[tuple[int, int], Edition]:
        began = {(each.alert_rule_id or 0, each.alert_rule_generation or 0) for each in incidents}
        past = [(rule, generation) for rule, generation in began if generation < rules[rule].generation]
        if not past:
            return {}
        asked = {"rules": [rule for rule, _ in past], "generations": [generation for _, generation in past]}
        return {
            (row.rule_id, row.generation): Edition(
                rules[row.rule_id], definition_of(row.definition), row.date_modified, is_snapshot=True
            )
            for row in await self._rows(GENERATIONS, asked)
        }
