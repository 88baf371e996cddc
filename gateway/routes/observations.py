"""Endpoints that submit observations of an alert rule's metric, and that list them with their results."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import REPEATABLE_TEXT, Endpoint, Operation, Parameter
from gateway.api.submit import submit_command
from gateway.http.pagination import cursor_int, cursor_time, page_response, parse_page
from gateway.http.responses import HttpResponse
from models.directory.policy_facts import NamedProject
from models.permissions import ALERT_RULES
from models.policy import has_project_access, require_project_access
from models.refusals import Forbidden, ForbiddenCode, InvalidFields
from models.serializers.observations import observation_json
from tasks.commands.fields import row_id
from tasks.commands.observations import ObserveMetric

OBSERVATION_PAGE = 100


async def observe_metric(context: RequestContext) -> HttpResponse:
    """Submit a value of a rule's metric. Return 201 with the fired and resolved triggers, or 200 if it was ignored."""
    return await submit_command(
        context,
        ObserveMetric,
        path_fields={"alertRule": context.path_parameters["rule"]},
        check_access=_require_projects,
    )


async def list_observations(context: RequestContext) -> HttpResponse:
    """List a rule's latest observations and their results, newest first. The latest 500 are kept for each project."""
    projects = await _requested_projects(context)
    page = parse_page(context.query, default=OBSERVATION_PAGE, key_parsers=(cursor_time, cursor_int, cursor_int))
    rows = await context.container.observations.page(_rule_id(context), [each.facts.id for each in projects], page)
    return page_response(
        page,
        rows,
        key_of=lambda row: (row.accepted_at, row.number, row.project_id),
        serialize=observation_json,
        url=context.url,
        query=context.query,
    )


def _rule_id(context: RequestContext) -> int:
    return row_id(context.path_parameters["rule"])


async def _require_projects(context: RequestContext) -> list[NamedProject]:
    """Require access to at least one of the rule's projects, and return all the rule's projects."""
    projects = await context.container.observations.projects(context.organization.id, _rule_id(context))
    require_project_access(context.actor, context.organization, [each.facts for each in projects])
    return projects


async def _requested_projects(context: RequestContext) -> list[NamedProject]:
    projects = await _require_projects(context)
    requested = set(context.query.getlist("project"))
    if not requested <= {each.slug for each in projects}:
        raise InvalidFields({"project": ["Invalid project"]})
    accessible = [each for each in projects if has_project_access(context.actor, context.organization, each.facts)]
    if not requested <= {each.slug for each in accessible}:
        raise Forbidden(code=ForbiddenCode.NO_PROJECT_ACCESS)
    return [each for each in accessible if not requested or each.slug in requested]


ENDPOINTS = (
    Endpoint(
        "/api/0/organizations/{organization}/alert-rules/{rule}/observations/",
        {
            "GET": Operation(
                list_observations,
                "List the latest observations of an alert rule",
                {200: "Observation"},
                parameters=(Parameter("project", "Project slugs, repeatable.", REPEATABLE_TEXT),),
                is_list=True,
            ),
            "POST": Operation(
                observe_metric,
                "Send a value of an alert rule's metric",
                {201: "Observed", 200: "Observed"},
                command_class=ObserveMetric,
                path_fields=("alertRule",),
                is_command=True,
            ),
        },
        tag="alert rules",
        permission=ALERT_RULES,
    ),
)
