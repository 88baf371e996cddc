"""A part of the incident list, from where to where, and the way through it; which rows stand there.

All of it is SQL over the rows of :mod:`models.incidents.list_projection`, to be put together by the statements of the
list.

``start`` cuts a list in two. What began since was not closed before, and stands in the order anyway. Of what began
earlier the few that were still open at ``start`` are left: those that are open today, and those whose lives say so.
"""

# ruff: noqa: S608 - statements are put together from words of our own; what callers say goes along as parameters
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from gateway.http.pagination import Cursor
from gateway.reads.incident_filters import IncidentFilter, RuleFilter, StatusFilter
from models.enums import MAX_ID
from models.incidents.incident import IS_OPEN
from models.incidents.list_projection import LIFE, RULE_COLUMNS

OF_RULE: Final = ", ".join(RULE_COLUMNS)
COLUMNS: Final = f"incident_id, project_id, status, date_started, date_closed, folded_title, {OF_RULE}"

HAS_TITLE: Final = "strpos(folded_title, lower(%(title)s)) > 0"
OF_PROJECTS: Final = "project_id = ANY(%(projects)s::bigint[])"


class Edge(NamedTuple):
    """A place in the list; ``name`` is that of its parameters."""

    at: datetime
    id: int
    includes: bool
    name: str


class Span(NamedTuple):
    """From where to where, and the way through it. One edge on each side: an index starts at one of them alone."""

    upper: Edge | None
    lower: Edge | None
    falls: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing can stand between the edges."""
        return self.upper is not None and self.lower is not None and self.upper[:2] < self.lower[:2]

    @property
    def condition(self) -> str:
        """The rows between the edges."""
        edges = ((self.upper, "<"), (self.lower, ">"))
        return " ".join(_beside(edge, sign) for edge, sign in edges if edge)

    @property
    def order(self) -> str:
        """The way through them."""
        return f"ORDER BY date_started {self.direction}, incident_id {self.direction}"

    @property
    def direction(self) -> str:
        """The way, for a single column."""
        return "DESC" if self.falls else "ASC"

    @property
    def ahead(self) -> Span:
        """What lies ahead for one who has come in."""
        return self._replace(upper=None) if self.falls else self._replace(lower=None)

    def above(self, edge: Edge) -> Span:
        """What of it is not below an edge."""
        edges = [each for each in (self.lower, edge) if each]
        return self._replace(lower=max(edges, key=lambda each: (each.at, each.id, not each.includes)))

    def below(self, edge: Edge) -> Span:
        """What of it is not above an edge."""
        edges = [each for each in (self.upper, edge) if each]
        return self._replace(upper=min(edges, key=lambda each: (each.at, each.id, each.includes)))


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a span that are selected, title and rule aside.

    ``standing`` is that of the rows that lie in the order; with ``survivors`` come those that were closed since
    ``start``, which lie in no order.
    """

    selection: IncidentFilter
    span: Span
    standing: StatusFilter | None
    has_rows: bool = True
    has_survivors: bool = False

    @property
    def is_unfinished(self) -> bool:
        """Whether all rows that lie in the order are of incidents that are not closed, which are few."""
        return self.standing not in (None, StatusFilter.CLOSED)

    @property
    def stands(self) -> str:
        """The condition of a row that lies in the order."""
        match self.standing:
            case None:
                standing = ""
            case StatusFilter.OPEN:
                standing = f"AND {IS_OPEN}"
            case one:
                standing = f"AND status = {one.statuses[0]:d}"
        alive = "" if self.selection.start is None else "AND (date_closed IS NULL OR date_closed >= %(start)s)"
        return f"{standing} {alive}"

    @property
    def is_sought(self) -> bool:
        """Whether something is asked that no order of the list knows."""
        return bool(self.selection.title or conditions_of_rule(self.selection.rule))

    @property
    def is_found(self) -> str:
        """The condition of a row that has the title, and was found by the rule."""
        return " AND ".join((HAS_TITLE, *conditions_of_rule(self.selection.rule)))

    @property
    def survivors(self) -> str:
        """A query for those: closed now, open at ``start``."""
        # Found by their lives before anything else is asked, which no other index may do.
        return f"""
            SELECT {COLUMNS} FROM (
                SELECT * FROM incident_listing
                WHERE {OF_PROJECTS} AND date_closed IS NOT NULL AND {LIFE} @> %(start)s OFFSET 0
            ) AS lived
            WHERE NOT ({IS_OPEN}) AND date_closed >= %(start)s {self.span.condition}"""

    def rows_of(self, project: str) -> str:
        """A query for the rows of a project, along an index."""
        return (
            f"SELECT {COLUMNS} FROM incident_listing WHERE project_id = {project} {self.stands} {self.span.condition}"
        )


def span_from(selection: IncidentFilter, cursor: Cursor) -> Span:
    """From the cursor on, and not after ``end``."""
    edge = None if selection.end is None else Edge(selection.end, MAX_ID, True, "end")
    span = Span(edge, None, falls=not cursor.backwards)
    if cursor.key is None:
        return span
    at = Edge(cursor.key[0], cursor.key[1], cursor.includes, "key")
    return span.below(at) if span.falls else span.above(at)


def parts(selection: IncidentFilter, cursor: Cursor) -> Iterator[Part]:
    """What is selected from the cursor on, one part after the other."""
    span = span_from(selection, cursor)
    if selection.start is None:
        yield Part(selection, span, selection.status)
        return
    since = Part(selection, span.above(Edge(selection.start, 0, True, "from")), selection.status)
    before = Part(
        selection,
        span.below(Edge(selection.start, 0, False, "from")),
        StatusFilter.OPEN if selection.status in (None, StatusFilter.CLOSED) else selection.status,
        has_rows=selection.status is not StatusFilter.CLOSED,
        has_survivors=selection.status in (None, StatusFilter.CLOSED),
    )
    for part in (since, before) if span.falls else (before, since):
        if not part.span.is_empty:
            yield part


def conditions_of_rule(wish: RuleFilter) -> list[str]:
    """What is asked of the rule that found an incident, as it was then, condition by condition."""
    asked = []
    if wish.alert_rule is not None:
        asked.append("alert_rule_id = %(alert_rule)s")
        if not wish.with_snapshots:
            asked.append(f"alert_rule_generation = {GENERATION}")
    if wish.environments:
        asked.append("environment = ANY(%(environments)s::text[])")
    if wish.teams is not None:
        owned = "owner_team = ANY(%(teams)s::bigint[])"
        asked.append(f"({owned} OR owner_team IS NULL)" if wish.or_unassigned else owned)
    if wish.only_events:
        asked.append("coalesce(dataset, 'events') = 'events'")
    return asked


GENERATION: Final = "(SELECT generation FROM alert_rules WHERE id = %(alert_rule)s)"
"""The generation that the rule is in."""


def _beside(edge: Edge, sign: str) -> str:
    place = f"(%({edge.name}_at)s::timestamptz, %({edge.name}_id)s::bigint)"
    return f"AND (date_started, incident_id) {sign}{'=' if edge.includes else ''} {place}"
