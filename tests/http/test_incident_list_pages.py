"""For any filter and any query plan, the incident list returns the same rows as a plain filter."""

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
from tests.http.fuzz_settings import TIMES

EXAMPLES: Final = 150 * TIMES
TIME_BUCKET: Final = timedelta(days=32)
MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

WORDS: Final = (
    "Latency", "is high", "unreachable", "QUOTA", "Ärger", "straße", "İstanbul", "ΟΔΟΣ", "100%", "a_b", "\\d+", "---",
    "日本語の題", "किताब", "🔥🔥🔥", "o'clock", "eu-west-42", "x",
)  # fmt: skip
LONG: Final = "stack trace " * 100
"""A title with more trigrams than the search index stores for one title."""

TEAMS: Final = (7, 8)
ENVIRONMENTS: Final = ("prod", "İzmir", "it's")

DATES: Final = (
    *(NOW - timedelta(minutes=each // 3) for each in range(12)),
    *(NOW - timedelta(days=each) for each in (1, 2, 3, 31, 32, 33, 400, 1500)),
    *(EPOCH + 620 * TIME_BUCKET + each * MICROSECOND for each in (-1, 0, 1)),
    *(EPOCH + each * TIME_BUCKET for each in (-1, 0)),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
)


class SeededOrganization(NamedTuple):
    """An organization with four projects, beside another one with the same data."""

    connection: psycopg.Connection[Any]
    organization: int
    projects: Sequence[int]
    rules: Sequence[int]


@pytest.fixture
def dataset(database: Database) -> Iterator[SeededOrganization]:
    rng = random.Random(7)
    with database.engine.begin() as connection:
        ours, theirs = an_organization(connection), an_organization(connection)
        projects_of = {each: [a_project(connection, each) for _ in range(4)] for each in (ours, theirs)}
        rules = {each: _rules(rng, connection, each) for each in (ours, theirs)}
        for organization, projects in projects_of.items():
            rows = [_an_incident(rng, organization, number, rules[organization]) for number in range(260)]
            ids = connection.execute(insert(incidents).returning(incidents.c.id, sort_by_parameter_order=True), rows)
            placements = [
                {"incident_id": id_, "project_id": project}
                for (id_,) in ids for project in rng.sample(projects, rng.choice((1, 1, 2)))
            ]  # fmt: skip
            connection.execute(insert(incident_projects), placements)
    with database.engine.begin() as connection:
        # Without statistics the server chooses plans that take twice as long.
        connection.exec_driver_sql("ANALYZE")
    with psycopg.connect(database.url, autocommit=True, row_factory=namedtuple_row) as reading:
        reading.execute("SET timezone = 'UTC'")
        yield SeededOrganization(reading, ours, projects_of[ours], list(rules[ours]))


def _rules(rng: random.Random, connection: Connection, organization: int) -> dict[int, int]:
    """Insert rules with earlier generations; return the current generation by rule id."""
    rules = {}
    for generation in (1, 2, 3, 3):
        definitions: list[dict[str, Any]] = [
            {
                "owner_team": rng.choice((None, *TEAMS)),
                "environment": rng.choice((None, *ENVIRONMENTS)),
                "dataset": rng.choice(("events", "transactions")),
            }
            for _ in range(generation)
        ]
        rule = an_alert_rule(connection, organization, projects=[], generation=generation, **definitions[-1])
        rules[rule] = generation
        for number, fields in enumerate(definitions[:-1]):
            earlier = {"definition": a_definition(**fields).model_dump(mode="json"), "date_modified": NOW}
            connection.execute(insert(alert_rule_generations).values(rule_id=rule, generation=number + 1, **earlier))
    return rules


def _an_incident(rng: random.Random, organization: int, number: int, rules: dict[int, int]) -> dict[str, Any]:
    words = rng.sample(WORDS, rng.choice((1, 2, 3, 5)))
    status = rng.choice((*IncidentStatus, IncidentStatus.CLOSED, IncidentStatus.CLOSED))
    started = rng.choice(DATES)
    rule = rng.choice((None, *rules))
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
        "date_closed": started + rng.choice((MICROSECOND, timedelta(hours=5), timedelta(days=90))) if is_over else None,
        "last_activity_at": NOW,
        "alert_rule_id": rule,
        "alert_rule_generation": rule and rng.randint(1, rules[rule]),
    }


TITLE_PARTS: Final = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(("lat", "ency is", "h unr", "ta x", "-42", "ÄRG", "ßE", "οδο", "IS", "", "nowhere", "ace stack ")),
    st.tuples(st.sampled_from([f"{one} {other}" for one in WORDS for other in WORDS]), st.integers(0, 9)).map(
        lambda drawn: drawn[0][drawn[1] % len(drawn[0]) :].swapcase()
    ),
)
MOMENTS: Final = st.one_of(st.none(), st.sampled_from([each for each in DATES if 1 < each.year < 9999]))
FILTERS: Final = st.fixed_dictionaries({
    "title": TITLE_PARTS, "status": st.sampled_from((None, None, *StatusFilter)), "start": MOMENTS, "end": MOMENTS,
})  # fmt: skip
RULE_FILTERS: Final[st.SearchStrategy[dict[str, Any]]] = st.one_of(
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


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True], ids=["merged projects", "filtered projects"])
def test_paging_in_either_direction_returns_each_matching_row_once(
    dataset: SeededOrganization, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    # With small limits, a short list behaves like a long one, and few projects behave like many.
    monkeypatch.setattr(incident_list_pages, "SCAN_ROWS", 6)
    monkeypatch.setattr(incident_list_search, "MAX_SORTED", 2)
    if many:
        monkeypatch.setattr(incident_list_pages, "MERGED_PROJECTS", 0)
        monkeypatch.setattr(incident_list_search, "MAX_PROJECT_SCOPES", 0)
    statements: list[str] = []

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate]
    )
    @given(FILTERS, RULE_FILTERS, st.sampled_from((1, 3, 4)), st.integers(4, 60))
    def check(filters: dict[str, Any], rule_filters: dict[str, Any], projects: int, size: int) -> None:
        rule = RuleFilter(**{name: value for name, value in rule_filters.items() if name != "rule"})
        if "rule" in rule_filters:
            # The last id belongs to no rule of this organization.
            rule = replace(rule, alert_rule=[*dataset.rules, dataset.rules[-1] + 1][rule_filters["rule"]])
        selection = IncidentFilter(dataset.organization, tuple(dataset.projects[:projects]), rule=rule, **filters)

        forward = _pages(dataset, selection, Cursor(), size, statements)
        last = forward[-1][0] if forward[-1] else None
        backward = [] if last is None else _pages(dataset, selection, Cursor(last, backwards=True), size, statements)

        expected = _plain_filter(dataset, selection)
        assert [key for page in forward for key in page] == expected
        assert [key for page in backward for key in page] == expected[: expected.index(last) if last else 0][::-1]

    check()

    for key in ("substr", "'rule:'", "'environment:'", "'team:'", "'dataset:events'"):
        assert any("hashint8extended" in statement and key in statement for statement in statements)


def _pages(
    dataset: SeededOrganization, selection: IncidentFilter, cursor: Cursor, size: int, statements: list[str]
) -> list[list[tuple[datetime, int]]]:
    """Return all pages from the cursor on; each starts after the last row of the previous page."""
    pages = []
    while True:
        found = [tuple(row)[:2] for row in _keys(dataset, selection, Page(cursor, size), statements)]
        pages.append(found[:size])
        if len(found) <= size:
            return pages
        cursor = Cursor(found[size - 1], backwards=cursor.backwards)


def _keys(dataset: SeededOrganization, selection: IncidentFilter, page: Page, statements: list[str]) -> Sequence[Any]:
    generator = page_keys(selection, page)
    rows = None
    try:
        while True:
            statement, parameters = next(generator) if rows is None else generator.send(rows)
            statements.append(statement)
            rows = dataset.connection.execute(statement.encode(), parameters).fetchall()
    except StopIteration as end:
        found: Sequence[Any] = end.value
        return found


def _plain_filter(dataset: SeededOrganization, selection: IncidentFilter) -> list[tuple[datetime, int]]:
    statuses = list(IncidentStatus) if selection.status is None else selection.status.statuses
    rule = selection.rule
    rows = dataset.connection.execute(
        """
        SELECT i.date_started, i.id FROM incidents i LEFT JOIN alert_rules r ON r.id = i.alert_rule_id
        LEFT JOIN alert_rule_generations g ON g.rule_id = r.id AND g.generation = i.alert_rule_generation
        CROSS JOIN LATERAL (SELECT coalesce(g.definition, r.definition) AS fields) AS definition
        WHERE i.id IN (SELECT incident_id FROM incident_projects WHERE project_id = ANY(%(projects)s))
        AND position(fold_title(%(title)s) IN fold_title(i.title)) > 0 AND i.status = ANY(%(statuses)s)
        AND (%(rule)s::bigint IS NULL OR (r.id = %(rule)s AND (%(snapshots)s OR g.generation IS NULL)))
        AND (%(environments)s::text[] = '{}' OR definition.fields->>'environment' = ANY(%(environments)s))
        AND (%(teams)s::bigint[] IS NULL OR (definition.fields->>'owner_team')::bigint = ANY(%(teams)s)
             OR (%(unassigned)s AND definition.fields->>'owner_team' IS NULL))
        AND (NOT %(events)s OR r.id IS NULL OR definition.fields->>'dataset' = 'events')
        AND (%(start)s::timestamptz IS NULL OR i.status <> 2 OR i.date_closed IS NULL OR i.date_closed >= %(start)s)
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
