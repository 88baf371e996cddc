"""Statements that find the keys of a page of the incident list, at the same cost for page 1 as for page 5,000.

The rows of :mod:`models.incidents.list_projection` are indexed in list order for each project. A page is read in that
order, starting at the cursor, and the projects' rows are merged. A filter by title or rule is first applied to a
limited number of rows. If matches are common, these rows fill the page. Otherwise the search index finds the matches
(:mod:`~gateway.reads.incident_list_search`).
"""

# ruff: noqa: S608 - the SQL is composed of our own fragments; callers' values are parameters
from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from gateway.http.pagination import Cursor, Page
from gateway.reads.database import Rows
from gateway.reads.incident_filters import IncidentFilter
from gateway.reads.incident_list_ranges import (
    COLUMNS,
    IN_PROJECTS,
    MATCHES_TITLE,
    RULE_COLUMN_LIST,
    KeyRange,
    Segment,
    key_range_from,
    segments,
)
from gateway.reads.incident_list_search import (
    ANY_LONG,
    SAMPLE_SIZE,
    Trigrams,
    can_search,
    choose_trigrams,
    sample_mask,
    search,
    search_scopes,
)
from models.incidents.incident import IS_OPEN
from models.types import MAX_ID

MERGED_PROJECTS: Final = 32
"""Up to this many projects are merged row by row. With more projects, a page is read from each and these are merged."""

SCAN_ROWS: Final = 1_000
"""How many rows, in list order, are checked against the title or rule before the search index is used."""


Statement = tuple[str, dict[str, Any]]
"""The text of an SQL statement, with its parameters."""


def page_keys(filter_: IncidentFilter, page: Page) -> Generator[Statement, Rows, Rows]:
    """Yield the statements that find a page, receive the rows of each statement, and finally return the page's keys.

    A key is a row with ``date_started`` and ``incident_id``. If another page follows, one more key than the page shows
    is returned.
    """
    if filter_.is_empty or (page.cursor.key is None and page.cursor.backwards):
        return []
    parameters = _parameters(filter_, page)
    if filter_.dedup_key is not None:
        return (yield _by_dedup_key(filter_, page), parameters)
    keys: list[Any] = []
    trigrams: Trigrams | None = None
    for segment in segments(filter_, page.cursor):
        if len(keys) < page.limit:
            rows, trigrams = yield from _segment_keys(segment, page, parameters, trigrams)
            keys += rows
    return keys[: page.limit]


def _segment_keys(
    segment: Segment, page: Page, parameters: dict[str, Any], trigrams: Trigrams | None
) -> Generator[Statement, Rows, tuple[Rows, Trigrams | None]]:
    """Find a page of a segment's keys. If an earlier segment has already determined ``trigrams``, skip the scan."""
    if not segment.needs_search:
        return (yield _page_of(_rows_in_order(segment, limit=page.limit), segment.key_range, page), parameters), None
    if not can_search(segment.filter):
        # No index covers a title that is shorter than a trigram, so the whole list is scanned.
        stream, is_selected = _scanned_rows(segment, limit=None)
        condition = f"{MATCHES_TITLE} AND {is_selected}"
        return (yield _page_of(f"{stream} OFFSET 0", segment.key_range, page, condition), parameters), None
    if trigrams is None:
        scanned = yield _scan(segment, page), parameters
        if not scanned[0].is_cut:
            return [row for row in scanned if row.incident_id is not None], None
        trigrams = choose_trigrams(segment.filter, scanned[0].sample, any_long=scanned[0].any_long)
    return (yield _search(segment, page, trigrams), parameters), trigrams


def _scan(segment: Segment, page: Page) -> str:
    """Return the statement that scans the next rows in sort order and filters them. It always returns at least one row.

    If the scan stopped before the page was full (``is_cut``), every row has two more columns: ``sample``, which
    describes a sample of the scanned rows, and ``any_long``, which tells whether the organization has any titles that
    are too long to be indexed.
    """
    stream, is_selected = _scanned_rows(segment, limit=SCAN_ROWS)
    return f"""
        WITH near AS MATERIALIZED (
            SELECT folded_title, date_started, incident_id, {RULE_COLUMN_LIST}, {is_selected} AS is_selected
            FROM ({stream}) AS s {segment.key_range.order} LIMIT {SCAN_ROWS}
        ), page AS MATERIALIZED (
            SELECT DISTINCT date_started, incident_id FROM near WHERE is_selected AND {segment.matches}
            {segment.key_range.order} LIMIT {page.limit}
        ), scan AS MATERIALIZED (
            SELECT CASE WHEN (SELECT count(*) FROM page) < {page.limit}
                   THEN (SELECT count(*) FROM near) = {SCAN_ROWS} ELSE false END AS is_cut
        )
        SELECT date_started, incident_id, is_cut,
               CASE WHEN is_cut THEN ARRAY(
                   SELECT {sample_mask(segment.filter)} FROM near WHERE is_selected LIMIT {SAMPLE_SIZE}
               ) END AS sample,
               CASE WHEN is_cut THEN ({ANY_LONG}) END AS any_long
        FROM scan LEFT JOIN page ON true {segment.key_range.order}"""


def _search(segment: Segment, page: Page, trigrams: Trigrams) -> str:
    """Return the statement that uses the search index to find a page of keys."""
    keys = f"(SELECT * FROM ({search(segment, trigrams)}) AS s LIMIT {page.limit})"
    if segment.has_closed_since_start:
        # There are few such incidents, so they are filtered row by row.
        closed = f"SELECT date_started, incident_id FROM ({segment.closed_since_start}) AS s WHERE {segment.matches}"
        keys = f"{keys} UNION ALL {closed}" if segment.has_rows else closed
    return _page_of(keys, segment.key_range, page)


def _by_dedup_key(filter_: IncidentFilter, page: Page) -> str:
    """Return the statement that finds the incident with the filter's ``dedup_key``: an open one, or else the latest."""
    segment = Segment(filter_, key_range_from(filter_, Cursor()), filter_.status)
    of_key = f"""
        SELECT i.id AS incident_id, i.date_started, i.status FROM incidents i
        WHERE i.organization_id = %(organization)s AND md5(i.dedup_key) = md5(%(key)s) AND i.dedup_key = %(key)s
        AND EXISTS (
            SELECT 1 FROM incident_listing WHERE incident_id = i.id AND {IN_PROJECTS}
            {segment.condition} {segment.key_range.condition} AND {segment.matches}
        )"""
    latest = f"{of_key} ORDER BY i.date_started DESC, i.id DESC LIMIT 1"
    first = f"(({of_key} AND i.{IS_OPEN} LIMIT 1) UNION ALL ({latest})) AS c ORDER BY NOT (c.{IS_OPEN}) LIMIT 1"
    here = key_range_from(filter_, page.cursor)
    return _page_of(f"SELECT * FROM (SELECT * FROM {first}) AS one WHERE true {here.condition}", here, page)


def _page_of(source: str, key_range: KeyRange, page: Page, condition: str = "true") -> str:
    # DISTINCT, because an incident has a row for each of its projects.
    return f"""SELECT DISTINCT date_started, incident_id FROM ({source}) AS p WHERE {condition}
        {key_range.order} LIMIT {page.limit}"""


# --- rows of many projects in one order ------------------------------------------------------------------------


def _rows_in_order(segment: Segment, *, limit: int | None) -> str:
    """Return the query for a segment's rows.

    Each project adds at most ``limit`` rows. The limit bounds the work and makes PostgreSQL use the index order.
    """
    if len(segment.filter.projects) <= MERGED_PROJECTS:
        return _merged(segment, limit=limit)
    return _per_project(segment, limit=limit)


def _scanned_rows(segment: Segment, *, limit: int | None) -> tuple[str, str]:
    """Return the query for the rows to scan in order, and the condition that selects the segment's rows from these."""
    if len(segment.filter.projects) <= MERGED_PROJECTS:
        return _merged(segment, limit=limit), "true"
    # With many projects, the organization's index is scanned, because most of its rows belong to those projects.
    key_range = segment.key_range
    of_organization = f"SELECT {COLUMNS} FROM incident_listing WHERE organization_id = %(organization)s"
    if not segment.is_open_only:
        return f"{of_organization} {key_range.condition}", f"{IN_PROJECTS} {segment.condition}"
    open_rows = f"({of_organization} AND {IS_OPEN} {key_range.condition} {key_range.order} {_limit(limit)})"
    return (
        " UNION ALL ".join([open_rows] * segment.has_rows + _closed_since_start(segment)),
        f"(NOT ({IS_OPEN}) OR {IN_PROJECTS} {segment.condition})",
    )


def _merged(segment: Segment, *, limit: int | None) -> str:
    # The ids are literals, so that each branch is planned for its project. They are integers, never a caller's text.
    branches = [_branch(segment, str(project), limit) for project in segment.filter.projects if segment.has_rows]
    return " UNION ALL ".join(branches + _closed_since_start(segment))


def _per_project(segment: Segment, *, limit: int | None) -> str:
    branch = _branch(segment, "p.id", limit)
    each = f"SELECT s.* FROM unnest(%(projects)s::bigint[]) AS p(id) CROSS JOIN LATERAL ({branch}) AS s"
    return " UNION ALL ".join([each] * segment.has_rows + _closed_since_start(segment))


def _branch(segment: Segment, project: str, limit: int | None) -> str:
    return f"({segment.project_rows(project)} {segment.key_range.order} {_limit(limit)})"


def _limit(limit: int | None) -> str:
    return "" if limit is None else f"LIMIT {limit}"


def _closed_since_start(segment: Segment) -> list[str]:
    return [f"({segment.closed_since_start} {segment.key_range.order})"] * segment.has_closed_since_start


def _parameters(filter_: IncidentFilter, page: Page) -> dict[str, Any]:
    key: tuple[Any, ...] = page.cursor.key or (None, None)
    return {
        "organization": filter_.organization,
        "projects": list(filter_.projects),
        "scopes": search_scopes(filter_),
        "start": filter_.start,
        "title": filter_.folded_title,
        "key": filter_.dedup_key,
        "environments": list(filter_.rule.environments),
        "alert_rule": filter_.rule.alert_rule,
        "teams": list(filter_.rule.teams or ()),
        "key_at": key[0],
        "key_id": key[1],
        "end_at": filter_.end,
        "end_id": MAX_ID,
        "from_at": filter_.start,
        "from_id": 0,
    }
