"""The OpenAPI document's components: entities, request bodies and errors.

Entity schemas are derived from the types that serializers return, and request bodies from the command classes. The
other schemas are written here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from gateway.api.bulk import MAX_ITEMS
from gateway.api.endpoint import Endpoint, Operation
from gateway.openapi.directory_schema import directory_schema
from gateway.openapi.entity_schema import ComponentNames, Json, component_reference, entity_schema
from models.alert_rules import serializers as rule_serializers
from models.enums import AlertState, Lane
from models.messaging.hold import HoldScope
from models.operations.dead import MAX_IDS
from models.operations.holds import HELD_CHANNELS
from models.refusals import ForbiddenCode
from models.serializers import (
    chat_destinations,
    commands,
    directory,
    inbox_item,
    incidents,
    notifications,
    observations,
    operations,
    webhooks,
)
from tasks.commands import json_schema
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG, CatalogEntry
from tasks.commands.rule_fields import ACTION_SCHEMA

# --- entities --------------------------------------------------------------------------------------------------

_ENTITY_TYPES: Final[Mapping[str, type]] = {
    "UserBrief": directory.UserBriefJson,
    "User": directory.UserJson,
    "Activity": incidents.ActivityJson,
    "Incident": incidents.IncidentJson,
    "IncidentDetails": incidents.IncidentDetailsJson,
    "AlertRule": incidents.ExpandedAlertRuleJson,
    "AlertRuleDetails": incidents.ExpandedAlertRuleDetailsJson,
    "Trigger": rule_serializers.TriggerJson,
    "TriggerAction": rule_serializers.TriggerActionJson,
    "Snooze": rule_serializers.SnoozeJson,
    "Observed": observations.ObservedJson,
    "Observation": observations.ObservationJson,
    "Told": incidents.PreviewRecipientJson,
    "Subscriber": incidents.SubscriberJson,
    "Command": commands.CommandJson,
    "Organization": directory.OrganizationJson,
    "Member": directory.MemberJson,
    "Team": directory.TeamOrProjectJson,
    "Project": directory.TeamOrProjectJson,
    "Notification": inbox_item.NotificationJson,
    "ChatDestination": chat_destinations.ChatDestinationJson,
    "Webhook": webhooks.WebhookJson,
    "WebhookWithSecret": webhooks.WebhookWithSecretJson,
    "WebhookDelivery": webhooks.WebhookDeliveryJson,
    "Decision": notifications.DecisionJson,
    "DecisionList": notifications.DecisionListJson,
    "Preferences": notifications.PreferencesJson,
    "Mute": notifications.MuteJson,
    "Overview": operations.OverviewJson,
    "Hold": operations.HoldJson,
    "Queue": operations.QueueJson,
    "Process": operations.ProcessJson,
    "CommandRow": operations.CommandRowJson,
    "CommandDetail": operations.CommandDetailJson,
    "DeadCommand": operations.DeadCommandJson,
    "DeadGroup": operations.DeadGroupJson,
    "RequeuePreview": operations.RequeuePreviewJson,
    "BulkOperation": operations.BulkOperationJson,
    "Discarded": operations.DiscardedJson,
    "Delivery": operations.DeliveryJson,
    "TimeSeries": operations.SeriesJson,
    "AuditEntry": operations.AuditEntryJson,
}
"""The entities that responses contain, by component name."""

_COMPONENT_NAMES: Final[ComponentNames] = {entity: name for name, entity in _ENTITY_TYPES.items()} | {
    # Whether a rule is expanded depends on the query, not on where the rule appears.
    rule_serializers.AlertRuleJson: "AlertRule"
}


# --- bodies and errors that are not entities -------------------------------------------------------------------

_TEXT: Final[Json] = {"type": "string"}
_INTEGER: Final[Json] = {"type": "integer"}
_TIME_OR_NULL: Final[Json] = {"type": ["string", "null"], "format": "date-time"}
_TEXT_BY_NAME: Final[Json] = {"type": "object", "additionalProperties": json_schema.STORABLE}


def _used(*names: str) -> Json:
    """Return the schema for labels or annotations, of which only these are used."""
    return json_schema.recommending(
        _TEXT_BY_NAME, {"type": ["object", "null"], "properties": dict.fromkeys(names, json_schema.STORABLE)}
    )


_LABELS: Final = _used("alertname", "project", "severity")


def _object(**fields: Json) -> Json:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _with_optional(schema: Json, **fields: Json) -> Json:
    return schema | {"properties": schema["properties"] | fields}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _one_of(values: type[StrEnum]) -> Json:
    return {"type": "string", "enum": [value.value for value in values]}


def _explained(schema: Any) -> Any:
    """Return a field's schema without the title that pydantic adds, and with its default in words.

    Generators for TypeScript take a field that has a ``default`` for one that is always there, and so require it.
    """
    if isinstance(schema, list):
        return [_explained(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    explained = {
        word: {name: _explained(each) for name, each in value.items()} if word == "properties" else _explained(value)
        for word, value in schema.items()
        if word not in ("title", "default", json_schema.OWN_DEFAULT)
    }
    default = schema.get("default")
    if default in (None, "", []) or json_schema.OWN_DEFAULT in schema:
        return explained
    described = f"{explained['description']} " if "description" in explained else ""
    return explained | {"description": f"{described}Default: {json.dumps(default)}."}


_REASON: Final[Json] = json_schema.text_up_to(500) | {"description": "Why: it goes to the audit log."}
_SELECTIONS: Final[Json] = {
    "ids": json_schema.list_of({"type": "string", "format": "uuid"}, most=MAX_IDS),
    "fingerprint": json_schema.TEXT,
    "all": json_schema.recommending({"type": "boolean", "enum": [True]}, {"const": True}),
}
"""The ways to select dead commands, of which exactly one must be given."""
_REQUEUE_LIMITS: Final[Json] = {
    "ratePerSecond": json_schema.or_null(json_schema.integer_up_to(10_000)),
    "stopAfter": json_schema.or_null(json_schema.integer_up_to(1_000_000)),
}


def _selection_body(*required: str, **fields: Json) -> list[Json]:
    """Return the schemas for a selection together with other fields, of which some are required."""
    return [
        {"type": "object", "properties": {name: each} | fields, "required": [name, *required]}
        for name, each in _SELECTIONS.items()
    ]


def _with_selection(description: str, accepted: Sequence[Json], *required: str, **fields: Json) -> Json:
    """Return the schema for a body with exactly one selection and these fields, of which ``required`` are required."""
    return json_schema.recommending(
        {
            "description": f"{description} Send exactly one of {', '.join(_SELECTIONS)}.",
            "type": "object",
            "properties": {**_SELECTIONS, **fields},
            "required": list(required),
        },
        {"anyOf": list(accepted)},
    )


def _hold_body(scope: Json, target: Json) -> Json:
    fields = {"scope": scope, "target": target, "reason": _REASON}
    return _with_optional(_object(**fields), releaseAt=json_schema.or_null(json_schema.TIMESTAMP))


_HOLD_TARGETS: Final[Mapping[HoldScope, Json]] = {
    HoldScope.QUEUE: {"enum": [lane.value for lane in Lane]},
    HoldScope.TYPE: {"enum": sorted(CATALOG)},
    HoldScope.CHANNEL: {"enum": [channel.value for channel in HELD_CHANNELS]},
    HoldScope.ORGANIZATION: json_schema.TEXT,
}


_OTHER_SCHEMAS: Final[Json] = {
    "QueueList": _list(component_reference("Queue")),
    "DeadEntry": {
        "description": "A dead command, or a group of them if the request asks for groups.",
        "anyOf": [component_reference("DeadCommand"), component_reference("DeadGroup")],
    },
    "OperationsEvents": {
        "description": "Server-sent events `overview` and `queues`, whose `data` is an Overview and a QueueList.",
        "type": "string",
    },
    "Reason": _object(reason=_REASON),
    "PlaceHold": json_schema.recommending(
        _hold_body(
            _one_of(HoldScope),
            _TEXT
            | {"description": "The name of a queue, the type of a command, a channel, or an organization's slug."},
        ),
        {"anyOf": [_hold_body({"const": scope.value}, target) for scope, target in _HOLD_TARGETS.items()]},
    ),
    "DiscardDead": _with_selection(
        "The commands to discard.", _selection_body("reason", reason=_REASON), "reason", reason=_REASON
    ),
    "RequeueDead": _with_selection(
        "The commands to requeue. A dry run changes nothing; without one, a reason is required.",
        [
            *_selection_body("reason", reason=_REASON, dryRun={"type": "boolean"}, **_REQUEUE_LIMITS),
            *_selection_body("dryRun", dryRun={"const": True}, **_REQUEUE_LIMITS),
        ],
        reason=_REASON,
        dryRun={"type": "boolean"},
        **_REQUEUE_LIMITS,
    ),
    "ActionBody": _explained(ACTION_SCHEMA),
    "AvailableActions": _list(entity_schema(rule_serializers.AvailableActionJson, _COMPONENT_NAMES)),
    "Nothing": {"type": "object", "additionalProperties": False},
    "CommandList": _object(commands=_list(component_reference("Command"))),
    "AlertGroup": {
        "description": "What Alertmanager posts (version 4) or Grafana (version 1); other fields are ignored.",
        "type": "object",
        "properties": {
            "version": json_schema.recommending({"type": "string", "pattern": "^[14]$"}, {"enum": ["4", 4, "1", 1]}),
            "groupKey": json_schema.TEXT,
            "status": _one_of(AlertState),
            "groupLabels": json_schema.recommending(
                _TEXT_BY_NAME | {"description": "Shown in the title, as far as their values are text."}, {}
            ),
            "truncatedAlerts": json_schema.recommending(
                {"type": "integer", "description": "Above 0, a group that is resolved closes nothing."}, {}
            ),
            "commonLabels": _LABELS,
            "commonAnnotations": _used("summary"),
            "alerts": {
                "type": "array",
                "minItems": 1,
                "items": json_schema.component(
                    "Alert",
                    {
                        "type": "object",
                        "description": "Without a status, the alert has that of its group.",
                        "properties": {
                            "status": json_schema.recommending(
                                _one_of(AlertState), {"type": ["string", "null"], "enum": [*map(str, AlertState), None]}
                            ),
                            "labels": _LABELS,
                            "startsAt": _TIME_OR_NULL,
                        },
                    },
                ),
            },
        },
        "required": ["version", "groupKey", "status", "alerts"],
    },
    "QueuedDelivery": {
        "description": "The delivery, or the command if it is not finished.",
        "anyOf": [component_reference("WebhookDelivery"), component_reference("Command")],
    },
    "UnreadCount": _object(unread=_INTEGER),
    "ReadCount": _object(read=_INTEGER),
    "Directory": directory_schema(),
    "DirectorySummary": {
        "type": "object",
        "additionalProperties": _object(created=_INTEGER, changed=_INTEGER, unchanged=_INTEGER),
    },
    "Events": {
        "description": "Server-sent events: `id` and `event` are id and type of a CloudEvent, `data` is its JSON.",
        "type": "string",
    },
    "Error": {
        "type": "object",
        "properties": {"detail": _TEXT, "errorId": _TEXT},
        "required": ["detail"],
    },
    "FieldErrors": {
        "description": "A detail, a bare text or a list of them, or texts for each field: nested as the fields are,"
        " lists by index.",
        "anyOf": [
            component_reference("Error"),
            {"type": "string"},
            _list(_TEXT),
            {"type": "object", "additionalProperties": {}},
        ],
    },
    "Problem": _with_optional(
        _object(
            type=_TEXT,
            title=_TEXT,
            status=_INTEGER,
            detail=_TEXT,
            code=_TEXT
            | {
                "description": "The reason phrase of the status in snake case or, of a 403, a more precise reason:"
                f" {', '.join(ForbiddenCode)}."
            },
            errors=_list(_object(pointer=_TEXT, detail=_TEXT)),
        ),
        scopes=_list(_TEXT) | {"description": "With the code scope_missing: one of these scopes is needed."},
        errorId=_TEXT | {"description": "Of a 500: the id of the error in the log, or of the command that failed."},
    ),
}


# --- the document's components ---------------------------------------------------------------------------------


def build_schemas(endpoints: Sequence[Endpoint]) -> Json:
    """Return all schemas that the document refers to, by component name, with both forms of each request body."""
    entities = {name: entity_schema(entity, _COMPONENT_NAMES) for name, entity in _ENTITY_TYPES.items()}
    bodies = {
        operation.body or operation.command_class.__name__: _command_body(
            operation.command_class, operation.path_fields, operation.narrowed
        )
        for endpoint in endpoints
        for operation in endpoint.operations.values()
        if operation.command_class
    }
    return entities | _OTHER_SCHEMAS | bodies | {"CommandRequest": _bulk_body()}


def recommended_schemas(schemas: Json) -> Json:
    """Return the recommended form of the schemas. Nested objects that have a name become components.

    :raises ValueError: if two different objects have the same name.
    """
    named: Json = {}
    for name, schema in json_schema.recommended_form(schemas).items():
        _add_component(name, _without_nested(schema | {json_schema.COMPONENT: name}, named, is_component=True), named)
    return named


def _without_nested(schema: Any, named: Json, *, is_component: bool = False) -> Any:
    if isinstance(schema, list):
        return [_without_nested(each, named) for each in schema]
    if not isinstance(schema, dict):
        return schema
    flat = {word: _without_nested(each, named) for word, each in schema.items() if word != json_schema.COMPONENT}
    if is_component or json_schema.COMPONENT not in schema:
        return flat
    _add_component(schema[json_schema.COMPONENT], flat, named)
    return component_reference(schema[json_schema.COMPONENT])


def _add_component(name: str, schema: Json, named: Json) -> None:
    if named.setdefault(name, schema) != schema:
        raise ValueError(f"two different schemas are named {name}")


def accepted_schemas(schemas: Json) -> Json:
    """Return the form of the schemas that allows exactly what is accepted."""
    accepted: Json = json_schema.accepted_form(schemas)
    return accepted


def body_name(operation: Operation) -> str | None:
    """Return the component name of an operation's request body, or ``None`` if the operation takes no body."""
    return operation.body or (operation.command_class.__name__ if operation.command_class else None)


def requires_body(schema: Mapping[str, Any]) -> bool:
    """Return whether the schema rejects an empty object. A missing body counts as an empty object."""
    alternatives = schema.get("anyOf", ())
    return bool(schema.get("required") or schema.get("minProperties")) or (
        bool(alternatives) and all(requires_body(each) for each in alternatives)
    )


def _bulk_body() -> Json:
    items: list[Json] = []
    mapping: Json = {}
    for name, entry in CATALOG.items():
        component = _component_in_bulk(entry.command_class.__name__)
        mapping[name] = component_reference(component)["$ref"]
        items.append(json_schema.component(component, _closed(_bulk_item(name, entry))))
    any_item = json_schema.recommending(
        {"oneOf": items, "discriminator": {"propertyName": "type", "mapping": mapping}}, {"oneOf": items}
    )
    items_schema = json_schema.component("CommandItem", any_item)
    return _object(commands={"type": "array", "minItems": 1, "maxItems": MAX_ITEMS, "items": items_schema})


def _bulk_item(name: str, entry: CatalogEntry) -> Json:
    body = _body_fields(entry.command_class, (), {})
    key = {"type": "string", "pattern": "^[!-~]{1,255}$"}
    version = {"ifVersion": json_schema.INTEGER} if entry.is_conditional else {}
    item = body | {
        "properties": {"type": {"type": "string", "const": name}}
        | body["properties"]
        | {"idempotencyKey": key}
        | version,
        "required": ["type", *body.get("required", [])],
    }
    rules = entry.command_class.model_json_schema(by_alias=True).get(json_schema.ACCEPTED)
    return json_schema.recommending(item, item | rules) if rules else item


def _component_in_bulk(name: str) -> str:
    return f"{name}Item"


def _closed(schema: Any) -> Any:
    # In a bulk request, unknown fields are errors, even in nested objects.
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {keyword: _closed(each) for keyword, each in schema.items()}
    # Without a type, the schema only restricts the object around it, which is closed already.
    if schema.get("type") == "object" and "properties" in schema:
        closed["additionalProperties"] = False
        if json_schema.COMPONENT in schema:
            closed[json_schema.COMPONENT] = _component_in_bulk(schema[json_schema.COMPONENT])
    return closed


def _command_body(command_class: type[Command], path_fields: Sequence[str], narrowed: Mapping[str, Json]) -> Json:
    body = _body_fields(command_class, path_fields, narrowed)
    schema = command_class.model_json_schema(by_alias=True, mode="validation")
    limits = {word: schema[word] for word in ("minProperties", "maxProperties") if word in schema}
    rules = schema.get(json_schema.ACCEPTED)
    return json_schema.recommending(body | limits, body | rules) if rules else body


def _body_fields(command_class: type[Command], path_fields: Sequence[str], narrowed: Mapping[str, Json]) -> Json:
    """Return the schema for a command's fields, without the rules that concern several of them at once."""
    schema = command_class.model_json_schema(by_alias=True, mode="validation")
    hidden = command_class.path_fields.union(path_fields)
    fields = {name: each for name, each in schema["properties"].items() if name not in hidden}
    if command_class.is_partial:
        fields = {name: {word: each[word] for word in each if word != "default"} for name, each in fields.items()}
    fields |= narrowed
    body: Json = {"type": "object", "properties": {name: _explained(each) for name, each in fields.items()}}
    if command_class.__doc__:
        body["description"] = " ".join(command_class.__doc__.replace("``", "`").split())
    if required := [name for name in schema.get("required", []) if name not in hidden]:
        body["required"] = required
    return body
