"""Which incidents a list asks for: its parameters, judged against what the caller may reach. No input, no output.

Parameters are looked at in the order of the incident API that tocsin gives back, so that the first wrong one answers.
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

from gateway.reads.projects import NamedProject
from models.enums import MAX_ID, Feature, IncidentStatus
from models.policy import (
    Actor,
    OrganizationFacts,
    TeamFacts,
    has_project_access,
    is_listed_by_default,
    require_team_access,
)
from models.refusals import Forbidden, MalformedRequest, NotFound, StringRefusal
from tasks.commands.fields import identifier

ALL_PROJECTS: Final = -1
ALL_SLUGS: Final = "$all"
MY_TEAMS: Final = "myteams"
UNASSIGNED: Final = "unassigned"

_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,4000})\s*", re.ASCII)


class StatusFilter(Enum):
    """The statuses that a list can be cut down to, by their names in ``status``; another name cuts nothing."""

    OPEN = "open"
    CLOSED = "closed"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def statuses(self) -> tuple[IncidentStatus, ...]:
        """The statuses meant."""
        return _STATUSES[self]


_STATUSES: Final = {
    StatusFilter.OPEN: (IncidentStatus.OPEN, IncidentStatus.WARNING, IncidentStatus.CRITICAL),
    StatusFilter.CLOSED: (IncidentStatus.CLOSED,),
    StatusFilter.WARNING: (IncidentStatus.WARNING,),
    StatusFilter.CRITICAL: (IncidentStatus.CRITICAL,),
}
_STANDINGS: Final = {standing.value: standing for standing in StatusFilter}


@dataclass(frozen=True, slots=True)
class RuleFilter:
    """What is asked of an incident's alert rule. ``teams`` are owners; ``None`` asks for no owner at all."""

    environments: frozenset[str] = frozenset()
    alert_rule: int | None = None
    with_snapshots: bool = False
    teams: frozenset[int] | None = None
    or_unassigned: bool = False
    only_events: bool = False

    @property
    def names_none(self) -> bool:
        """Whether it asks for a rule that no number can name, or for teams that nobody knows."""
        if self.teams is not None and not self.teams and not self.or_unassigned:
            return True
        return self.alert_rule is not None and not 0 < self.alert_rule <= MAX_ID


@dataclass(frozen=True, slots=True)
class IncidentFilter:
    """Incidents on one of these projects that meet all of this. ``title`` is part of one; empty texts ask nothing.

    ``start`` drops what was closed before it, ``end`` what began after it. ``dedup_key`` asks for one incident: the
    open one of this key, else the latest.
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
        """Whether nothing can match."""
        return not self.projects or self.rule.names_none


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
    """The incidents that the parameters ask for, if the caller may ask for them.

    ``projects`` are the organization's; ``teams`` those of :func:`team_ids`, wherever they are; ``environments`` the
    names that alert rules of the organization use, ``has_other_datasets`` whether any of them watches something else
    than events. Parts that a date leaves out are those of ``today``.

    :raises Refusal: a parameter does not fit, or names what the caller does not reach.
    """
    chosen = selected_projects(query, actor, organization, projects)
    asked = frozenset(query.getlist("environment"))
    if not asked <= frozenset(environments):
        raise NotFound
    alert_rule = int_parameter(query, "alertRule")
    start, end = (_moment(query, name, today) for name in ("start", "end"))
    owners, or_unassigned = _teams(query, actor, organization, teams)
    return IncidentFilter(
        organization=organization.id,
        projects=chosen,
        rule=RuleFilter(
            environments=asked,
            alert_rule=alert_rule,
            with_snapshots=alert_rule is not None and query.get("includeSnapshots", "") != "",
            teams=owners,
            or_unassigned=or_unassigned,
            only_events=has_other_datasets and not organization.has(Feature.PERFORMANCE),
        ),
        status=_STANDINGS.get(query.get("status", "")),
        start=start,
        end=end,
        title=_storable(query.get("title", "")),
        dedup_key=_storable(query["dedupKey"]) if "dedupKey" in query else None,
    )


def team_ids(query: QueryParams) -> list[int]:
    """The ids in ``team``, for their facts to be read."""
    return [id_ for each in query.getlist("team") if (id_ := identifier(each)) is not None]


def selected_projects(
    query: QueryParams, actor: Actor, organization: OrganizationFacts, projects: Sequence[NamedProject]
) -> tuple[int, ...]:
    """The projects that a list is about: those named, or those of the caller's teams.

    :raises Refusal: a name does not fit, or the caller does not reach what it names.
    """
    reached = {each.slug: each.facts.id for each in projects if has_project_access(actor, organization, each.facts)}
    if slugs := set(filter(None, query.getlist("projectSlug"))):
        return tuple(reached.values()) if ALL_SLUGS in slugs else _each_of(slugs, reached)
    if ids := {_project_id(each) for each in query.getlist("project")}:
        return tuple(reached.values()) if ALL_PROJECTS in ids else _each_of(ids, {id_: id_ for id_ in reached.values()})
    if "dedupKey" in query:
        # A key names an incident: whoever reaches it finds it.
        return tuple(reached.values())
    return tuple(each.facts.id for each in projects if is_listed_by_default(actor, organization, each.facts))


def _each_of(names: Collection[Any], reached: Mapping[Any, int]) -> tuple[int, ...]:
    if not reached.keys() >= set(names):
        raise Forbidden
    return tuple(sorted(reached[name] for name in names))


def _project_id(text: str) -> int:
    if not (number := _WHOLE.fullmatch(text)):
        raise MalformedRequest("Invalid project parameter. Values must be numbers.")
    return int(number[1])


def int_parameter(query: QueryParams, name: str) -> int | None:
    """A parameter that is a whole number, if it was sent.

    :raises Malformed: it is something else.
    """
    if name not in query:
        return None
    if not (found := _WHOLE.fullmatch(query[name])):
        raise MalformedRequest(f"Invalid {name} parameter. The value must be a number.")
    return int(found[1])


def _moment(query: QueryParams, name: str, today: datetime) -> datetime | None:
    if name not in query:
        return None
    try:
        said: datetime = parser.parse(
            query[name], default=today.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        )
        return (said if said.tzinfo else said.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, ArithmeticError):
        raise MalformedRequest(
            f"Invalid {name} parameter. The value must be a date, such as 2026-11-23T10:00:00Z."
        ) from None


def _teams(
    query: QueryParams, actor: Actor, organization: OrganizationFacts, teams: Mapping[int, TeamFacts]
) -> tuple[frozenset[int] | None, bool]:
    said = list(dict.fromkeys(query.getlist("team")))
    if not said:
        return None, False
    named = [each for each in said if each not in (MY_TEAMS, UNASSIGNED)]
    for each in named:
        if not re.fullmatch("[0-9]+", each):
            raise StringRefusal(f"Invalid Team ID: {each}")
    # Ids that no team has are passed over.
    known = [teams[id_] for each in named if (id_ := identifier(each)) is not None and id_ in teams]
    for team in known:
        require_team_access(actor, organization, team)
    mine = actor.teams if MY_TEAMS in said else frozenset[int]()
    return frozenset(team.id for team in known) | mine, UNASSIGNED in said


def _storable(text: str) -> str:
    # Nothing stored holds a NUL, and the database takes none.
    return text.replace("\0", "\ufffd")
