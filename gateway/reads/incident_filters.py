"""Pure functions that check the incident list's query parameters and turn them into a filter.

Parameters are checked in the same order as in Sentry's incident API, and the first invalid one decides the response.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from dateutil import parser
from starlette.datastructures import QueryParams

from models.directory.policy_facts import NamedProject
from models.enums import Feature, IncidentStatus
from models.incidents.title_folding import fold_title
from models.policy import (
    Actor,
    OrganizationFacts,
    TeamFacts,
    has_project_access,
    is_listed_by_default,
    require_team_access,
)
from models.refusals import Forbidden, ForbiddenCode, MalformedRequest, NotFound, StringRefusal
from models.types import MAX_ID
from tasks.commands.fields import identifier

ALL_PROJECTS: Final = -1
ALL_SLUGS: Final = "$all"
MY_TEAMS: Final = "myteams"
UNASSIGNED: Final = "unassigned"

_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,4000})\s*", re.ASCII)


class StatusFilter(Enum):
    """The values of the query parameter ``status`` that select certain statuses. Any other value selects all."""

    OPEN = "open"
    CLOSED = "closed"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def statuses(self) -> tuple[IncidentStatus, ...]:
        """The incident statuses that this value selects."""
        return _STATUSES[self]


_STATUSES: Final = {
    StatusFilter.OPEN: (IncidentStatus.OPEN, IncidentStatus.WARNING, IncidentStatus.CRITICAL),
    StatusFilter.CLOSED: (IncidentStatus.CLOSED,),
    StatusFilter.WARNING: (IncidentStatus.WARNING,),
    StatusFilter.CRITICAL: (IncidentStatus.CRITICAL,),
}
_STATUS_FILTERS: Final = {each.value: each for each in StatusFilter}


@dataclass(frozen=True, slots=True)
class RuleFilter:
    """Conditions on an incident's alert rule, as it was when the incident began.

    ``with_snapshots`` includes incidents from earlier generations of ``alert_rule``. ``teams`` holds the ids of the
    teams that may own the rule, or is ``None`` if the owner does not matter. ``or_unassigned`` includes rules
    without an owner. ``only_events`` excludes rules that watch a dataset other than events.
    """

    environments: frozenset[str] = frozenset()
    alert_rule: int | None = None
    with_snapshots: bool = False
    teams: frozenset[int] | None = None
    or_unassigned: bool = False
    only_events: bool = False

    @property
    def matches_nothing(self) -> bool:
        """Whether no incident can match: the rule id is out of range, or none of the named teams exists."""
        if self.teams is not None and not self.teams and not self.or_unassigned:
            return True
        return self.alert_rule is not None and not 0 < self.alert_rule <= MAX_ID


@dataclass(frozen=True, slots=True)
class IncidentFilter:
    """A filter for the incident list. It selects the incidents in any of ``projects`` (ids) that meet every condition.

    ``title`` is a case-insensitive substring. If it is empty, every title matches. ``start`` excludes incidents that
    were closed before it, and ``end`` those that began after it. ``dedup_key`` selects the open incident with this key
    or, if there is none, the latest one.
    """

    organization: int
    projects: tuple[int, ...]
    rule: RuleFilter = RuleFilter()
    status: StatusFilter | None = None
    start: datetime | None = None
    end: datetime | None = None
    title: str = ""
    dedup_key: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no incident can match."""
        return not self.projects or self.rule.matches_nothing

    @property
    def folded_title(self) -> str:
        """The title as it is searched. Positions in it are positions in what the database compares."""
        return fold_title(self.title)


def parse_incident_filter(
    query: QueryParams,
    *,
    actor: Actor,
    organization: OrganizationFacts,
    projects: Sequence[NamedProject],
    teams: Mapping[int, TeamFacts],
    environments: Collection[str] = (),
    has_other_datasets: bool = True,
    today: datetime,
) -> IncidentFilter:
    """Return the filter that the query parameters describe.

    ``projects`` are the organization's projects. ``teams`` are the teams with the ids from :func:`team_ids`, in any
    organization. ``environments`` are the names that the organization's alert rules use. ``has_other_datasets`` tells
    whether any rule watches a dataset other than events. If a date is incomplete, its missing parts are taken from the
    start of ``today``.

    :raises Refusal: if a parameter is invalid, or names something that the actor has no access to.
    """
    project_ids = selected_projects(query, actor, organization, projects)
    names = frozenset(query.getlist("environment"))
    if not names <= frozenset(environments):
        raise NotFound
    alert_rule = int_parameter(query, "alertRule")
    start, end = (_timestamp(query, name, today) for name in ("start", "end"))
    owners, or_unassigned = _teams(query, actor, organization, teams)
    return IncidentFilter(
        organization=organization.id,
        projects=project_ids,
        rule=RuleFilter(
            environments=names,
            alert_rule=alert_rule,
            with_snapshots=alert_rule is not None and query.get("includeSnapshots", "") != "",
            teams=owners,
            or_unassigned=or_unassigned,
            only_events=has_other_datasets and not organization.has(Feature.PERFORMANCE),
        ),
        status=_STATUS_FILTERS.get(query.get("status", "")),
        start=start,
        end=end,
        title=_storable(query.get("title", "")),
        dedup_key=_storable(query["dedupKey"]) if "dedupKey" in query else None,
    )


def team_ids(query: QueryParams) -> list[int]:
    """Return the team ids in the query parameter ``team``."""
    return [id_ for each in query.getlist("team") if (id_ := identifier(each)) is not None]


def selected_projects(
    query: QueryParams, actor: Actor, organization: OrganizationFacts, projects: Sequence[NamedProject]
) -> tuple[int, ...]:
    """Return the ids of the projects that the query parameters select, or of the actor's default projects.

    :raises Refusal: if a parameter is invalid, or names a project that the actor has no access to.
    """
    accessible = {each.slug: each.facts.id for each in projects if has_project_access(actor, organization, each.facts)}
    if slugs := set(filter(None, query.getlist("projectSlug"))):
        return tuple(accessible.values()) if ALL_SLUGS in slugs else _ids_of(slugs, accessible)
    if ids := {_project_id(each) for each in query.getlist("project")}:
        by_id = {id_: id_ for id_ in accessible.values()}
        return tuple(accessible.values()) if ALL_PROJECTS in ids else _ids_of(ids, by_id)
    if "dedupKey" in query:
        # A deduplication key identifies one incident, so every accessible project is searched.
        return tuple(accessible.values())
    return tuple(each.facts.id for each in projects if is_listed_by_default(actor, organization, each.facts))


def _ids_of(names: Collection[Any], accessible: Mapping[Any, int]) -> tuple[int, ...]:
    if not accessible.keys() >= set(names):
        raise Forbidden(code=ForbiddenCode.NO_PROJECT_ACCESS)
    return tuple(sorted(accessible[name] for name in names))


def _project_id(text: str) -> int:
    if not (number := _INTEGER.fullmatch(text)):
        raise MalformedRequest("Invalid project parameter. Values must be numbers.")
    return int(number[1])


def int_parameter(query: QueryParams, name: str) -> int | None:
    """Return the value of an integer query parameter, or ``None`` if the parameter is absent.

    :raises MalformedRequest: if the value is not an integer.
    """
    if name not in query:
        return None
    if not (found := _INTEGER.fullmatch(query[name])):
        raise MalformedRequest(f"Invalid {name} parameter. The value must be a number.")
    return int(found[1])


def _timestamp(query: QueryParams, name: str, today: datetime) -> datetime | None:
    if name not in query:
        return None
    try:
        parsed: datetime = parser.parse(
            query[name], default=today.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        )
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, ArithmeticError):
        raise MalformedRequest(
            f"Invalid {name} parameter. The value must be a date, such as 2026-11-23T10:00:00Z."
        ) from None


def _teams(
    query: QueryParams, actor: Actor, organization: OrganizationFacts, teams: Mapping[int, TeamFacts]
) -> tuple[frozenset[int] | None, bool]:
    values = list(dict.fromkeys(query.getlist("team")))
    if not values:
        return None, False
    named = [each for each in values if each not in (MY_TEAMS, UNASSIGNED)]
    for each in named:
        if not re.fullmatch("[0-9]+", each):
            raise StringRefusal(f"Invalid Team ID: {each}")
    # Ids that belong to no team of the organization are ignored.
    found = (teams.get(identifier(each) or 0) for each in named)
    known = [team for team in found if team is not None and team.organization_id == organization.id]
    for team in known:
        require_team_access(actor, organization, team)
    mine = actor.teams if MY_TEAMS in values else frozenset[int]()
    return frozenset(team.id for team in known) | mine, UNASSIGNED in values


def _storable(text: str) -> str:
    # PostgreSQL cannot store NUL characters, so no stored text contains one.
    return text.replace("\0", "\ufffd")
