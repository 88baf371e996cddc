"""Which rows of the incident list are on a page, as SQL: the same cost for the first page and the five-thousandth.

The rows of :mod:`models.incidents.list_projection` lie in the order of the list, per project. A page is read along
that order, from the cursor on, merged over the projects. A part of a title, or a rule, is looked for in the rows that
come next; what is common fills the page there, and anything else is searched for
(:mod:`~gateway.reads.incident_list_search`).
"""

# ruff: noqa: S608 - statements are put together from words of our own; what callers say goes along as parameters
from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from gateway.http.pagination import Cursor, Page
from gateway.reads.database import Rows
from gateway.reads.incident_filters import IncidentFilter
from gateway.reads.incident_list_ranges import COLUMNS, HAS_TITLE, OF_PROJECTS, OF_RULE, Part, Span, parts, span_from
from gateway.reads.incident_list_search import ANY_LONG, SAMPLE, Letters, can_search, letters_of, mask, named, search
from models.enums import MAX_ID
from models.incidents.incident import IS_OPEN

MERGED_PROJECTS: Final = 32
"""Up to so many projects are merged row by row; of more, each gives a page, and the pages are merged."""

WALK_ROWS: Final = 1_000
"""How far a part of a title, or a rule, is looked for along the list before it is searched for."""

Statement = tuple[str, dict[str, Any]]


def page_keys(selection: IncidentFilter, page: Page) -> Generator[Statement, Rows, Rows]:
    """Ask for what finds the page, statement by statement, each after the rows of the one before; return its keys.

    They are ``date_started`` and ``incident_id``, one more than the page's size at most.
    """
    if selection.is_empty or (page.cursor.key is None and page.cursor.backwards):
        return []
    known = _parameters(selection, page)
    if selection.dedup_key is not None:
        return (yield _by_key(selection, page), known)
    found: list[Any] = []
    letters: Letters | None = None
    for part in parts(selection, page.cursor):
        if len(found) < page.limit:
            rows, letters = yield from _rows_of(part, page, known, letters)
            found += rows
    return found[: page.limit]


def _rows_of(
    part: Part, page: Page, known: dict[str, Any], letters: Letters | None
) -> Generator[Statement, Rows, tuple[Rows, Letters | None]]:
    """A page of a part, and the letters to search by, once those are known: then nothing more is walked."""
    if not part.is_sought:
        return (yield _page_of(_stream(part, most=page.limit), part.span, page), known), None
    if not can_search(part.selection):
        # No index knows parts as short as that.
        stream, is_selected = _along(part, most=None)
        return (yield _page_of(f"{stream} OFFSET 0", part.span, page, f"{HAS_TITLE} AND {is_selected}"), known), None
    if letters is None:
        walked = yield _walk(part, page), known
        if not walked[0].is_cut:
            return [row for row in walked if row.incident_id is not None], None
        letters = letters_of(part.selection, walked[0].sample, any_long=walked[0].any_long)
    return (yield _found(part, page, letters), known), letters


def _walk(part: Part, page: Page) -> str:
    """What is sought, in the next rows; at least one row, which says whether the walk ended before the list did.

    If so it brings a sample of what it saw.
    """
    stream, is_selected = _along(part, most=WALK_ROWS)
    return f"""
        WITH near AS MATERIALIZED (
            SELECT folded_title, date_started, incident_id, {OF_RULE}, {is_selected} AS is_selected
            FROM ({stream}) AS s {part.span.order} LIMIT {WALK_ROWS}
        ), page AS MATERIALIZED (
            SELECT DISTINCT date_started, incident_id FROM near WHERE is_selected AND {part.is_found}
            {part.span.order} LIMIT {page.limit}
        ), walk AS MATERIALIZED (
            SELECT CASE WHEN (SELECT count(*) FROM page) < {page.limit}
                   THEN (SELECT count(*) FROM near) = {WALK_ROWS} ELSE false END AS is_cut
        )
        SELECT date_started, incident_id, is_cut,
               CASE WHEN is_cut THEN ARRAY(
                   SELECT {mask(part.selection)} FROM near WHERE is_selected LIMIT {SAMPLE}
               ) END AS sample,
               CASE WHEN is_cut THEN ({ANY_LONG}) END AS any_long
        FROM walk LEFT JOIN page ON true {part.span.order}"""


def _found(part: Part, page: Page, letters: Letters) -> str:
    """A page of what the search finds, and of what it does not know."""
    found = f"(SELECT * FROM ({search(part, letters)}) AS s LIMIT {page.limit})"
    if part.has_survivors:
        # So few that they are looked through.
        survivors = f"SELECT date_started, incident_id FROM ({part.survivors}) AS s WHERE {part.is_found}"
        found = f"{found} UNION ALL {survivors}" if part.has_rows else survivors
    return _page_of(found, part.span, page)


def _by_key(selection: IncidentFilter, page: Page) -> str:
    """The open incident of a key, else the latest, if it meets the rest."""
    part = Part(selection, span_from(selection, Cursor()), selection.status)
    of_key = f"""
        SELECT i.id AS incident_id, i.date_started, i.status FROM incidents i
        WHERE i.organization_id = %(organization)s AND md5(i.dedup_key) = md5(%(key)s) AND i.dedup_key = %(key)s
        AND EXISTS (
            SELECT 1 FROM incident_listing WHERE incident_id = i.id AND {OF_PROJECTS}
            {part.stands} {part.span.condition} AND {part.is_found}
        )"""
    latest = f"{of_key} ORDER BY i.date_started DESC, i.id DESC LIMIT 1"
    first = f"(({of_key} AND i.{IS_OPEN} LIMIT 1) UNION ALL ({latest})) AS c ORDER BY NOT (c.{IS_OPEN}) LIMIT 1"
    here = span_from(selection, page.cursor)
    return _page_of(f"SELECT * FROM (SELECT * FROM {first}) AS one WHERE true {here.condition}", here, page)


def _page_of(source: str, span: Span, page: Page, condition: str = "true") -> str:
    # An incident on two projects stands there twice.
    return f"""SELECT DISTINCT date_started, incident_id FROM ({source}) AS p WHERE {condition}
        {span.order} LIMIT {page.limit}"""


# --- the rows of many projects, in one order -------------------------------------------------------------------


def _stream(part: Part, *, most: int | None) -> str:
    """The rows of a part; no project gives more than ``most``: that says no more is needed, and keeps their order."""
    return _merged(part, most=most) if len(part.selection.projects) <= MERGED_PROJECTS else _of_each(part, most=most)


def _along(part: Part, *, most: int | None) -> tuple[str, str]:
    """Rows to be looked through in their order, and which of them are of the part."""
    if len(part.selection.projects) <= MERGED_PROJECTS:
        return _merged(part, most=most), "true"
    # Of many projects the organization is walked: most rows are theirs.
    of_organization = f"SELECT {COLUMNS} FROM incident_listing WHERE organization_id = %(organization)s"
    if not part.is_unfinished:
        return f"{of_organization} {part.span.condition}", f"{OF_PROJECTS} {part.stands}"
    unfinished = f"({of_organization} AND {IS_OPEN} {part.span.condition} {part.span.order} {_limit(most)})"
    return (
        " UNION ALL ".join([unfinished] * part.has_rows + _survivors(part)),
        f"(NOT ({IS_OPEN}) OR {OF_PROJECTS} {part.stands})",
    )


def _merged(part: Part, *, most: int | None) -> str:
    # Numbers of our own: each its own branch, read along its own index.
    branches = [_branch(part, str(project), most) for project in part.selection.projects if part.has_rows]
    return " UNION ALL ".join(branches + _survivors(part))


def _of_each(part: Part, *, most: int | None) -> str:
    branch = _branch(part, "p.id", most)
    each = f"SELECT s.* FROM unnest(%(projects)s::bigint[]) AS p(id) CROSS JOIN LATERAL ({branch}) AS s"
    return " UNION ALL ".join([each] * part.has_rows + _survivors(part))


def _branch(part: Part, project: str, most: int | None) -> str:
    return f"({part.rows_of(project)} {part.span.order} {_limit(most)})"


def _limit(most: int | None) -> str:
    return "" if most is None else f"LIMIT {most}"


def _survivors(part: Part) -> list[str]:
    return [f"({part.survivors} {part.span.order})"] * part.has_survivors


def _parameters(selection: IncidentFilter, page: Page) -> dict[str, Any]:
    key: tuple[Any, ...] = page.cursor.key or (None, None)
    return {
        "organization": selection.organization,
        "projects": list(selection.projects),
        "named": named(selection),
        "start": selection.start,
        "title": selection.title,
        "key": selection.dedup_key,
        "environments": list(selection.rule.environments),
        "alert_rule": selection.rule.alert_rule,
        "teams": list(selection.rule.teams or ()),
        "key_at": key[0],
        "key_id": key[1],
        "end_at": selection.end,
        "end_id": MAX_ID,
        "from_at": selection.start,
        "from_id": 0,
    }
