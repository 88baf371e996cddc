"""Commands that touch more than the line they stand in, and what has to go before them.

A line is what waits on one subject. A command may touch others: the incident that it finds by key or by rule, the
organization in which it may open one, the rule in whose name it opens one. Then it takes their locks too, and what
was asked in them before it comes along; where that cannot be, it waits for the next round, and nothing is counted
against it. So an incident's commands keep their order, whichever line they stand in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from models.enums import IncidentStatus
from models.messaging.command_ledger import (
    AFTER_LAST_SEQ,
    ClaimedCommand,
    WaitingCommands,
    read_waiting_commands,
    try_lock_subjects,
)
from tasks.commands.incidents import OpenIncident, SetStatus
from tasks.commands.observations import ObserveMetric

COMMANDS_PER_SUBJECT: Final = 50
COMMANDS_PER_BATCH: Final = 200
OBSERVATIONS_PER_RULE: Final = 200
"""A rule's values come by the hundred and cost little each: a batch takes more of them, and has more room for that."""

Subjects = frozenset[str]


def read_subjects(connection: Connection, lines: Iterable[str]) -> WaitingCommands:
    """What waits on these locked lines, as much of it as a batch takes."""
    most_of = {line: _most_of(line) for line in lines}
    room = OBSERVATIONS_PER_RULE if any(map(_is_of_rule, most_of)) else 0
    return read_waiting_commands(connection, most_of, most=COMMANDS_PER_BATCH + room)


def last_by_subject(commands: Sequence[ClaimedCommand]) -> dict[str, int]:
    """Each subject with the ``seq`` of its last command among these, which are in order."""
    return {command.subject: command.seq for command in commands}


def select_applicable(connection: Connection, claimed: WaitingCommands, *, locked: set[str]) -> list[ClaimedCommand]:
    """What of these commands can be applied now, with what comes along from the other lines they touch; in order.

    The other way round, a command in an incident's line waits for those in other lines that came before it, touch
    the incident, and are not in this batch.
    """
    beside = _lines_beside(connection, claimed.due)
    lines = _all_of(beside) - locked
    free = locked | _lock(connection, lines)
    before = _read(connection, lines & free)
    # What was tried before shall fail alone: whoever comes after it waits until it is through.
    tried = {each.subject: each.seq for each in reversed(before.due) if each.attempts}
    along = [each for each in before.due if each.seq < tried.get(each.subject, AFTER_LAST_SEQ)]
    together = sorted({each.seq: each for each in (*claimed.due, *along)}.values(), key=lambda each: each.seq)
    elsewhere = _waiting_elsewhere(connection, together)
    reopening = _rules_of_reopened(together, elsewhere)
    choice = _Selection(
        free=free | _lock(connection, _all_of(reopening) - free),
        beside=beside | reopening,
        earlier={subject: each.seqs for subject, each in elsewhere.items()},
        read_up_to=_least(
            claimed.paused_at, before.paused_at, tried, _ends(together), dict.fromkeys(lines, before.read_through)
        ),
    )
    for command in together:
        choice.offer(command)
    return choice.selected


@dataclass(slots=True)
class _Selection:
    """Commands in order, and which of them are taken.

    ``earlier`` are, by incident's line, those that touch it from elsewhere. ``known_to`` is how far a line was read.
    """

    free: set[str]
    beside: Mapping[UUID, Subjects]
    earlier: Mapping[str, Sequence[int]]
    read_up_to: Mapping[str, int]
    selected: list[ClaimedCommand] = field(default_factory=list)
    met: set[int] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)

    def offer(self, command: ClaimedCommand) -> None:
        """Take the command, or let it wait, and with it whoever comes later in its line or on its incident."""
        lines = self.beside.get(command.id, frozenset()) | {command.subject}
        if self._has_to_wait(command, lines):
            self.stopped.add(command.subject)
            self.stopped.update(line for line in lines if _is_of_incident(line))
        else:
            self.selected.append(command)
            self.met.add(command.seq)

    def _has_to_wait(self, command: ClaimedCommand, lines: Subjects) -> bool:
        if command.id not in self.beside and _touches_more(command):
            # It came along, and nobody has looked what else it touches: its turn comes when its line is claimed.
            return True
        if any(
            line not in self.free or line in self.stopped or self.read_up_to.get(line, AFTER_LAST_SEQ) < command.seq
            for line in lines
        ):
            return True
        # Those that this batch takes have come before: it goes in order of `seq`.
        return any(seq < command.seq and seq not in self.met for seq in self.earlier.get(command.subject, ()))


# --- how far lines were read -----------------------------------------------------------------------------------


def _most_of(subject: str) -> int:
    return OBSERVATIONS_PER_RULE if _is_of_rule(subject) else COMMANDS_PER_SUBJECT


def _is_of_rule(line: str) -> bool:
    return line.startswith("rule:")


def _is_of_incident(line: str) -> bool:
    return line.startswith("incident:")


def _ends(commands: Sequence[ClaimedCommand]) -> dict[str, int]:
    """Where the reading of a line ended although more may wait on it: its last ``seq``."""
    lengths = Counter(command.subject for command in commands)
    return {
        subject: last for subject, last in last_by_subject(commands).items() if lengths[subject] >= _most_of(subject)
    }


def _least(*ends: Mapping[str, int]) -> dict[str, int]:
    least: dict[str, int] = {}
    for each in ends:
        for line, seq in each.items():
            least[line] = min(seq, least.get(line, AFTER_LAST_SEQ))
    return least


def _lock(connection: Connection, lines: AbstractSet[str]) -> set[str]:
    return try_lock_subjects(connection, sorted(lines)) if lines else set()


def _read(connection: Connection, lines: AbstractSet[str]) -> WaitingCommands:
    return read_subjects(connection, sorted(lines)) if lines else WaitingCommands([], {})


# --- which lines a command touches -----------------------------------------------------------------------------


def _touches_more(command: ClaimedCommand) -> bool:
    return command.type == ObserveMetric.name or _key_of(command) is not None or _rule_of(command) is not None


def _lines_beside(connection: Connection, claimed: Sequence[ClaimedCommand]) -> dict[UUID, Subjects]:
    """For each command that may touch more than its own line: which lines these are."""
    touching = [command for command in claimed if _touches_more(command)]
    if not touching:
        return {}
    found = _incidents_found(connection, touching)
    return {command.id: _named(command) | found.get(_search_of(command), frozenset()) for command in touching}


def _named(command: ClaimedCommand) -> Subjects:
    """Lines that the command itself names."""
    if command.type == ObserveMetric.name:
        return frozenset({f"org:{command.organization_id}"})
    rule = _rule_of(command)
    return frozenset() if rule is None else frozenset({f"rule:{rule}"})


class _Search(NamedTuple):
    """How a command finds open incidents: by key, or all of a rule."""

    organization: int | None
    rule: int | None
    key: str | None


def _search_of(command: ClaimedCommand) -> _Search:
    rule = command.payload.get("alert_rule") if command.type == ObserveMetric.name else None
    return _Search(command.organization_id, rule, _key_of(command))


def _key_of(command: ClaimedCommand) -> str | None:
    """The key by which a command finds its incident: its address is ``dedup:KEY``, or it opens one under a key."""
    address = command.payload.get("incident", "")
    key: str | None = command.payload.get("dedup_key")
    return address.removeprefix("dedup:") if address.startswith("dedup:") else key


def _rule_of(command: ClaimedCommand) -> int | None:
    """The rule in whose name a command opens an incident."""
    rule: int | None = command.payload.get("alert_rule") if command.type == OpenIncident.name else None
    return rule


def _incidents_found(connection: Connection, commands: Iterable[ClaimedCommand]) -> dict[_Search, Subjects]:
    """The lines of the open incidents that these commands find."""
    searches = list({_search_of(command) for command in commands})
    rows = connection.exec_driver_sql(
        _INCIDENTS_FOUND,
        {
            "organizations": [search.organization for search in searches],
            "rules": [search.rule for search in searches],
            "keys": [search.key for search in searches],
        },
    )
    found: dict[_Search, set[str]] = {}
    for organization, rule, key, identifier in rows:
        found.setdefault(_Search(organization, rule, key), set()).add(f"incident:{organization}:{identifier}")
    return {search: frozenset(lines) for search, lines in found.items()}


_INCIDENTS_FOUND: Final = """
SELECT w.organization_id, w.rule_id, w.key, i.identifier
FROM unnest(%(organizations)s::bigint[], %(rules)s::bigint[], %(keys)s::text[]) AS w(organization_id, rule_id, key)
CROSS JOIN LATERAL (
    SELECT identifier FROM incidents
    WHERE organization_id = w.organization_id AND md5(dedup_key) = md5(w.key) AND dedup_key = w.key AND status <> 2
    UNION ALL
    SELECT identifier FROM incidents
    WHERE organization_id = w.organization_id AND alert_rule_id = w.rule_id AND status <> 2
) AS i
"""


# --- what touches an incident from other lines -----------------------------------------------------------------


class _Elsewhere(NamedTuple):
    """What waits in other lines and touches an incident; and the rule that found it, if one did."""

    rule: int | None
    seqs: Sequence[int]


def _waiting_elsewhere(connection: Connection, commands: Sequence[ClaimedCommand]) -> dict[str, _Elsewhere]:
    """For each incident's line: what addresses it by key in its organization's line, or by value in its rule's."""
    subjects = sorted({command.subject for command in commands if _is_of_incident(command.subject)})
    if not subjects:
        return {}
    # Of values one more than a batch can take: if that many came before, one of them is not in it.
    rows = connection.exec_driver_sql(_ELSEWHERE, {"subjects": subjects, "values": OBSERVATIONS_PER_RULE + 1})
    return {row.subject: _Elsewhere(row.alert_rule_id, row.seqs or ()) for row in rows}


_ELSEWHERE: Final = f"""
SELECT s.subject, i.alert_rule_id, waiting.seqs
FROM unnest(%(subjects)s::text[]) AS s(subject)
JOIN incidents i ON i.organization_id = split_part(s.subject, ':', 2)::bigint
    AND i.identifier = split_part(s.subject, ':', 3)::bigint
    AND (i.dedup_key IS NOT NULL OR i.alert_rule_id IS NOT NULL)
CROSS JOIN LATERAL (
    SELECT array_agg(touching.seq) AS seqs FROM (
        SELECT c.seq FROM commands c
        WHERE i.status <> 2 AND i.dedup_key IS NOT NULL AND c.subject = 'org:' || i.organization_id
            AND c.state = 'accepted'
            AND (c.payload->>'incident' = 'dedup:' || i.dedup_key OR c.payload->>'dedup_key' = i.dedup_key)
        UNION ALL (
            SELECT c.seq FROM commands c
            WHERE i.status <> 2 AND c.subject = 'rule:' || i.alert_rule_id AND c.state = 'accepted'
                AND c.type = '{ObserveMetric.name}'
            ORDER BY c.seq LIMIT %(values)s
        )
    ) AS touching
) AS waiting
"""  # noqa: S608 - a name of our own


def _rules_of_reopened(commands: Iterable[ClaimedCommand], elsewhere: Mapping[str, _Elsewhere]) -> dict[UUID, Subjects]:
    """Whoever reopens what a rule had found keeps the rule from opening another one meanwhile."""
    return {
        command.id: frozenset({f"rule:{known.rule}"})
        for command in commands
        if command.type == SetStatus.name
        and command.payload.get("status") != IncidentStatus.CLOSED
        and (known := elsewhere.get(command.subject)) is not None
        and known.rule is not None
    }


def _all_of(lines: Mapping[UUID, Subjects]) -> set[str]:
    return {line for each in lines.values() for line in each}
