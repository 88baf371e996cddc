"""Whatever is asked of the list, and however its statements go about it: the rows are those of a plain filter."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.rows import namedtuple_row
from sqlalchemy import insert

from gateway import list_statements, title_search
from gateway.list_statements import page_keys
from gateway.paging import Cursor, Page
from gateway.selection import Selection, Standing
from models.incident import incident_projects, incidents
from models.vocabulary import IncidentStatus, IncidentType, StatusMethod
from tests.builders import NOW, a_project, an_organization
from tests.conftest import Database

ERA: Final = timedelta(days=32)
MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

WORDS: Final = (
    "Latency", "is high", "unreachable", "QUOTA", "Ärger", "straße", "İstanbul", "ΟΔΟΣ", "100%", "a_b", "\\d+", "---",
    "日本語の題", "किताब", "🔥🔥🔥", "o'clock", "eu-west-42", "x",
)  # fmt: skip
LONG: Final = "stack trace " * 100
"""More letters than the index has room for."""

DATES: Final = (
    *(NOW - timedelta(minutes=each // 3) for each in range(12)),
    *(NOW - timedelta(days=each) for each in (1, 2, 3, 31, 32, 33, 400, 1500)),
    *(EPOCH + 620 * ERA + each * MICROSECOND for each in (-1, 0, 1)),
    *(EPOCH + each * ERA for each in (-1, 0)),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
)


class House(NamedTuple):
    """Four projects, and an organization beside them that says the same."""

    connection: psycopg.Connection[Any]
    organization: int
    projects: Sequence[int]


@pytest.fixture
def house(database: Database) -> Iterator[House]:
    dice = random.Random(7)
    with database.engine.begin() as connection:
        ours, theirs = an_organization(connection), an_organization(connection)
        places = {each: [a_project(connection, each) for _ in range(4)] for each in (ours, theirs)}
        for organization, projects in places.items():
            rows = [_an_incident(dice, organization, number) for number in range(260)]
            ids = connection.execute(insert(incidents).returning(incidents.c.id, sort_by_parameter_order=True), rows)
            stands = [
                {"incident_id": id_, "project_id": project}
                for (id_,) in ids for project in dice.sample(projects, dice.choice((1, 1, 2)))
            ]  # fmt: skip
            connection.execute(insert(incident_projects), stands)
    with psycopg.connect(database.url, autocommit=True, row_factory=namedtuple_row) as reading:
        reading.execute("SET timezone = 'UTC'")
        yield House(reading, ours, places[ours])


def _an_incident(dice: random.Random, organization: int, number: int) -> dict[str, Any]:
    words = dice.sample(WORDS, dice.choice((1, 2, 3, 5)))
    status = dice.choice((*IncidentStatus, IncidentStatus.CLOSED, IncidentStatus.CLOSED))
    started = dice.choice(DATES)
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
    "title": PARTS, "standing": st.sampled_from((None, None, *Standing)), "start": MOMENTS, "end": MOMENTS,
})  # fmt: skip


@pytest.mark.parametrize("many", [False, True], ids=["project by project", "as one of many"])
def test_pages_hold_what_a_plain_filter_finds_each_once_there_and_back(
    house: House, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    # As if the list were long, and as if few projects were many.
    monkeypatch.setattr(list_statements, "WALK_ROWS", 6)
    monkeypatch.setattr(title_search, "FEW", 2)
    if many:
        monkeypatch.setattr(list_statements, "MERGED_PROJECTS", 0)
        monkeypatch.setattr(title_search, "MOST_NAMED", 0)
    asked: list[str] = []

    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate])
    @given(SELECTIONS, st.sampled_from((1, 3, 4)), st.integers(4, 60))
    def check(wish: dict[str, Any], projects: int, size: int) -> None:
        selection = Selection(house.organization, tuple(house.projects[:projects]), **wish)

        there = _pages(house, selection, Cursor(), size, asked)
        last = there[-1][0] if there[-1] else None
        back = [] if last is None else _pages(house, selection, Cursor(last, backwards=True), size, asked)

        expected = _plainly(house, selection)
        assert [key for page in there for key in page] == expected
        assert [key for page in back for key in page] == expected[: expected.index(last) if last else 0][::-1]

    check()

    assert any("hashint8extended" in statement for statement in asked)


def _pages(
    house: House, selection: Selection, cursor: Cursor, size: int, asked: list[str]
) -> list[list[tuple[datetime, int]]]:
    """All pages from the cursor on, each by the key of the last row of the one before."""
    pages = []
    while True:
        found = [tuple(row)[:2] for row in _keys(house, selection, Page(cursor, size), asked)]
        pages.append(found[:size])
        if len(found) <= size:
            return pages
        cursor = Cursor(found[size - 1], backwards=cursor.backwards)


def _keys(house: House, selection: Selection, page: Page, asked: list[str]) -> Sequence[Any]:
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


def _plainly(house: House, selection: Selection) -> list[tuple[datetime, int]]:
    standing = list(IncidentStatus) if selection.standing is None else selection.standing.statuses
    rows = house.connection.execute(
        """
        SELECT i.date_started, i.id FROM incidents i
        WHERE i.id IN (SELECT incident_id FROM incident_projects WHERE project_id = ANY(%(projects)s))
        AND position(lower(%(title)s) IN lower(i.title)) > 0 AND i.status = ANY(%(standing)s)
        AND (%(start)s::timestamptz IS NULL OR i.date_closed IS NULL OR i.date_closed >= %(start)s)
        AND (%(end)s::timestamptz IS NULL OR i.date_started <= %(end)s)
        ORDER BY i.date_started DESC, i.id DESC
        """,
        {
            "projects": list(selection.projects),
            "title": selection.title,
            "standing": [int(each) for each in standing],
            "start": selection.start,
            "end": selection.end,
        },
    )
    return [(row.date_started, row.id) for row in rows]
