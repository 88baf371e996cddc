"""Values of a rule's metric: sent, and looked at with what each did."""

from __future__ import annotations

from typing import Any

from gateway.api.context import RequestContext
from gateway.api.endpoint import TEXTS, Endpoint, Operation, Parameter
from gateway.api.submit import ask
from gateway.http.pagination import cursor_int, cursor_time, page_response, parse_page
from gateway.http.responses import HttpResponse
from gateway.reads.projects import NamedProject
from models.enums import JSON
from models.policy import ALERT_RULES, has_project_access, require_project_access
from models.refusals import Forbidden, InvalidFields
from models.timestamps import iso
from tasks.commands.fields import row_id
from tasks.commands.observations import ObserveMetric

OBSERVATION_PAGE = 100


async def observe_metric(visit: RequestContext) -> HttpResponse:
    """Send a value; 201 with what it fired and resolved once a worker has seen to it, 200 if it was ignored."""
    return await ask(
        visit,
        ObserveMetric,
        in_address={"alertRule": visit.parameters["rule"]},
        reach=_projects,
    )


async def list_observations(visit: RequestContext) -> HttpResponse:
    """The last values of a rule and what each did, newest first; 500 of each project are kept."""
    reached = await _asked_for(visit)
    page = parse_page(visit.query, default=OBSERVATION_PAGE, kinds=(cursor_time, cursor_int, cursor_int))
    rows = await visit.services.observations.page(_rule(visit), [each.facts.id for each in reached], page)
    return page_response(
        page,
        rows,
        key=lambda row: (row.accepted_at, row.number, row.project_id),
        shape=_observation_json,
        url=visit.url,
        query=visit.query,
    )


def _rule(visit: RequestContext) -> int:
    return row_id(visit.parameters["rule"])


async def _projects(visit: RequestContext) -> list[NamedProject]:
    """The rule's projects, for who reaches one of them."""
    projects = await visit.services.observations.projects(visit.organization.id, _rule(visit))
    require_project_access(visit.actor, visit.organization, [each.facts for each in projects])
    return projects


async def _asked_for(visit: RequestContext) -> list[NamedProject]:
    projects = await _projects(visit)
    wanted = set(visit.query.getlist("project"))
    if not wanted <= {each.slug for each in projects}:
        raise InvalidFields({"project": ["Invalid project"]})
    reached = [each for each in projects if has_project_access(visit.actor, visit.organization, each.facts)]
    if not wanted <= {each.slug for each in reached}:
        raise Forbidden
    return [each for each in reached if not wanted or each.slug in wanted]


def _observation_json(row: Any) -> JSON:
    did = row.result
    return {
        "project": row.slug,
        "value": row.value,
        "comparisonValue": row.comparison_value,
        "timestamp": iso(row.timestamp),
        "dateCreated": iso(row.accepted_at),
        "fired": did["fired"],
        "resolved": did["resolved"],
        "ignored": did.get("ignored"),
        "incidentIdentifier": did["incident"],
        "counted": did["counted"],
    }


ADDRESSES = (
    Endpoint(
        "/api/0/organizations/{organization}/alert-rules/{rule}/observations/",
        {
            "GET": Operation(
                list_observations,
                "List the last values of an alert rule",
                {200: "Observation"},
                parameters=(Parameter("project", "Slugs of projects, repeatable: values of these alone.", TEXTS),),
                is_list=True,
            ),
            "POST": Operation(
                observe_metric,
                "Send a value of an alert rule's metric",
                {201: "Observed", 200: "Observed"},
                message=ObserveMetric,
                in_address=("alertRule",),
                is_command=True,
            ),
        },
        tag="alert rules",
        permission=ALERT_RULES,
    ),
)
