"""Whatever is asked of the list, and however its statements go about it: the rows are those of a plain filter."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection, insert

from gateway.http.pagination import Cursor, Page
from gateway.reads import incident_list_pages, incident_list_search
from gateway.reads.incident_filters import IncidentFilter, RuleFilter, StatusFilter
from gateway.reads.incident_list_pages import page_keys
from models.alert_rules.alert_rule import alert_rule_generations
from models.enums import IncidentStatus, IncidentType, StatusMethod
from models.incidents.incident import incident_projects, incidents
from tests.builders import NOW, a_definition, a_project, an_alert_rule, an_organization
from tests.conftest import Database
from tests.http.chance import TIMES

EXAMPLES: Final = 150 * TIMES
ERA: Final = timedelta(days=32)
MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

WORDS: Final = (
    "Latency", "is high", "unreachable", "QUOTA", "Ärger", "straße", "İstanbul", "ΟΔΟΣ", "100%", "a_b", "\\d+", "---",
    "日本語の題", "किताब", "🔥🔥🔥", "o'clock", "eu-west-42", "x",
)  # fmt: skip
LONG: Final = "stack trace " * 100
"""More letters than the index has room for."""

TEAMS: Final = (7, 8)
ENVIRONMENTS: Final = ("prod", "İzmir", "it's")

DATES: Final = (
    *(NOW - timedelta(minutes=each // 3) for each in range(12)),
    *(NOW - timedelta(days=each) for each in (1, 2, 3, 31, 32, 33, 400, 1500)),
    *(EPOCH + 620 * ERA + each * MICROSECOND for each in (-1, 0, 1)),
    *(EPOCH + each * ERA for each in (-1, 0)),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
)


class SeededOrganization(NamedTuple):
    """Four projects, and an organization beside them that says the same."""

    connection: psycopg.Connection[Any]
    organization: int
    projects: Sequence[int]
    rules: Sequence[int]


@pytest.fixture
def house(database: Database) -> Iterator[SeededOrganization]:
    dice = random.Random(7)
    with database.engine.begin() as connection:
        ours, theirs = an_organization(connection), an_organization(connection)
        places = {each: [a_project(connection, each) for _ in range(4)] for each in (ours, theirs)}
        rules = {each: _rules(dice, connection, each) for each in (ours, theirs)}
        for organization, projects in places.items():
            rows = [_an_incident(dice, organization, number, rules[organization]) for number in range(260)]
            ids = connection.execute(insert(incidents).returning(incidents.c.id, sort_by_parameter_order=True), rows)
            stands = [
                {"incident_id": id_, "project_id": project}
                for (id_,) in ids for project in dice.sample(projects, dice.choice((1, 1, 2)))
            ]  # fmt: skip
            connection.execute(insert(incident_projects), stands)
    with database.engine.begin() as connection:
        # As it would soon be; of tables that it knows nothing of the server makes plans that take twice as long.
        connection.exec_driver_sql("ANALYZE")
    with psycopg.connect(database.url, autocommit=True, row_factory=namedtuple_row) as reading:
        reading.execute("SET timezone = 'UTC'")
        yield SeededOrganization(reading, ours, places[ours], list(rules[ours]))


def _rules(dice: random.Random, connection: Connection, organization: int) -> dict[int, int]:
    """Rules that have said different things; the generation that each of them is in."""
    rules = {}
    for generation in (1, 2, 3, 3):
        said = [
            {
                "owner_team": dice.choice((None, *TEAMS)),
                "environment": dice.choice((None, *ENVIRONMENTS)),
                "dataset": dice.choice(("events", "transactions")),
            }
            for _ in range(generation)
        ]
        rule = an_alert_rule(connection, organization, projects=[], generation=generation, **said[-1])
        rules[rule] = generation
        for number, words in enumerate(said[:-1]):
            earlier = {"definition": a_definition(**words).model_dump(mode="json"), "date_modified": NOW}
            connection.execute(insert(alert_rule_generations).values(rule_id=rule, generation=number + 1, **earlier))
    return rules


def _an_incident(dice: random.Random, organization: int, number: int, rules: dict[int, int]) -> dict[str, Any]:
    words = dice.sample(WORDS, dice.choice((1, 2, 3, 5)))
    status = dice.choice((*IncidentStatus, IncidentStatus.CLOSED, IncidentStatus.CLOSED))
    started = dice.choice(DATES)
    rule = dice.choice((None, *rules))
    is_over = status is IncidentStatus.CLOSED and started.year < 9999
    return {
        "organization_id": organization,
        "identifier": number + 1,
        "title": " ".join([*words, LONG] if number % 40 == 0 else words),
        "status": status,
        "status_method": StatusMethod.MANUAL,
        "type": IncidentType.DETECTED,
        "date_started": started,
        "date_detected": started,
        "date_added": NOW,
        "date_closed": started + dice.choice((MICROSECOND, timedelta(hours=5), timedelta(days=90)))
        if is_over
        else None,
        "last_activity_at": NOW,
        "alert_rule_id": rule,
        "alert_rule_generation": rule and dice.randint(1, rules[rule]),
    }


PARTS: Final = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(("lat", "ency is", "h unr", "ta x", "-42", "ÄRG", "ßE", "οδο", "IS", "", "nowhere", "ace stack ")),
    st.tuples(st.sampled_from([f"{one} {other}" for one in WORDS for other in WORDS]), st.integers(0, 9)).map(
        lambda drawn: drawn[0][drawn[1] % len(drawn[0]) :].swapcase()
    ),
)
MOMENTS: Final = st.one_of(st.none(), st.sampled_from([each for each in DATES if 1 < each.year < 9999]))
SELECTIONS: Final = st.fixed_dictionaries({
    "title": PARTS, "status": st.sampled_from((None, None, *StatusFilter)), "start": MOMENTS, "end": MOMENTS,
})  # fmt: skip
WISHES: Final = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {},
        optional={
            "rule": st.integers(0, 4),
            "with_snapshots": st.booleans(),
            "environments": st.sets(st.sampled_from(ENVIRONMENTS), max_size=2).map(frozenset),
            "teams": st.sets(st.sampled_from((*TEAMS, 9)), max_size=3).map(frozenset),
            "or_unassigned": st.booleans(),
            "only_events": st.booleans(),
        },
    ),
)


@pytest.mark.parametrize("many", [False, True], ids=["project by project", "as one of many"])
def test_pages_hold_what_a_plain_filter_finds_each_once_there_and_back(
    house: SeededOrganization, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    # As if the list were long, and as if few projects were many.
    monkeypatch.setattr(incident_list_pages, "SCAN_ROWS", 6)
    monkeypatch.setattr(incident_list_search, "MAX_SORTED", 2)
    if many:
        monkeypatch.setattr(incident_list_pages, "MERGED_PROJECTS", 0)
        monkeypatch.setattr(incident_list_search, "MAX_PROJECT_SCOPES", 0)
    asked: list[str] = []

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate]
    )
    @given(SELECTIONS, WISHES, st.sampled_from((1, 3, 4)), st.integers(4, 60))
    def check(wish: dict[str, Any], of_rule: dict[str, Any], projects: int, size: int) -> None:
        rule = RuleFilter(**{name: value for name, value in of_rule.items() if name != "rule"})
        if "rule" in of_rule:
            # The last is none of ours.
            rule = replace(rule, alert_rule=[*house.rules, house.rules[-1] + 1][of_rule["rule"]])
        selection = IncidentFilter(house.organization, tuple(house.projects[:projects]), rule=rule, **wish)

        there = _pages(house, selection, Cursor(), size, asked)
        last = there[-1][0] if there[-1] else None
        back = [] if last is None else _pages(house, selection, Cursor(last, backwards=True), size, asked)

        expected = _plainly(house, selection)
        assert [key for page in there for key in page] == expected
        assert [key for page in back for key in page] == expected[: expected.index(last) if last else 0][::-1]

    check()

    for key in ("substr", "'rule:'", "'environment:'", "'team:'", "'dataset:events'"):
        assert any("hashint8extended" in statement and key in statement for statement in asked)


def _pages(
    house: SeededOrganization, selection: IncidentFilter, cursor: Cursor, size: int, asked: list[str]
) -> list[list[tuple[datetime, int]]]:
    """All pages from the cursor on, each by the key of the last row of the one before."""
    pages = []
    while True:
        found = [tuple(row)[:2] for row in _keys(house, selection, Page(cursor, size), asked)]
        pages.append(found[:size])
        if len(found) <= size:
            return pages
        cursor = Cursor(found[size - 1], backwards=cursor.backwards)


def _keys(house: SeededOrganization, selection: IncidentFilter, page: Page, asked: list[str]) -> Sequence[Any]:
    asking = page_keys(selection, page)
    rows = None
    try:
        while True:
            statement, parameters = next(asking) if rows is None else asking.send(rows)
            asked.append(statement)
            rows = house.connection.execute(statement.encode(), parameters).fetchall()
    except StopIteration as end:
        found: Sequence[Any] = end.value
        return found


def _plainly(house: SeededOrganization, selection: IncidentFilter) -> list[tuple[datetime, int]]:
    statuses = list(IncidentStatus) if selection.status is None else selection.status.statuses
    rule = selection.rule
    rows = house.connection.execute(
        """
        SELECT i.date_started, i.id FROM incidents i LEFT JOIN alert_rules r ON r.id = i.alert_rule_id
        LEFT JOIN alert_rule_generations g ON g.rule_id = r.id AND g.generation = i.alert_rule_generation
        CROSS JOIN LATERAL (SELECT coalesce(g.definition, r.definition) AS words) AS said
        WHERE i.id IN (SELECT incident_id FROM incident_projects WHERE project_id = ANY(%(projects)s))
        AND position(lower(%(title)s) IN lower(i.title)) > 0 AND i.status = ANY(%(statuses)s)
        AND (%(rule)s::bigint IS NULL OR (r.id = %(rule)s AND (%(snapshots)s OR g.generation IS NULL)))
        AND (%(environments)s::text[] = '{}' OR said.words->>'environment' = ANY(%(environments)s))
        AND (%(teams)s::bigint[] IS NULL OR (said.words->>'owner_team')::bigint = ANY(%(teams)s)
             OR (%(unassigned)s AND said.words->>'owner_team' IS NULL))
        AND (NOT %(events)s OR r.id IS NULL OR said.words->>'dataset' = 'events')
        AND (%(start)s::timestamptz IS NULL OR i.date_closed IS NULL OR i.date_closed >= %(start)s)
        AND (%(end)s::timestamptz IS NULL OR i.date_started <= %(end)s)
        ORDER BY i.date_started DESC, i.id DESC
        """,
        {
            "projects": list(selection.projects),
            "title": selection.title,
            "statuses": [int(each) for each in statuses],
            "rule": rule.alert_rule,
            "snapshots": rule.with_snapshots,
            "environments": list(rule.environments),
            "teams": None if rule.teams is None else list(rule.teams),
            "unassigned": rule.or_unassigned,
            "events": rule.only_events,
            "start": selection.start,
            "end": selection.end,
        },
    )
    return [(row.date_started, row.id) for row in rows]
