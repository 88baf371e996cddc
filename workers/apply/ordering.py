"""The order of commands that touch more than one subject.

A command is ordered by its own subject, but it may touch others (:class:`~tasks.commands.catalog.Touch`): an incident
that it finds by key or by rule, the organization in which it opens an incident, or the rule for which it opens one. To
be applied, it needs the locks on all these subjects, and all their earlier commands must be finished or in the same
batch. Otherwise it waits for a later batch, which does not count as a failed attempt. As a result, the commands that
touch an incident are applied in the order in which they were accepted, whichever subjects they belong to.
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
from models.incidents.incident import IS_OPEN
from models.messaging.command_ledger import (
    AFTER_LAST_SEQ,
    IS_WAITING,
    ClaimedCommand,
    WaitingCommands,
    read_waiting_commands,
    try_lock_subjects,
)
from models.messaging.subject import Subject, SubjectKind, subject_sql
from tasks.commands.catalog import CATALOG, Touch
from tasks.commands.fields import DEDUP_PREFIX, dedup_key_of
from workers.apply.limits import COMMANDS_PER_BATCH, COMMANDS_PER_SUBJECT, OBSERVATIONS_PER_RULE

Subjects = frozenset[str]
"""A set of subjects in text form."""


def read_subjects(connection: Connection, subjects: Iterable[str]) -> WaitingCommands:
    """Read the waiting commands of locked subjects, up to a batch's limits."""
    limits = {subject: _limit_of(subject) for subject in subjects}
    extra = OBSERVATIONS_PER_RULE if any(_is_of(SubjectKind.RULE, subject) for subject in limits) else 0
    return read_waiting_commands(connection, limits, most=COMMANDS_PER_BATCH + extra)


def last_by_subject(commands: Sequence[ClaimedCommand]) -> dict[str, int]:
    """Return the last ``seq`` of each subject among these commands, which must be sorted by ``seq``."""
    return {command.subject: command.seq for command in commands}


def select_applicable(connection: Connection, claimed: WaitingCommands, *, locked: set[str]) -> list[ClaimedCommand]:
    """Return the commands that may be applied now, sorted by ``seq``.

    A command that touches other subjects is selected only together with their earlier waiting commands. A command of an
    incident's subject also waits for the earlier commands of other subjects that touch the incident, unless they are in
    the same batch.
    """
    further = _further_subjects(connection, claimed.due)
    unlocked = _union(further) - locked
    available = locked | _lock(connection, unlocked)
    before = _read(connection, unlocked & available)
    # A command that failed before is applied alone, so the commands behind it in its subject wait.
    failed = {each.subject: each.seq for each in reversed(before.due) if each.attempts}
    earlier = [each for each in before.due if each.seq < failed.get(each.subject, AFTER_LAST_SEQ)]
    candidates = sorted({each.seq: each for each in (*claimed.due, *earlier)}.values(), key=lambda each: each.seq)
    touching = _touching_from_elsewhere(connection, candidates)
    reopened = _rules_of_reopened(candidates, touching)
    selection = _Selection(
        available=available | _lock(connection, _union(reopened) - available),
        further=further | reopened,
        touching={subject: each.seqs for subject, each in touching.items()},
        read_up_to=_lowest(
            claimed.paused_at,
            before.paused_at,
            failed,
            _truncated_at(candidates),
            dict.fromkeys(unlocked, before.read_through),
        ),
    )
    for command in candidates:
        selection.offer(command)
    return selection.selected


@dataclass(slots=True)
class _Selection:
    """The commands selected so far. Commands must be offered in order of ``seq``.

    ``available`` holds the locked subjects. ``further`` maps the id of a command to the other subjects that it touches.
    ``touching`` maps the subject of an incident to the ``seq`` of every command that touches the incident but belongs
    to another subject. ``read_up_to`` maps each subject whose commands are only partly known to the last ``seq`` up to
    which they are known.
    """

    available: set[str]
    further: Mapping[UUID, Subjects]
    touching: Mapping[str, Sequence[int]]
    read_up_to: Mapping[str, int]
    selected: list[ClaimedCommand] = field(default_factory=list)
    selected_seqs: set[int] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)

    def offer(self, command: ClaimedCommand) -> None:
        """Select the command, or block its subject and the incidents that it touches for all later commands."""
        subjects = self.further.get(command.id, frozenset()) | {command.subject}
        if self._must_wait(command, subjects):
            self.blocked.add(command.subject)
            self.blocked.update(subject for subject in subjects if _is_of(SubjectKind.INCIDENT, subject))
        else:
            self.selected.append(command)
            self.selected_seqs.add(command.seq)

    def _must_wait(self, command: ClaimedCommand, subjects: Subjects) -> bool:
        if command.id not in self.further and _touches_more(command):
            # It was read because it precedes another command. What it touches is found when its own subject is claimed.
            return True
        if any(
            subject not in self.available
            or subject in self.blocked
            or self.read_up_to.get(subject, AFTER_LAST_SEQ) < command.seq
            for subject in subjects
        ):
            return True
        # Earlier commands of this batch have been offered already.
        return any(
            seq < command.seq and seq not in self.selected_seqs for seq in self.touching.get(command.subject, ())
        )


# --- limits ----------------------------------------------------------------------------------------------------


def _limit_of(subject: str) -> int:
    return OBSERVATIONS_PER_RULE if _is_of(SubjectKind.RULE, subject) else COMMANDS_PER_SUBJECT


def _is_of(kind: SubjectKind, text: str) -> bool:
    subject = Subject.parse(text)
    return subject is not None and subject.kind is kind


def _truncated_at(commands: Sequence[ClaimedCommand]) -> dict[str, int]:
    """Map each subject that reached its limit to its last ``seq``. More commands may be waiting after that one."""
    counts = Counter(command.subject for command in commands)
    return {
        subject: last for subject, last in last_by_subject(commands).items() if counts[subject] >= _limit_of(subject)
    }


def _lowest(*limits: Mapping[str, int]) -> dict[str, int]:
    lowest: dict[str, int] = {}
    for each in limits:
        for subject, seq in each.items():
            lowest[subject] = min(seq, lowest.get(subject, AFTER_LAST_SEQ))
    return lowest


def _lock(connection: Connection, subjects: AbstractSet[str]) -> set[str]:
    return try_lock_subjects(connection, sorted(subjects)) if subjects else set()


def _read(connection: Connection, subjects: AbstractSet[str]) -> WaitingCommands:
    return read_subjects(connection, sorted(subjects)) if subjects else WaitingCommands([], {})


def _union(subjects: Mapping[UUID, Subjects]) -> set[str]:
    return {subject for each in subjects.values() for subject in each}


# --- the further subjects of a command -------------------------------------------------------------------------


def _touches_more(command: ClaimedCommand) -> bool:
    return _key_of(command) is not None or bool(_named_subjects(command))


def _further_subjects(connection: Connection, commands: Sequence[ClaimedCommand]) -> dict[UUID, Subjects]:
    """Map the id of each command that may touch other subjects to these subjects."""
    touching = [command for command in commands if _touches_more(command)]
    if not touching:
        return {}
    found = _find_incidents(connection, touching)
    return {command.id: _named_subjects(command) | found.get(_search_of(command), frozenset()) for command in touching}


def _also(command: ClaimedCommand) -> tuple[Touch, ...]:
    # A command of an unknown type fails when it is applied; until then it must not stop the batch.
    entry = CATALOG.get(command.type)
    return () if entry is None else entry.also


def _named_subjects(command: ClaimedCommand) -> Subjects:
    also = _also(command)
    named = set()
    if Touch.ORGANIZATION in also:
        named.add(str(Subject.organization(command.organization_id or 0)))
    if Touch.NAMED_RULE in also and (rule_id := command.payload.get("alert_rule")) is not None:
        named.add(str(Subject.rule(rule_id)))
    return frozenset(named)


class _IncidentSearch(NamedTuple):
    """A search for open incidents in an organization: the one with a deduplication key, or all that a rule opened."""

    organization_id: int | None
    rule_id: int | None
    key: str | None


def _search_of(command: ClaimedCommand) -> _IncidentSearch:
    rule_id = command.payload.get("alert_rule") if Touch.INCIDENTS_OF_RULE in _also(command) else None
    return _IncidentSearch(command.organization_id, rule_id, _key_of(command))


def _key_of(command: ClaimedCommand) -> str | None:
    """Return the key by which a command finds an incident: from its incident reference or its ``dedup_key``."""
    if Touch.INCIDENT_OF_KEY not in _also(command):
        return None
    named, opened = command.payload.get("incident", ""), command.payload.get("dedup_key")
    key: str | None = opened if (found := dedup_key_of(named)) is None else found
    return key


def _find_incidents(connection: Connection, commands: Iterable[ClaimedCommand]) -> dict[_IncidentSearch, Subjects]:
    """Map the search that each command requires to the subjects of the open incidents that it finds."""
    searches = list({_search_of(command) for command in commands})
    rows = connection.exec_driver_sql(
        _FIND_INCIDENTS,
        {
            "organizations": [search.organization_id for search in searches],
            "rules": [search.rule_id for search in searches],
            "keys": [search.key for search in searches],
        },
    )
    found: dict[_IncidentSearch, set[str]] = {}
    for row in rows:
        search = _IncidentSearch(row.organization_id, row.rule_id, row.key)
        found.setdefault(search, set()).add(str(Subject.incident(row.organization_id, row.identifier)))
    return {search: frozenset(subjects) for search, subjects in found.items()}


_FIND_INCIDENTS: Final = f"""
SELECT w.organization_id, w.rule_id, w.key, i.identifier
FROM unnest(%(organizations)s::bigint[], %(rules)s::bigint[], %(keys)s::text[]) AS w(organization_id, rule_id, key)
CROSS JOIN LATERAL (
    SELECT identifier FROM incidents
    WHERE organization_id = w.organization_id AND md5(dedup_key) = md5(w.key) AND dedup_key = w.key AND {IS_OPEN}
    UNION ALL
    SELECT identifier FROM incidents
    WHERE organization_id = w.organization_id AND alert_rule_id = w.rule_id AND {IS_OPEN}
) AS i
"""  # noqa: S608 - constants of our own


# --- commands of other subjects that touch an incident ---------------------------------------------------------


class _Touching(NamedTuple):
    """The waiting commands of other subjects that touch an incident, and the rule, if any, that opened the incident."""

    rule_id: int | None
    seqs: Sequence[int]


def _touching_from_elsewhere(connection: Connection, commands: Sequence[ClaimedCommand]) -> dict[str, _Touching]:
    """Map the subject of each incident to the waiting commands of other subjects that touch the incident.

    Such a command either belongs to the organization's subject and names the incident's deduplication key, or observes
    a value for the rule that opened the incident.
    """
    incidents = {
        text: subject
        for text in sorted({command.subject for command in commands})
        if (subject := Subject.parse(text)) is not None and subject.kind is SubjectKind.INCIDENT
    }
    if not incidents:
        return {}
    rows = connection.exec_driver_sql(
        _TOUCHING_FROM_ELSEWHERE,
        {
            "subjects": list(incidents),
            "organizations": [subject.ids[0] for subject in incidents.values()],
            "identifiers": [subject.ids[1] for subject in incidents.values()],
            "observing": [name for name, entry in CATALOG.items() if Touch.INCIDENTS_OF_RULE in entry.also],
            # One more than a batch holds: if that many came before, at least one of them is not in the batch.
            "observations": OBSERVATIONS_PER_RULE + 1,
        },
    )
    return {row.subject: _Touching(row.alert_rule_id, row.seqs or ()) for row in rows}


_TOUCHING_FROM_ELSEWHERE: Final = f"""
SELECT s.subject, i.alert_rule_id, waiting.seqs
FROM unnest(%(subjects)s::text[], %(organizations)s::bigint[], %(identifiers)s::bigint[])
    AS s(subject, organization_id, identifier)
JOIN incidents i ON i.organization_id = s.organization_id AND i.identifier = s.identifier
    AND (i.dedup_key IS NOT NULL OR i.alert_rule_id IS NOT NULL)
CROSS JOIN LATERAL (
    SELECT array_agg(touching.seq) AS seqs FROM (
        SELECT c.seq FROM commands c
        WHERE i.{IS_OPEN} AND i.dedup_key IS NOT NULL
            AND c.subject = {subject_sql(SubjectKind.ORGANIZATION, "i.organization_id")} AND c.{IS_WAITING}
            AND (c.payload->>'incident' = '{DEDUP_PREFIX}' || i.dedup_key OR c.payload->>'dedup_key' = i.dedup_key)
        UNION ALL (
            SELECT c.seq FROM commands c
            WHERE i.{IS_OPEN} AND c.subject = {subject_sql(SubjectKind.RULE, "i.alert_rule_id")}
                AND c.{IS_WAITING} AND c.type = ANY(%(observing)s::text[])
            ORDER BY c.seq LIMIT %(observations)s
        )
    ) AS touching
) AS waiting
"""  # noqa: S608 - constants of our own


def _rules_of_reopened(commands: Iterable[ClaimedCommand], touching: Mapping[str, _Touching]) -> dict[UUID, Subjects]:
    """Map the id of each command that reopens an incident opened by a rule to that rule's subject."""
    return {
        command.id: frozenset({str(Subject.rule(known.rule_id))})
        for command in commands
        if Touch.RULE_OF_REOPENED in _also(command)
        and command.payload.get("status") != IncidentStatus.CLOSED
        and (known := touching.get(command.subject)) is not None
        and known.rule_id is not None
    }
