"""Which rows of the incident list are on a page, as SQL: the same cost for the first page and the five-thousandth.

The rows of :mod:`models.listing` lie in the order of the list, per project. A page is read along that order, from the
cursor on, merged over the projects. Two filters do not follow the order and are met half-way:

* A part of a title is looked for in the next ``WALK_ROWS`` rows. A common part fills the page there; a part that does
  not is rare enough to be searched for, and the few found are sorted.
* What was closed after ``start`` began after it, except for the few that were open at that very moment; those are found
  by their lives.
"""

# ruff: noqa: S608 - statements are put together from words of our own; what callers say goes along as parameters
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from gateway.paging import Cursor, Page
from gateway.selection import Selection, Standing
from models.listing import LIFE
from models.vocabulary import MAX_ID, IncidentStatus

MERGED_PROJECTS: Final = 32
"""Up to so many projects are merged row by row; of more, each gives a page, and the pages are merged."""

WALK_ROWS: Final = 8_000
"""How far a part of a title is looked for along the list before it is searched for."""

Statement = tuple[str, dict[str, Any]]


def statements(selection: Selection, page: Page) -> Iterator[Statement]:
    """What finds the page; a statement is needed if the one before did not fill it, and counts if it finds anything."""
    parameters = _parameters(selection, page)
    if selection.dedup_key is not None:
        yield _by_key(selection, page), parameters
    elif not selection.title:
        yield _in_order(selection, page), parameters
    elif not _HAS_TRIGRAM.search(selection.title):
        # No index knows parts as short as that.
        yield _walk(selection, page, rows=None), parameters
    else:
        yield _walk(selection, page, rows=WALK_ROWS), parameters
        yield _search(selection, page), parameters


# What pg_trgm takes an index key from: three letters or digits in a row.
_HAS_TRIGRAM = re.compile(r"[^\W_]{3}")


def _in_order(selection: Selection, page: Page) -> str:
    span = _Span.of(selection, page.cursor)
    if len(selection.projects) <= MERGED_PROJECTS:
        merged = _merged(selection, span, most=page.limit)
        return _spanning(selection, span) + _page_of(merged, page, span)
    branches = " UNION ALL ".join(_branches(selection, span, "p.id", most=page.limit))
    each = f"SELECT s.* FROM unnest(%(projects)s::bigint[]) AS p(id) CROSS JOIN LATERAL ({branches}) AS s"
    return _spanning(selection, span) + _page_of(each, page, span)


def _walk(selection: Selection, page: Page, *, rows: int | None) -> str:
    """A part of a title, looked for along the list; ``None`` looks to its end."""
    span = _Span.of(selection, page.cursor)
    limit = "OFFSET 0" if rows is None else f"LIMIT {rows}"
    if len(selection.projects) <= MERGED_PROJECTS:
        source, more, spanning = _merged(selection, span, most=rows), "", _spanning(selection, span)
    else:
        source = f"SELECT * FROM incident_listing WHERE organization_id = %(organization)s {span.condition}"
        more = (
            f"AND project_id = ANY(%(projects)s::bigint[]) {_is_standing(selection)} {_is_alive(selection)}"
            f" {_is_of_rule(selection)}"
        )
        spanning = ""
    walked = f"SELECT * FROM (SELECT * FROM ({source}) AS s {span.order} {limit}) AS w WHERE {_HAS_TITLE} {more}"
    return spanning + _page_of(walked, page, span)


def _search(selection: Selection, page: Page) -> str:
    """A part of a title, searched for; what is found is sorted afterwards, so that no order is a temptation."""
    span = _Span.of(selection, page.cursor)
    of_projects = "project_id = ANY(%(projects)s::bigint[])"
    # An index is asked once for each project: of many projects it is asked for the organization's, once.
    few = len(selection.projects) <= MERGED_PROJECTS
    within, after = (of_projects, "true") if few else ("organization_id = %(organization)s", of_projects)
    found = f"""
        SELECT * FROM (
            SELECT incident_id, project_id, date_started, date_closed FROM incident_listing
            WHERE {within} {_is_standing(selection)} AND {_HAS_TITLE} AND EXISTS ({_is_more(selection, span)}) OFFSET 0
        ) AS f WHERE {after} {_is_alive(selection)} {_is_of_rule(selection)} {span.condition}"""
    return _spanning(selection, span) * few + _page_of(found, page, span)


def _is_more(selection: Selection, span: _Span) -> str:
    """Whether the list goes on where the walk ended: if not, the walk has found everything and nothing is searched."""
    if len(selection.projects) <= MERGED_PROJECTS:
        source = _merged(selection, span, most=WALK_ROWS + 1)
    else:
        source = f"SELECT * FROM incident_listing WHERE organization_id = %(organization)s {span.condition}"
    return f"SELECT 1 FROM (SELECT incident_id FROM ({source}) AS s {span.order} LIMIT 1 OFFSET {WALK_ROWS}) AS m"


def _by_key(selection: Selection, page: Page) -> str:
    """The open incident of a key, else the latest, if it meets the rest."""
    span = _Span.of(selection, Cursor())
    of_key = f"""
        SELECT i.id AS incident_id, i.date_started, i.status FROM incidents i
        WHERE i.organization_id = %(organization)s AND md5(i.dedup_key) = md5(%(key)s) AND i.dedup_key = %(key)s
        AND EXISTS (
            SELECT 1 FROM incident_listing WHERE incident_id = i.id AND project_id = ANY(%(projects)s::bigint[])
            {_is_standing(selection)} {_is_alive(selection)} {_is_of_rule(selection)} {span.condition} AND {_HAS_TITLE}
        )"""
    latest = f"{of_key} ORDER BY i.date_started DESC, i.id DESC LIMIT 1"
    first = f"(({of_key} AND i.status <> 2 LIMIT 1) UNION ALL ({latest})) AS c ORDER BY c.status = 2 LIMIT 1"
    here = _Span.of(selection, page.cursor)
    return _page_of(f"SELECT * FROM (SELECT * FROM {first}) AS one WHERE true {here.condition}", page, here)


def _page_of(source: str, page: Page, span: _Span) -> str:
    # An incident on two projects stands there twice.
    none = " WHERE false" if page.cursor.key is None and page.cursor.backwards else ""
    return f"SELECT DISTINCT date_started, incident_id FROM ({source}) AS p{none} {span.order} LIMIT {page.limit}"


def _merged(selection: Selection, span: _Span, *, most: int | None) -> str:
    # Numbers of our own: each its own branch, read along its own index.
    return " UNION ALL ".join(
        branch for project in selection.projects for branch in _branches(selection, span, str(project), most=most)
    )


def _branches(selection: Selection, span: _Span, project: str, *, most: int | None) -> Iterator[str]:
    """What of a project is selected, the title aside, as ordered streams that have no row in common.

    None of them gives more than ``most`` rows: that says no more is needed, and keeps them in the order of their index.
    """
    end = span.order if most is None else f"{span.order} LIMIT {most}"
    columns = "SELECT incident_id, date_started, folded_title"
    of_rule = _is_of_rule(selection)
    of_project = f"{columns} FROM incident_listing WHERE project_id = {project} {of_rule}"
    if selection.start is None:
        yield f"({of_project} {_is_standing(selection)} {span.condition} {end})"
        return
    if selection.standing is not Standing.CLOSED:
        unfinished = _is_standing(selection) or "AND status <> 2"
        yield f"({of_project} {unfinished} {_is_alive(selection)} {span.condition} {end})"
    if selection.standing in (None, Standing.CLOSED):
        yield f"({of_project} AND status = 2 {_is_alive(selection)} {span.since_start.condition} {end})"
        yield f"({columns} FROM spanning WHERE project_id = {project} {of_rule} {end})"


def _spanning(selection: Selection, span: _Span) -> str:
    """Incidents that are closed, and were open at ``start``."""
    if selection.start is None or selection.standing not in (None, Standing.CLOSED):
        return ""
    return f"""
        WITH spanning AS MATERIALIZED (
            SELECT * FROM (
                SELECT * FROM incident_listing WHERE project_id = ANY(%(projects)s::bigint[])
                AND date_closed IS NOT NULL AND {LIFE} @> %(start)s OFFSET 0
            ) AS lived
            WHERE status = 2 AND date_closed >= %(start)s AND date_started < %(start)s {span.condition}
        ) """


_HAS_TITLE: Final = "folded_title LIKE '%%' || lower(%(title)s) || '%%'"


def _is_standing(selection: Selection) -> str:
    match selection.standing:
        case None:
            return ""
        case Standing.OPEN:
            return f"AND status <> {IncidentStatus.CLOSED:d}"
        case standing:
            return f"AND status = {standing.statuses[0]:d}"


def _is_alive(selection: Selection) -> str:
    return "" if selection.start is None else "AND (date_closed IS NULL OR date_closed >= %(start)s)"


def _is_of_rule(selection: Selection) -> str:
    """Whether the rule that found an incident, as it was then, is one that is asked for."""
    wish, asked = selection.rule, []
    if wish.environments:
        asked.append("said.words->>'environment' = ANY(%(environments)s::text[])")
    if wish.alert_rule is not None:
        asked.append("i.alert_rule_id = %(alert_rule)s")
        if not wish.with_snapshots:
            asked.append("i.alert_rule_generation = r.generation")
    if wish.teams is not None:
        owned = "(said.words->>'owner_team')::bigint = ANY(%(teams)s::bigint[])"
        asked.append(f"({owned} OR said.words->>'owner_team' IS NULL)" if wish.or_unassigned else owned)
    if wish.only_events:
        asked.append("coalesce(said.words->>'dataset', 'events') = 'events'")
    return f"AND EXISTS ({_FOUND_BY} WHERE i.id = incident_id AND {' AND '.join(asked)})" if asked else ""


_FOUND_BY: Final = """
    SELECT 1 FROM incidents i
    LEFT JOIN alert_rules r ON r.id = i.alert_rule_id
    LEFT JOIN alert_rule_generations g ON g.rule_id = i.alert_rule_id AND g.generation = i.alert_rule_generation
    CROSS JOIN LATERAL (SELECT coalesce(g.definition, r.definition) AS words) AS said"""


# --- from where to where ---------------------------------------------------------------------------------------


class _Edge(NamedTuple):
    """A place in the list; ``name`` is that of its parameters."""

    at: datetime
    id: int
    includes: bool
    name: str


class _Span(NamedTuple):
    """A part of the list, and the way through it. One edge on each side: an index starts at one of them alone."""

    upper: _Edge | None
    lower: _Edge | None
    start: datetime | None
    falls: bool

    @classmethod
    def of(cls, selection: Selection, cursor: Cursor) -> _Span:
        """From the cursor on, and not after ``end``."""
        at = None if cursor.key is None else _Edge(cursor.key[0], cursor.key[1], cursor.includes, "key")
        falls = not cursor.backwards
        uppers = [at] if at and falls else []
        if selection.end is not None:
            uppers.append(_Edge(selection.end, MAX_ID, True, "end"))
        return cls(min(uppers, default=None), at if not falls else None, selection.start, falls)

    @property
    def since_start(self) -> _Span:
        """The part of it that is not before ``start``."""
        edges = [self.lower] if self.lower else []
        if self.start is not None:
            edges.append(_Edge(self.start, 0, True, "from"))
        return self._replace(lower=max(edges, key=lambda edge: (edge.at, edge.id, not edge.includes), default=None))

    @property
    def condition(self) -> str:
        """The rows between the edges."""
        edges = ((self.upper, "<"), (self.lower, ">"))
        return " ".join(_beside(edge, sign) for edge, sign in edges if edge)

    @property
    def order(self) -> str:
        """The way through them."""
        direction = "DESC" if self.falls else "ASC"
        return f"ORDER BY date_started {direction}, incident_id {direction}"


def _beside(edge: _Edge, sign: str) -> str:
    place = f"(%({edge.name}_at)s::timestamptz, %({edge.name}_id)s::bigint)"
    return f"AND (date_started, incident_id) {sign}{'=' if edge.includes else ''} {place}"


def _parameters(selection: Selection, page: Page) -> dict[str, Any]:
    key: Sequence[Any] = page.cursor.key or (None, None)
    return {
        "organization": selection.organization,
        "projects": list(selection.projects),
        "start": selection.start,
        "title": re.sub(r"([%_\\])", r"\\\1", selection.title),
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
