"""Endpoints for an alert rule's individual triggers and actions. The rule's own endpoints handle them all at once."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from gateway.api.access import require_rule
from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.api.submit import submit_command
from gateway.http.pagination import cursor_int, cursor_text, page_response, parse_page, slice_page
from gateway.http.responses import HttpResponse, conditional_response
from models.alert_rules.alert_rule import Action, AlertRule, Trigger
from models.alert_rules.serializers import action_json, trigger_json
from models.permissions import ALERT_RULES
from models.refusals import NotFound
from tasks.commands.triggers import (
    CreateAction,
    CreateTrigger,
    DeleteAction,
    DeleteTrigger,
    UpdateAction,
    UpdateTrigger,
)

PAGE: Final = 25


# --- reads -----------------------------------------------------------------------------------------------------


async def list_triggers(context: RequestContext) -> HttpResponse:
    """List an alert rule's triggers, sorted by label in descending order."""
    rule = await require_rule(context)
    references = await context.container.rules.references([rule])
    page = parse_page(context.query, default=PAGE, key_parsers=(cursor_text, cursor_int))

    def key(trigger: Trigger) -> tuple[str, int]:
        return trigger.label, trigger.id

    ordered = sorted(rule.definition.triggers, key=key, reverse=True)
    return page_response(
        page,
        slice_page(ordered, page, key_of=key, descending=True),
        key_of=key,
        serialize=lambda trigger: trigger_json(rule.id, rule.definition, trigger, references),
        url=context.url,
        query=context.query,
    )


async def read_trigger(context: RequestContext) -> HttpResponse:
    """Read a trigger."""
    rule, trigger = await _require_trigger(context)
    references = await context.container.rules.references([rule])
    details = trigger_json(rule.id, rule.definition, trigger, references)
    return conditional_response(details, version=0, if_none_match=context.if_none_match)


async def list_actions(context: RequestContext) -> HttpResponse:
    """List a trigger's actions, sorted by type."""
    rule, trigger = await _require_trigger(context)
    references = await context.container.rules.references([rule])
    page = parse_page(context.query, default=PAGE, key_parsers=(cursor_text, cursor_int))

    def key(action: Action) -> tuple[str, int]:
        return action.type.value, action.id

    return page_response(
        page,
        slice_page(sorted(trigger.actions, key=key), page, key_of=key),
        key_of=key,
        serialize=lambda action: action_json(trigger.id, action, references),
        url=context.url,
        query=context.query,
    )


async def read_action(context: RequestContext) -> HttpResponse:
    """Read an action."""
    rule, trigger, action = await _require_action(context)
    references = await context.container.rules.references([rule])
    return conditional_response(
        action_json(trigger.id, action, references), version=0, if_none_match=context.if_none_match
    )


async def _require_trigger(context: RequestContext) -> tuple[AlertRule, Trigger]:
    rule = await require_rule(context)
    trigger = rule.definition.trigger(context.row_id("trigger"))
    if trigger is None:
        raise NotFound
    return rule, trigger


async def _require_action(context: RequestContext) -> tuple[AlertRule, Trigger, Action]:
    rule, trigger = await _require_trigger(context)
    id_ = context.row_id("action")
    action = next((each for each in trigger.actions if each.id == id_), None)
    if action is None:
        raise NotFound
    return rule, trigger, action


# --- commands --------------------------------------------------------------------------------------------------


async def create_trigger(context: RequestContext) -> HttpResponse:
    """Create a trigger and return 201 with the trigger."""
    return await submit_command(context, CreateTrigger, path_fields=_path_fields(context), check_access=require_rule)


async def update_trigger(context: RequestContext) -> HttpResponse:
    """Update a trigger and return 200 with the trigger. Fields that the body omits stay unchanged."""
    return await submit_command(
        context, UpdateTrigger, path_fields=_path_fields(context, id="trigger"), check_access=_require_trigger
    )


async def delete_trigger(context: RequestContext) -> HttpResponse:
    """Delete a trigger and return 204."""
    return await submit_command(
        context,
        DeleteTrigger,
        path_fields=_path_fields(context, id="trigger"),
        has_body=False,
        check_access=_require_trigger,
    )


async def create_action(context: RequestContext) -> HttpResponse:
    """Create an action and return 201 with the action."""
    path_fields = _path_fields(context, trigger="trigger")
    return await submit_command(
        context, CreateAction, path_fields=path_fields, body_field="action", check_access=_require_trigger
    )


async def update_action(context: RequestContext) -> HttpResponse:
    """Update an action and return 200 with the action."""
    path_fields = _path_fields(context, trigger="trigger", id="action")
    return await submit_command(
        context, UpdateAction, path_fields=path_fields, body_field="action", check_access=_require_action
    )


async def delete_action(context: RequestContext) -> HttpResponse:
    """Delete an action and return 204."""
    path_fields = _path_fields(context, trigger="trigger", id="action")
    return await submit_command(
        context, DeleteAction, path_fields=path_fields, has_body=False, check_access=_require_action
    )


def _path_fields(context: RequestContext, **fields: str) -> dict[str, Any]:
    return {"alertRule": context.row_id("rule")} | {field: context.row_id(name) for field, name in fields.items()}


# --- endpoints -------------------------------------------------------------------------------------------------

_TRIGGERS = "/api/0/organizations/{organization}/alert-rules/{rule}/triggers/"
_ACTIONS = f"{_TRIGGERS}{{trigger}}/actions/"
# All methods need the plan's feature. Only whole rules may be deleted without it.
_endpoint = partial(Endpoint, tag="alert rules", permission=ALERT_RULES)

ENDPOINTS = (
    _endpoint(
        _TRIGGERS,
        {
            "GET": Operation(list_triggers, "List triggers", {200: "Trigger"}, is_list=True),
            "POST": Operation(
                create_trigger,
                "Create a trigger",
                {201: "Trigger"},
                command_class=CreateTrigger,
                path_fields=("alertRule",),
                is_command=True,
            ),
        },
    ),
    _endpoint(
        f"{_TRIGGERS}{{trigger}}/",
        {
            "GET": Operation(read_trigger, "Read a trigger", {200: "Trigger"}, has_etag=True),
            "PUT": Operation(
                update_trigger,
                "Update a trigger",
                {200: "Trigger"},
                command_class=UpdateTrigger,
                path_fields=("alertRule", "id"),
                is_command=True,
            ),
            "DELETE": Operation(delete_trigger, "Delete a trigger", {204: None}, is_command=True),
        },
    ),
    _endpoint(
        _ACTIONS,
        {
            "GET": Operation(list_actions, "List a trigger's actions", {200: "TriggerAction"}, is_list=True),
            "POST": Operation(
                create_action, "Create an action", {201: "TriggerAction"}, body="ActionBody", is_command=True
            ),
        },
    ),
    _endpoint(
        f"{_ACTIONS}{{action}}/",
        {
            "GET": Operation(read_action, "Read an action", {200: "TriggerAction"}, has_etag=True),
            "PUT": Operation(
                update_action, "Update an action", {200: "TriggerAction"}, body="ActionBody", is_command=True
            ),
            "DELETE": Operation(delete_action, "Delete an action", {204: None}, is_command=True),
        },
    ),
)
