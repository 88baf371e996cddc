"""Alert rules: the list of them, one's details, and asking for them to be made, changed and deleted.

Each address has a twin at its project, with a permission of its own. The rules found there are that project's, and what
is made there is the project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from gateway.api.context import RequestContext
from gateway.api.endpoint import TEXTS, Endpoint, Operation, Parameter
from gateway.api.submit import ask, require_project, require_rule
from gateway.http.pagination import cursor_int, cursor_time, page_response, parse_page
from gateway.http.responses import HttpResponse, json_response, read_answer
from gateway.reads.alert_rules import RuleListQuery
from gateway.reads.incident_filters import int_parameter
from models.alert_rules.alert_rule import MAX_RULES, AlertRule
from models.alert_rules.serializers import RuleSnapshot, available_actions_json, rule_details_json, rule_json
from models.enums import JSON, Feature
from models.policy import ALERT_RULE, ALERT_RULES, AVAILABLE_ACTIONS, PROJECT_ALERT_RULE, PROJECT_ALERT_RULES
from tasks.commands.alert_rules import CreateRule, DeleteRule, UpdateRule

PAGE: Final = 25


# --- reading ----------------------------------------------------------------------------------------------------


async def list_rules(visit: RequestContext) -> HttpResponse:
    """Alert rules of the caller's teams, or of the projects named; the youngest first."""
    rules = visit.services.rules
    return await _list(visit, await rules.selected_projects(visit.query, visit.actor, visit.organization))


async def list_project_rules(visit: RequestContext) -> HttpResponse:
    """Alert rules of the project; the youngest first."""
    project = await require_project(visit)
    return await _list(visit, (project.id,))


async def _list(visit: RequestContext, projects: Sequence[int]) -> HttpResponse:
    rules, organization, viewer = visit.services.rules, visit.organization, visit.actor.user_id
    wish = RuleListQuery(
        organization=organization.id,
        projects=list(projects),
        monitor_type=int_parameter(visit.query, "monitor_type"),
        only_events=not organization.has(Feature.PERFORMANCE),
    )
    page = parse_page(visit.query, default=PAGE, kinds=(cursor_time, cursor_int))
    listed = await rules.page(wish, page)
    names, snoozes = await rules.references(listed), await rules.snoozes([rule.id for rule in listed])
    expanded = await _expanded(visit, listed)

    def shape(rule: AlertRule) -> JSON:
        is_snoozed = any(each.user_id is None or each.user_id == viewer for each in snoozes[rule.id])
        return rule_json(RuleSnapshot.current(rule), names, is_snoozed=is_snoozed) | expanded.get(rule.id, {})

    answered = page_response(
        page,
        listed,
        key=lambda rule: (rule.date_added, rule.id),
        shape=shape,
        url=visit.url,
        query=visit.query,
    )
    answered.headers |= {
        "X-Sentry-Alert-Rule-Hits": str(await rules.count(wish)),
        "X-Sentry-Alert-Rule-Limit": str(MAX_RULES),
    }
    return answered


async def read_rule(visit: RequestContext) -> HttpResponse:
    """An alert rule by itself."""
    rule, rules, viewer = await require_rule(visit), visit.services.rules, visit.actor.user_id
    snoozes = (await rules.snoozes([rule.id]))[rule.id]
    names = await rules.references([rule], people=[each.owner_id for each in snoozes if each.owner_id is not None])
    expanded = await _expanded(visit, [rule])
    details = rule_details_json(rule, names, snoozes=snoozes, viewer=viewer) | expanded.get(rule.id, {})
    return read_answer(details, version=rule.version, if_none_match=visit.if_none_match)


async def read_project_rule(visit: RequestContext) -> HttpResponse:
    """An alert rule of the project by itself."""
    return await read_rule(visit)


async def _expanded(visit: RequestContext, listed: Sequence[AlertRule]) -> dict[int, dict[str, JSON]]:
    if "latestIncident" not in visit.query.getlist("expand"):
        return {}
    latest = await visit.services.rules.latest_incidents(listed, visit.actor.user_id)
    return {id_: {"latestIncident": incident} for id_, incident in latest.items()}


async def list_available_actions(_visit: RequestContext) -> HttpResponse:
    """What an alert rule's actions can be."""
    return json_response(200, available_actions_json())


# --- asking -----------------------------------------------------------------------------------------------------


async def create_rule(visit: RequestContext) -> HttpResponse:
    """Ask for something to be watched; 201 with the rule."""
    return await ask(visit, CreateRule)


async def update_rule(visit: RequestContext) -> HttpResponse:
    """Ask for something else to be watched; 200 with the rule. What is left out of the body stays as it is."""
    return await ask(visit, UpdateRule, in_address=_rule(visit), reach=require_rule)


async def delete_rule(visit: RequestContext) -> HttpResponse:
    """Ask for something to be watched no more; 204."""
    return await ask(visit, DeleteRule, in_address=_rule(visit), has_body=False, reach=require_rule)


async def create_project_rule(visit: RequestContext) -> HttpResponse:
    """Ask for something of the project to be watched; 201 with the rule."""
    return await ask(visit, CreateRule, in_address={"inProject": visit.project_slug()}, reach=require_project)


async def update_project_rule(visit: RequestContext) -> HttpResponse:
    """Ask for something else of the project to be watched; 200 with the rule."""
    return await update_rule(visit)


async def delete_project_rule(visit: RequestContext) -> HttpResponse:
    """Ask for something of the project to be watched no more; 204."""
    return await delete_rule(visit)


def _rule(visit: RequestContext) -> dict[str, Any]:
    twin = {"inProject": visit.project_slug()} if "project" in visit.parameters else {}
    return {"alertRule": visit.row_id("rule"), **twin}


# --- addresses --------------------------------------------------------------------------------------------------

_EXPAND = Parameter("expand", "latestIncident adds the last thing that the rule found, as it is now.", TEXTS)
_MONITOR_TYPE = Parameter("monitor_type", "0 or 1: only rules of this kind.", {"type": "integer"})
_PROJECTS = (
    Parameter(
        "project",
        "Ids of projects, repeatable; -1 means all that the caller reaches. Without it: those of the caller's teams,"
        " for a service all.",
        {"type": "array", "items": {"type": "integer"}},
    ),
    Parameter("projectSlug", "The same by slug, repeatable; $all means all. Goes before project.", TEXTS),
)
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
_address = partial(Endpoint, tag="alert rules")

ADDRESSES = (
    # Before addresses of single rules: "available-actions" is none.
    _address(
        "/api/0/organizations/{organization}/alert-rules/available-actions/",
        {"GET": Operation(list_available_actions, "List what actions can be", {200: "AvailableActions"})},
        permission=AVAILABLE_ACTIONS,
    ),
    _address(
        "/api/0/organizations/{organization}/alert-rules/",
        {
            "GET": _list_of(list_rules, "List alert rules", parameters=(*_PROJECTS, _MONITOR_TYPE, _EXPAND)),
            "POST": _creation(create_rule, "Create an alert rule"),
        },
        permission=ALERT_RULES,
    ),
    _address(
        "/api/0/organizations/{organization}/alert-rules/{rule}/",
        {
            "GET": _details(read_rule),
            "PUT": _update(update_rule, "Update an alert rule"),
            "DELETE": _deletion(delete_rule, "Delete an alert rule"),
        },
        permission=ALERT_RULE,
    ),
    _address(
        "/api/0/projects/{organization}/{project}/alert-rules/",
        {
            "GET": _list_of(list_project_rules, "List a project's alert rules", parameters=(_MONITOR_TYPE, _EXPAND)),
            "POST": _creation(
                create_project_rule,
                "Create an alert rule of a project",
                body="CreateProjectRule",
                path_fields=("projects",),
            ),
        },
        permission=PROJECT_ALERT_RULES,
    ),
    _address(
        "/api/0/projects/{organization}/{project}/alert-rules/{rule}/",
        {
            "GET": _details(read_project_rule),
            "PUT": _update(update_project_rule, "Update an alert rule of a project"),
            "DELETE": _deletion(delete_project_rule, "Delete an alert rule of a project"),
        },
        permission=PROJECT_ALERT_RULE,
    ),
)
