"""The OpenAPI document's components: entities, request bodies and errors.

Entity schemas are derived from the types that serializers return, and request bodies from the command classes. The
other schemas are written here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from gateway.api.bulk import MAX_ITEMS
from gateway.api.endpoint import Endpoint, Operation
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
    incidents,
    notifications,
    observations,
    operations,
    webhooks,
)
from tasks.commands import json_schema
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG
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
    "Notification": notifications.NotificationJson,
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
    "Series": operations.SeriesJson,
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
_LABELS: Final[Json] = {
    "type": ["object", "null"],
    "properties": dict.fromkeys(("alertname", "project", "severity"), json_schema.STORABLE),
}
_ANNOTATIONS: Final[Json] = {"type": ["object", "null"], "properties": {"summary": json_schema.STORABLE}}


def _object(**fields: Json) -> Json:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _with_optional(schema: Json, **fields: Json) -> Json:
    return schema | {"properties": schema["properties"] | fields}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _one_of(values: type[StrEnum]) -> Json:
    return {"type": "string", "enum": [value.value for value in values]}


_REASON: Final[Json] = json_schema.text_up_to(500) | {"description": "Why: it goes to the audit log."}
_SELECTIONS: Final[Json] = {
    "ids": json_schema.list_of({"type": "string", "format": "uuid"}, most=MAX_IDS),
    "fingerprint": json_schema.TEXT,
    "all": {"const": True},
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


def _hold_body(scope: HoldScope, target: Json) -> Json:
    fields = {"scope": {"const": scope.value}, "target": target, "reason": _REASON}
    return _with_optional(_object(**fields), releaseAt=json_schema.or_null(json_schema.TIMESTAMP))


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
    "PlaceHold": {
        "anyOf": [
            _hold_body(HoldScope.QUEUE, {"enum": [lane.value for lane in Lane]}),
            _hold_body(HoldScope.TYPE, {"enum": sorted(CATALOG)}),
            _hold_body(HoldScope.CHANNEL, {"enum": [channel.value for channel in HELD_CHANNELS]}),
            _hold_body(HoldScope.ORGANIZATION, json_schema.TEXT | {"description": "A slug."}),
        ]
    },
    "DiscardDead": {"anyOf": _selection_body("reason", reason=_REASON)},
    "RequeueDead": {
        "description": "A dry run changes nothing, and needs no reason.",
        "anyOf": [
            *_selection_body("reason", reason=_REASON, dryRun={"type": "boolean"}, **_REQUEUE_LIMITS),
            *_selection_body("dryRun", dryRun={"const": True}, **_REQUEUE_LIMITS),
        ],
    },
    "ActionBody": ACTION_SCHEMA,
    "AvailableActions": _list(entity_schema(rule_serializers.AvailableActionJson, _COMPONENT_NAMES)),
    "Nothing": {"type": "object", "additionalProperties": False},
    "CommandList": _object(commands=_list(component_reference("Command"))),
    "AlertGroup": {
        "description": "What Alertmanager posts (version 4) or Grafana (version 1); other fields are ignored.",
        "type": "object",
        "properties": {
            "version": {"enum": ["4", 4, "1", 1]},
            "groupKey": json_schema.TEXT,
            "status": _one_of(AlertState),
            "groupLabels": {"description": "Shown in the title, as far as their values are text."},
            "truncatedAlerts": {"description": "Above 0, a group that is resolved closes nothing."},
            "commonLabels": _LABELS,
            "commonAnnotations": _ANNOTATIONS,
            "alerts": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {"status": _one_of(AlertState), "labels": _LABELS, "startsAt": _TIME_OR_NULL},
                    "required": ["status"],
                },
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
    "Directory": {
        "type": "object",
        "properties": {
            section: _list({"type": "object"})
            for section in ("organizations", "users", "projects", "teams", "members", "tokens")
        },
        "additionalProperties": False,
    },
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
            {"type": "object", "additionalProperties": {"anyOf": [_list(_TEXT), component_reference("FieldErrors")]}},
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
    """Return all schemas that the document refers to, by component name."""
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


def body_name(operation: Operation) -> str | None:
    """Return the component name of an operation's request body, or ``None`` if the operation takes no body."""
    return operation.body or (operation.command_class.__name__ if operation.command_class else None)


def requires_body(schema: Mapping[str, Any]) -> bool:
    """Return whether the schema rejects an empty object. A missing body counts as an empty object."""
    alternatives = schema.get("anyOf", ())
    return bool(schema.get("required")) or (bool(alternatives) and all(requires_body(each) for each in alternatives))


def _bulk_body() -> Json:
    items: list[Json] = []
    for name, entry in CATALOG.items():
        item = _command_body(entry.command_class, (), {})
        key = {"type": "string", "pattern": "^[!-~]{1,255}$"}
        item["properties"] |= {"type": {"const": name}, "idempotencyKey": key}
        if entry.is_conditional:
            item["properties"]["ifVersion"] = json_schema.INTEGER
        item["required"] = ["type", *item.get("required", [])]
        items.append(_closed(item))
    commands: Json = {"type": "array", "minItems": 1, "maxItems": MAX_ITEMS, "items": {"oneOf": items}}
    return _object(commands=commands)


def _closed(schema: Any) -> Any:
    # In a bulk request, unknown fields are errors, even in nested objects.
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {keyword: _closed(each) for keyword, each in schema.items()}
    # Without a type, the schema only restricts the object around it, which is closed already.
    is_object = "properties" in schema and schema.get("type") == "object"
    return closed | {"additionalProperties": False} if is_object else closed


def _command_body(command_class: type[Command], path_fields: Sequence[str], narrowed: Mapping[str, Json]) -> Json:
    schema = command_class.model_json_schema(by_alias=True, mode="validation")
    hidden = command_class.path_fields.union(path_fields)
    fields = {name: each for name, each in schema["properties"].items() if name not in hidden}
    if command_class.is_partial:
        fields = {name: {word: each[word] for word in each if word != "default"} for name, each in fields.items()}
    body: Json = {"type": "object", "title": command_class.__name__, "properties": {**fields, **narrowed}}
    body |= {word: schema[word] for word in ("anyOf", "not") if word in schema}
    if command_class.__doc__:
        body["description"] = " ".join(command_class.__doc__.split())
    if required := [name for name in schema.get("required", []) if name not in hidden]:
        body["required"] = required
    return body
