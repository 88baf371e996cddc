"""Triggers of an alert rule and their actions, one by one; the rule's own body has them all."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.api.submit import ask, require_rule
from gateway.http.pagination import cursor_int, cursor_text, page_response, parse_page, slice_page
from gateway.http.responses import HttpResponse, read_answer
from models.alert_rules.alert_rule import Action, AlertRule, Trigger
from models.alert_rules.serializers import action_json, trigger_json
from models.policy import ALERT_RULES
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


# --- reading ----------------------------------------------------------------------------------------------------


async def list_triggers(visit: RequestContext) -> HttpResponse:
    """Triggers of an alert rule, by label from the last to the first."""
    rule = await require_rule(visit)
    names = await visit.services.rules.references([rule])
    page = parse_page(visit.query, default=PAGE, kinds=(cursor_text, cursor_int))

    def key(trigger: Trigger) -> tuple[str, int]:
        return trigger.label, trigger.id

    ordered = sorted(rule.definition.triggers, key=key, reverse=True)
    return page_response(
        page,
        slice_page(ordered, page, key=key, descending=True),
        key=key,
        shape=lambda trigger: trigger_json(rule.id, rule.definition, trigger, names),
        url=visit.url,
        query=visit.query,
    )


async def read_trigger(visit: RequestContext) -> HttpResponse:
    """A trigger by itself."""
    rule, trigger = await _trigger(visit)
    names = await visit.services.rules.references([rule])
    shown = trigger_json(rule.id, rule.definition, trigger, names)
    return read_answer(shown, version=0, if_none_match=visit.if_none_match)


async def list_actions(visit: RequestContext) -> HttpResponse:
    """Actions of a trigger, by type."""
    rule, trigger = await _trigger(visit)
    names = await visit.services.rules.references([rule])
    page = parse_page(visit.query, default=PAGE, kinds=(cursor_text, cursor_int))

    def key(action: Action) -> tuple[str, int]:
        return action.type.value, action.id

    return page_response(
        page,
        slice_page(sorted(trigger.actions, key=key), page, key=key),
        key=key,
        shape=lambda action: action_json(trigger.id, action, names),
        url=visit.url,
        query=visit.query,
    )


async def read_action(visit: RequestContext) -> HttpResponse:
    """An action by itself."""
    rule, trigger, action = await _action(visit)
    names = await visit.services.rules.references([rule])
    return read_answer(action_json(trigger.id, action, names), version=0, if_none_match=visit.if_none_match)


async def _trigger(visit: RequestContext) -> tuple[AlertRule, Trigger]:
    rule = await require_rule(visit)
    trigger = rule.definition.trigger(visit.row_id("trigger"))
    if trigger is None:
        raise NotFound
    return rule, trigger


async def _action(visit: RequestContext) -> tuple[AlertRule, Trigger, Action]:
    rule, trigger = await _trigger(visit)
    id_ = visit.row_id("action")
    action = next((each for each in trigger.actions if each.id == id_), None)
    if action is None:
        raise NotFound
    return rule, trigger, action


# --- asking -----------------------------------------------------------------------------------------------------


async def create_trigger(visit: RequestContext) -> HttpResponse:
    """Ask for another threshold; 201 with the trigger."""
    return await ask(visit, CreateTrigger, in_address=_names(visit), reach=require_rule)


async def update_trigger(visit: RequestContext) -> HttpResponse:
    """Ask for a threshold to move, or to tell others; 200 with the trigger. What is left out stays."""
    return await ask(visit, UpdateTrigger, in_address=_names(visit, id="trigger"), reach=_trigger)


async def delete_trigger(visit: RequestContext) -> HttpResponse:
    """Ask for a threshold to go; 204."""
    return await ask(visit, DeleteTrigger, in_address=_names(visit, id="trigger"), has_body=False, reach=_trigger)


async def create_action(visit: RequestContext) -> HttpResponse:
    """Ask for somebody else to be told as well; 201 with the action."""
    names = _names(visit, trigger="trigger")
    return await ask(visit, CreateAction, in_address=names, body_as="action", reach=_trigger)


async def update_action(visit: RequestContext) -> HttpResponse:
    """Ask for somebody else to be told instead; 200 with the action."""
    names = _names(visit, trigger="trigger", id="action")
    return await ask(visit, UpdateAction, in_address=names, body_as="action", reach=_action)


async def delete_action(visit: RequestContext) -> HttpResponse:
    """Ask for somebody to be told no more; 204."""
    names = _names(visit, trigger="trigger", id="action")
    return await ask(visit, DeleteAction, in_address=names, has_body=False, reach=_action)


def _names(visit: RequestContext, **fields: str) -> dict[str, Any]:
    return {"alertRule": visit.row_id("rule")} | {field: visit.row_id(name) for field, name in fields.items()}


# --- addresses --------------------------------------------------------------------------------------------------

_TRIGGERS = "/api/0/organizations/{organization}/alert-rules/{rule}/triggers/"
_ACTIONS = f"{_TRIGGERS}{{trigger}}/actions/"
# The feature is needed for every method: only whole rules may be deleted without it.
_address = partial(Endpoint, tag="alert rules", permission=ALERT_RULES)

ADDRESSES = (
    _address(
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
    _address(
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
    _address(
        _ACTIONS,
        {
            "GET": Operation(list_actions, "List a trigger's actions", {200: "TriggerAction"}, is_list=True),
            "POST": Operation(
                create_action, "Create an action", {201: "TriggerAction"}, body="ActionBody", is_command=True
            ),
        },
    ),
    _address(
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
