"""Key ranges and conditions of the incident list: the SQL fragments that its statements are composed of.

The rows are those of :mod:`models.incidents.list_projection`, ordered by ``(date_started, incident_id)``.

A filter with ``start`` splits the list into two segments. Incidents that began after ``start`` cannot have been closed
before it, so their segment needs no condition on ``date_closed``. Of those that began earlier, only the few match that
were still open at ``start``: incidents open today, and closed ones, which an index on their lifetimes finds.
"""

# ruff: noqa: S608 - the SQL is composed of our own fragments; callers' values are parameters
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from gateway.http.pagination import Cursor
from gateway.reads.incident_filters import IncidentFilter, RuleFilter, StatusFilter
from models.alert_rules.enums import Dataset
from models.enums import MAX_ID
from models.incidents.incident import IS_OPEN
from models.incidents.list_projection import LIFETIME, RULE_COLUMNS

RULE_COLUMN_LIST: Final = ", ".join(RULE_COLUMNS)
COLUMNS: Final = f"incident_id, project_id, status, date_started, date_closed, folded_title, {RULE_COLUMN_LIST}"

MATCHES_TITLE: Final = "strpos(folded_title, lower(%(title)s)) > 0"
IN_PROJECTS: Final = "project_id = ANY(%(projects)s::bigint[])"

CURRENT_GENERATION: Final = "(SELECT generation FROM alert_rules WHERE id = %(alert_rule)s)"


class Bound(NamedTuple):
    """A bound of a key range; ``name`` is the prefix of its two parameters."""

    at: datetime
    id: int
    is_inclusive: bool
    name: str


class KeyRange(NamedTuple):
    """A range of keys and a scan direction. Each side has one bound at most: an index scan starts at one bound only."""

    upper: Bound | None
    lower: Bound | None
    is_descending: bool

    @property
    def is_empty(self) -> bool:
        """Whether no key can be in the range."""
        return self.upper is not None and self.lower is not None and self.upper[:2] < self.lower[:2]

    @property
    def condition(self) -> str:
        """The condition on a row, starting with AND; empty without bounds."""
        bounds = ((self.upper, "<"), (self.lower, ">"))
        return " ".join(_bound_condition(bound, operator) for bound, operator in bounds if bound)

    @property
    def order(self) -> str:
        """The ORDER BY clause of the scan direction."""
        return f"ORDER BY date_started {self.direction}, incident_id {self.direction}"

    @property
    def direction(self) -> str:
        """The scan direction: ASC or DESC."""
        return "DESC" if self.is_descending else "ASC"

    @property
    def without_start(self) -> KeyRange:
        """The range without the bound that its scan starts at, for steps that have passed it."""
        return self._replace(upper=None) if self.is_descending else self._replace(lower=None)

    def above(self, bound: Bound) -> KeyRange:
        """Return the part of the range that is not below a bound."""
        bounds = [each for each in (self.lower, bound) if each]
        return self._replace(lower=max(bounds, key=lambda each: (each.at, each.id, not each.is_inclusive)))

    def below(self, bound: Bound) -> KeyRange:
        """Return the part of the range that is not above a bound."""
        bounds = [each for each in (self.upper, bound) if each]
        return self._replace(upper=min(bounds, key=lambda each: (each.at, each.id, each.is_inclusive)))


@dataclass(frozen=True, slots=True)
class Segment:
    """A key range of the filtered list, with the conditions on its rows.

    ``status`` applies to the rows that are read in key order (``has_rows``). With ``has_closed_since_start`` the
    segment also contains incidents that were closed after ``start``, which no index returns in key order.
    """

    filter: IncidentFilter
    key_range: KeyRange
    status: StatusFilter | None
    has_rows: bool = True
    has_closed_since_start: bool = False

    @property
    def is_open_only(self) -> bool:
        """Whether every row read in key order is of an open incident; there are few of them."""
        return self.status not in (None, StatusFilter.CLOSED)

    @property
    def condition(self) -> str:
        """The status and lifetime conditions on rows that are read in key order, starting with AND; may be empty."""
        match self.status:
            case None:
                status = ""
            case StatusFilter.OPEN:
                status = f"AND {IS_OPEN}"
            case one:
                status = f"AND status = {one.statuses[0]:d}"
        lifetime = "" if self.filter.start is None else "AND (date_closed IS NULL OR date_closed >= %(start)s)"
        return f"{status} {lifetime}"

    @property
    def needs_search(self) -> bool:
        """Whether the filter has a title or a rule, which no index in key order covers."""
        return bool(self.filter.title or rule_conditions(self.filter.rule))

    @property
    def matches(self) -> str:
        """The title and rule conditions on a row."""
        return " AND ".join((MATCHES_TITLE, *rule_conditions(self.filter.rule)))

    @property
    def closed_since_start(self) -> str:
        """The query of incidents that are closed now and were open at ``start``."""
        # OFFSET 0 makes the index on lifetimes the first step; the other conditions would tempt to other indexes.
        return f"""
            SELECT {COLUMNS} FROM (
                SELECT * FROM incident_listing
                WHERE {IN_PROJECTS} AND date_closed IS NOT NULL AND {LIFETIME} @> %(start)s OFFSET 0
            ) AS lived
            WHERE NOT ({IS_OPEN}) AND date_closed >= %(start)s {self.key_range.condition}"""

    def project_rows(self, project: str) -> str:
        """Return the query of a project's rows, which an index returns in key order; ``project`` is SQL."""
        condition = f"{self.condition} {self.key_range.condition}"
        return f"SELECT {COLUMNS} FROM incident_listing WHERE project_id = {project} {condition}"


def key_range_from(filter_: IncidentFilter, cursor: Cursor) -> KeyRange:
    """Return the keys from the cursor on, in its direction and not after the filter's ``end``."""
    end = None if filter_.end is None else Bound(filter_.end, MAX_ID, True, "end")
    key_range = KeyRange(end, None, is_descending=not cursor.backwards)
    if cursor.key is None:
        return key_range
    start = Bound(cursor.key[0], cursor.key[1], cursor.includes, "key")
    return key_range.below(start) if key_range.is_descending else key_range.above(start)


def segments(filter_: IncidentFilter, cursor: Cursor) -> Iterator[Segment]:
    """Yield the segments of the filtered list from the cursor on, in its direction."""
    key_range = key_range_from(filter_, cursor)
    if filter_.start is None:
        yield Segment(filter_, key_range, filter_.status)
        return
    since = Segment(filter_, key_range.above(Bound(filter_.start, 0, True, "from")), filter_.status)
    before = Segment(
        filter_,
        key_range.below(Bound(filter_.start, 0, False, "from")),
        StatusFilter.OPEN if filter_.status in (None, StatusFilter.CLOSED) else filter_.status,
        has_rows=filter_.status is not StatusFilter.CLOSED,
        has_closed_since_start=filter_.status in (None, StatusFilter.CLOSED),
    )
    for segment in (since, before) if key_range.is_descending else (before, since):
        if not segment.key_range.is_empty:
            yield segment


def rule_conditions(filter_: RuleFilter) -> list[str]:
    """Return the conditions on the rule columns of a row, which hold the rule as it was when the incident began."""
    conditions = []
    if filter_.alert_rule is not None:
        conditions.append("alert_rule_id = %(alert_rule)s")
        if not filter_.with_snapshots:
            conditions.append(f"alert_rule_generation = {CURRENT_GENERATION}")
    if filter_.environments:
        conditions.append("environment = ANY(%(environments)s::text[])")
    if filter_.teams is not None:
        owned = "owner_team = ANY(%(teams)s::bigint[])"
        conditions.append(f"({owned} OR owner_team IS NULL)" if filter_.or_unassigned else owned)
    if filter_.only_events:
        conditions.append(f"coalesce(dataset, '{Dataset.EVENTS}') = '{Dataset.EVENTS}'")
    return conditions


def _bound_condition(bound: Bound, operator: str) -> str:
    key = f"(%({bound.name}_at)s::timestamptz, %({bound.name}_id)s::bigint)"
    return f"AND (date_started, incident_id) {operator}{'=' if bound.is_inclusive else ''} {key}"
