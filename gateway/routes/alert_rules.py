"""Endpoints that list, read, create, update and delete alert rules.

They exist both under the organization's path and under each project's path, with different permissions. Under a
project's path, only that project's rules are found, and a new rule belongs to the project.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Final

from gateway.api.access import require_project, require_rule
from gateway.api.context import RequestContext
from gateway.api.endpoint import REPEATABLE_TEXT, Endpoint, Operation, Parameter
from gateway.api.submit import submit_command
from gateway.http.pagination import cursor_int, cursor_time, page_response, parse_page
from gateway.http.responses import HttpResponse, conditional_response, json_response
from gateway.reads.alert_rules import RuleListQuery
from gateway.reads.incident_filters import int_parameter
from models.alert_rules.alert_rule import MAX_RULES, AlertRule
from models.alert_rules.serializers import RuleSnapshot, available_actions_json, rule_details_json, rule_json
from models.enums import Feature
from models.permissions import ALERT_RULE, ALERT_RULES, AVAILABLE_ACTIONS, PROJECT_ALERT_RULE, PROJECT_ALERT_RULES
from models.types import JSON
from tasks.commands.alert_rules import CreateRule, DeleteRule, UpdateRule

PAGE: Final = 25


# --- reads -----------------------------------------------------------------------------------------------------


async def list_rules(context: RequestContext) -> HttpResponse:
    """List the alert rules of the given projects (by default, the projects of the caller's teams), newest first."""
    rules = context.container.rules
    return await _list(context, await rules.selected_projects(context.query, context.actor, context.organization))


async def list_project_rules(context: RequestContext) -> HttpResponse:
    """List a project's alert rules, newest first."""
    project = await require_project(context)
    return await _list(context, (project.id,))


async def _list(context: RequestContext, projects: Sequence[int]) -> HttpResponse:
    rules, organization, viewer = context.container.rules, context.organization, context.actor.user_id
    query = RuleListQuery(
        organization=organization.id,
        projects=list(projects),
        monitor_type=int_parameter(context.query, "monitor_type"),
        only_events=not organization.has(Feature.PERFORMANCE),
    )
    page = parse_page(context.query, default=PAGE, key_parsers=(cursor_time, cursor_int))
    page_rules = await rules.page(query, page)
    references, snoozes = await rules.references(page_rules), await rules.snoozes([rule.id for rule in page_rules])
    expanded = await _expanded(context, page_rules)

    def serialize(rule: AlertRule) -> JSON:
        is_snoozed = any(each.user_id is None or each.user_id == viewer for each in snoozes[rule.id])
        return rule_json(RuleSnapshot.current(rule), references, is_snoozed=is_snoozed) | expanded.get(rule.id, {})

    response = page_response(
        page,
        page_rules,
        key_of=lambda rule: (rule.date_added, rule.id),
        serialize=serialize,
        url=context.url,
        query=context.query,
    )
    response.headers |= {
        "X-Sentry-Alert-Rule-Hits": str(await rules.count(query)),
        "X-Sentry-Alert-Rule-Limit": str(MAX_RULES),
    }
    return response


async def read_rule(context: RequestContext) -> HttpResponse:
    """Read an alert rule."""
    rule, rules, viewer = await require_rule(context), context.container.rules, context.actor.user_id
    snoozes = (await rules.snoozes([rule.id]))[rule.id]
    references = await rules.references([rule], people=[each.owner_id for each in snoozes if each.owner_id is not None])
    expanded = await _expanded(context, [rule])
    details = rule_details_json(rule, references, snoozes=snoozes, viewer=viewer) | expanded.get(rule.id, {})
    return conditional_response(details, version=rule.version, if_none_match=context.if_none_match)


async def read_project_rule(context: RequestContext) -> HttpResponse:
    """Read one of a project's alert rules."""
    return await read_rule(context)


async def _expanded(context: RequestContext, rules: Sequence[AlertRule]) -> dict[int, dict[str, JSON]]:
    if "latestIncident" not in context.query.getlist("expand"):
        return {}
    latest = await context.container.rules.latest_incidents(rules, context.actor.user_id)
    return {id_: {"latestIncident": incident} for id_, incident in latest.items()}


async def list_available_actions(_context: RequestContext) -> HttpResponse:
    """List the types of actions that a trigger may have."""
    return json_response(200, available_actions_json())


# --- commands --------------------------------------------------------------------------------------------------


async def create_rule(context: RequestContext) -> HttpResponse:
    """Create an alert rule and return 201 with the rule."""
    return await submit_command(context, CreateRule)


async def update_rule(context: RequestContext) -> HttpResponse:
    """Update an alert rule and return 200 with the rule. Fields that the body omits stay unchanged."""
    return await _submit_update(context)


async def delete_rule(context: RequestContext) -> HttpResponse:
    """Delete an alert rule and return 204."""
    return await submit_command(
        context, DeleteRule, path_fields=_path_fields(context), has_body=False, check_access=require_rule
    )


async def create_project_rule(context: RequestContext) -> HttpResponse:
    """Create an alert rule in a project and return 201 with the rule."""
    return await submit_command(
        context,
        CreateRule,
        path_fields={"inProject": context.project_slug()},
        replaced_fields=_REPLACED_FIELDS,
        check_access=require_project,
    )


async def update_project_rule(context: RequestContext) -> HttpResponse:
    """Update one of a project's alert rules and return 200 with the rule."""
    return await _submit_update(context, replaced_fields=_REPLACED_FIELDS)


async def delete_project_rule(context: RequestContext) -> HttpResponse:
    """Delete one of a project's alert rules and return 204."""
    return await delete_rule(context)


async def _submit_update(context: RequestContext, *, replaced_fields: Collection[str] = ()) -> HttpResponse:
    return await submit_command(
        context,
        UpdateRule,
        path_fields=_path_fields(context),
        replaced_fields=replaced_fields,
        check_access=require_rule,
    )


def _path_fields(context: RequestContext) -> dict[str, Any]:
    in_project = {"inProject": context.project_slug()} if "project" in context.path_parameters else {}
    return {"alertRule": context.row_id("rule"), **in_project}


# --- endpoints -------------------------------------------------------------------------------------------------

_EXPAND = Parameter("expand", "latestIncident adds the rule's latest incident in its current state.", REPEATABLE_TEXT)
_MONITOR_TYPE = Parameter("monitor_type", "Only rules of this monitor type, 0 or 1.", {"type": "integer"})
_PROJECTS = (
    Parameter(
        "project",
        "Project ids, repeatable; -1 selects all projects that the caller has access to. Without it: the projects of"
        " the caller's teams, or all for a service.",
        {"type": "array", "items": {"type": "integer"}},
    ),
    Parameter(
        "projectSlug", "Project slugs, repeatable; $all selects all. Takes precedence over project.", REPEATABLE_TEXT
    ),
)
_REPLACED_FIELDS = ("projects",)
"""The fields of a rule that the path of a project's endpoint replaces, whatever the body contains."""
_HEADERS = ("X-Sentry-Alert-Rule-Hits", "X-Sentry-Alert-Rule-Limit")

_list_of = partial(Operation, responses={200: "AlertRule"}, is_list=True, headers=_HEADERS)
_details = partial(
    Operation, summary="Read an alert rule", responses={200: "AlertRuleDetails"}, parameters=(_EXPAND,), has_etag=True
)
_creation = partial(Operation, responses={201: "AlertRule"}, command_class=CreateRule, is_command=True)
_update = partial(
    Operation, responses={200: "AlertRule"}, command_class=UpdateRule, path_fields=("alertRule",), is_command=True
)
_deletion = partial(Operation, responses={204: None}, is_command=True)
_endpoint = partial(Endpoint, tag="alert rules")

ENDPOINTS = (
    # This endpoint comes before that of a single rule, whose path pattern it matches.
    _endpoint(
        "/api/0/organizations/{organization}/alert-rules/available-actions/",
        {"GET": Operation(list_available_actions, "List available actions", {200: "AvailableActions"})},
        permission=AVAILABLE_ACTIONS,
    ),
    _endpoint(
        "/api/0/organizations/{organization}/alert-rules/",
        {
            "GET": _list_of(list_rules, "List alert rules", parameters=(*_PROJECTS, _MONITOR_TYPE, _EXPAND)),
            "POST": _creation(create_rule, "Create an alert rule"),
        },
        permission=ALERT_RULES,
    ),
    _endpoint(
        "/api/0/organizations/{organization}/alert-rules/{rule}/",
        {
            "GET": _details(read_rule),
            "PUT": _update(update_rule, "Update an alert rule"),
            "DELETE": _deletion(delete_rule, "Delete an alert rule"),
        },
        permission=ALERT_RULE,
    ),
    _endpoint(
        "/api/0/projects/{organization}/{project}/alert-rules/",
        {
            "GET": _list_of(list_project_rules, "List a project's alert rules", parameters=(_MONITOR_TYPE, _EXPAND)),
            "POST": _creation(
                create_project_rule,
                "Create an alert rule of a project",
                body="CreateProjectRule",
                path_fields=_REPLACED_FIELDS,
            ),
        },
        permission=PROJECT_ALERT_RULES,
    ),
    _endpoint(
        "/api/0/projects/{organization}/{project}/alert-rules/{rule}/",
        {
            "GET": _details(read_project_rule),
            "PUT": _update(
                update_project_rule,
                "Update an alert rule of a project",
                body="UpdateProjectRule",
                path_fields=("alertRule", *_REPLACED_FIELDS),
            ),
            "DELETE": _deletion(delete_project_rule, "Delete an alert rule of a project"),
        },
        permission=PROJECT_ALERT_RULE,
    ),
)
