"""Key ranges and conditions for the incident list: the SQL fragments from which its statements are composed.

The rows come from :mod:`models.incidents.list_projection` and are ordered by ``(date_started, incident_id)``.

A filter with ``start`` splits the list into two segments. Incidents that began after ``start`` cannot have been closed
before it, so their segment can be read in key order. Of the incidents that began earlier, only the few that were still
open at ``start`` match. Some of them are still open. The others are closed now, and an index on lifetimes finds them.
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
from models.incidents.incident import IS_OPEN
from models.incidents.list_projection import LIFETIME, RULE_COLUMNS
from models.incidents.title_folding import FOLD_TITLE
from models.types import MAX_ID

RULE_COLUMN_LIST: Final = ", ".join(RULE_COLUMNS)
COLUMNS: Final = f"incident_id, project_id, status, date_started, date_closed, folded_title, {RULE_COLUMN_LIST}"

MATCHES_TITLE: Final = f"strpos(folded_title, {FOLD_TITLE}(%(title)s)) > 0"
IN_PROJECTS: Final = "project_id = ANY(%(projects)s::bigint[])"

CURRENT_GENERATION: Final = "(SELECT generation FROM alert_rules WHERE id = %(alert_rule)s)"


class Bound(NamedTuple):
    """A bound of a key range. ``name`` is the prefix of the names of its two SQL parameters."""

    at: datetime
    id: int
    is_inclusive: bool
    name: str


class KeyRange(NamedTuple):
    """A range of keys, with a scan direction. It has at most one bound per side, because a scan starts at only one."""

    upper: Bound | None
    lower: Bound | None
    is_descending: bool

    @property
    def is_empty(self) -> bool:
        """Whether the range cannot contain any key."""
        return self.upper is not None and self.lower is not None and self.upper[:2] < self.lower[:2]

    @property
    def condition(self) -> str:
        """The SQL condition for the range, starting with AND, or an empty string if the range has no bounds."""
        bounds = ((self.upper, "<"), (self.lower, ">"))
        return " ".join(_bound_condition(bound, operator) for bound, operator in bounds if bound)

    @property
    def order(self) -> str:
        """The ORDER BY clause for the scan direction."""
        return f"ORDER BY date_started {self.direction}, incident_id {self.direction}"

    @property
    def direction(self) -> str:
        """The scan direction as an SQL keyword: ASC or DESC."""
        return "DESC" if self.is_descending else "ASC"

    @property
    def without_start(self) -> KeyRange:
        """The range without its starting bound, for scan steps that are already past it."""
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
    """A part of the filtered list: a key range, with the conditions on its rows.

    ``status`` applies to the rows that are read in key order, if there are any (``has_rows``). If
    ``has_closed_since_start`` is true, the segment also contains incidents that were closed after ``start``, which no
    index returns in key order.
    """

    filter: IncidentFilter
    key_range: KeyRange
    status: StatusFilter | None
    has_rows: bool = True
    has_closed_since_start: bool = False

    @property
    def is_open_only(self) -> bool:
        """Whether only open incidents are read in key order. These are few and have indexes of their own."""
        return self.status not in (None, StatusFilter.CLOSED)

    @property
    def condition(self) -> str:
        """The SQL conditions on the status and lifetime of rows read in key order. They start with AND or are blank.

        Open incidents have no end, although one that was reopened as a warning still has a ``date_closed``.
        """
        match self.status:
            case None:
                status = ""
            case StatusFilter.OPEN:
                status = f"AND {IS_OPEN}"
            case one:
                status = f"AND status = {one.statuses[0]:d}"
        lifetime = (
            "" if self.filter.start is None else f"AND ({IS_OPEN} OR date_closed IS NULL OR date_closed >= %(start)s)"
        )
        return f"{status} {lifetime}"

    @property
    def needs_search(self) -> bool:
        """Whether the filter has a title or rule condition, which no index in key order covers."""
        return bool(self.filter.title or rule_conditions(self.filter.rule))

    @property
    def matches(self) -> str:
        """The SQL conditions on a row's title and rule."""
        return " AND ".join((MATCHES_TITLE, *rule_conditions(self.filter.rule)))

    @property
    def closed_since_start(self) -> str:
        """The query for incidents that are closed now but were open at ``start``."""
        # OFFSET 0 makes the index on lifetimes the first step. Otherwise the planner might choose another index.
        return f"""
            SELECT {COLUMNS} FROM (
                SELECT * FROM incident_listing
                WHERE {IN_PROJECTS} AND date_closed IS NOT NULL AND {LIFETIME} @> %(start)s OFFSET 0
            ) AS lived
            WHERE NOT ({IS_OPEN}) AND date_closed >= %(start)s {self.key_range.condition}"""

    def project_rows(self, project: str) -> str:
        """Return the query for a project's rows, which an index returns in key order. ``project`` is given as SQL."""
        condition = f"{self.condition} {self.key_range.condition}"
        return f"SELECT {COLUMNS} FROM incident_listing WHERE project_id = {project} {condition}"


def key_range_from(filter_: IncidentFilter, cursor: Cursor) -> KeyRange:
    """Return the keys from the cursor on, in the cursor's direction, except those after the filter's ``end``."""
    end = None if filter_.end is None else Bound(filter_.end, MAX_ID, True, "end")
    key_range = KeyRange(end, None, is_descending=not cursor.backwards)
    if cursor.key is None:
        return key_range
    start = Bound(cursor.key[0], cursor.key[1], cursor.includes, "key")
    return key_range.below(start) if key_range.is_descending else key_range.above(start)


def segments(filter_: IncidentFilter, cursor: Cursor) -> Iterator[Segment]:
    """Yield the filtered list's segments in the cursor's direction, starting at the cursor."""
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
    """Return the SQL conditions on a row's rule columns, which describe the rule as it was when the incident began."""
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
