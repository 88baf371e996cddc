"""The schemas of the OpenAPI file: how entities look on the wire, and what bodies are taken.

What may be sent comes from the commands themselves; what is answered is written down here, and tests compare real
answers with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.api.endpoint import Endpoint, Operation
from models.alert_rules.enums import ActionType, TargetType
from models.alert_rules.evaluation import Ignored
from models.enums import (
    AlertState,
    CommandState,
    NotificationReason,
    ObjectStatus,
    Role,
    SubscriptionReason,
)
from tasks.commands import json_schema
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG
from tasks.commands.rule_fields import ACTION_SCHEMA

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_TEXT_OR_NULL: Final[Json] = {"type": ["string", "null"]}
_NUMBER: Final[Json] = {"type": "integer"}
_MEASURE_OR_NULL: Final[Json] = {"type": ["number", "null"]}
_TRUTH: Final[Json] = {"type": "boolean"}
_ID: Final[Json] = {"type": "string", "pattern": "^[0-9]+$"}
_UUID: Final[Json] = {"type": "string", "format": "uuid"}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}
_TIME_OR_NULL: Final[Json] = {"type": ["string", "null"], "format": "date-time"}

_LABELS: Final[Json] = {
    "type": "object",
    "propertyNames": json_schema.STORABLE,
    "additionalProperties": json_schema.STORABLE,
}


def _object(**fields: Json) -> Json:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _one_of(words: type) -> Json:
    return {"type": "string", "enum": [str(word) for word in words]}  # type: ignore[attr-defined]


def _named(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(name: str) -> Json:
    return {"anyOf": [_named(name), {"type": "null"}]}


_USER_BRIEF: Final = _object(id=_ID, name=_TEXT, username=_TEXT, email=_TEXT)
_USER: Final = _object(
    id=_ID,
    name=_TEXT,
    username=_TEXT,
    email=_TEXT,
    avatarUrl=_TEXT_OR_NULL,
    isActive=_TRUTH,
    hasPasswordAuth=_TRUTH,
    isManaged=_TRUTH,
    dateJoined=_TIME,
    lastLogin=_TIME_OR_NULL,
    has2fa=_TRUTH,
    lastActive=_TIME_OR_NULL,
    isSuperuser=_TRUTH,
    isStaff=_TRUTH,
    experiments={"type": "object"},
    emails=_list(_object(id=_ID, email=_TEXT, is_verified=_TRUTH)),
    avatar=_object(avatarType=_TEXT, avatarUuid=_TEXT_OR_NULL, avatarUrl=_TEXT_OR_NULL),
)
_SEEN_BY: Final[Json] = {
    "type": "object",
    "properties": _USER["properties"] | {"lastSeen": _TIME},
    "required": [*_USER["required"], "lastSeen"],
}


def _with_optional(schema: Json, **fields: Json) -> Json:
    return schema | {"properties": schema["properties"] | fields}


_NUMBER_OR_NULL: Final[Json] = {"type": ["number", "null"]}
_ACTION: Final = _object(
    id=_ID,
    alertRuleTriggerId=_ID,
    type=_one_of(ActionType),
    targetType=_one_of(TargetType),
    targetIdentifier=_TEXT,
    inputChannelId={"type": "null"},
    integrationId={"type": "null"},
    sentryAppId={"type": "null"},
    dateCreated=_TIME,
    desc=_TEXT,
    priority={"type": "null"},
)
_TRIGGER: Final = _object(
    id=_ID,
    alertRuleId=_ID,
    label=_TEXT,
    thresholdType={"type": "integer", "enum": [0, 1]},
    alertThreshold={"type": "number"},
    resolveThreshold=_NUMBER_OR_NULL,
    dateCreated=_TIME,
    actions=_list(_named("TriggerAction")),
)
_RULE: Final = _object(
    id=_ID,
    name=_TEXT,
    organizationId=_ID,
    status={"type": "integer", "enum": [0, 4, 5]},
    queryType={"type": "integer", "enum": [0, 1, 2]},
    dataset=_TEXT,
    query=_TEXT,
    aggregate=_TEXT,
    thresholdType={"type": "integer", "enum": [0, 1]},
    resolveThreshold=_NUMBER_OR_NULL,
    timeWindow={"type": "number"},
    environment=_TEXT_OR_NULL,
    resolution={"type": "number"},
    thresholdPeriod=_NUMBER,
    triggers=_list(_named("Trigger")),
    projects=_list(_TEXT),
    includeAllProjects=_TRUTH,
    owner=_TEXT_OR_NULL,
    originalAlertRuleId={"type": ["integer", "null"]},
    comparisonDelta=_NUMBER_OR_NULL,
    dateModified=_TIME,
    dateCreated=_TIME,
    createdBy={"anyOf": [_object(id=_NUMBER, name=_TEXT, email=_TEXT), {"type": "null"}]},
    monitorType=_NUMBER,
    activationCondition={"type": ["integer", "null"]},
    activations=_list({"type": "object"}),
    description=_TEXT,
    version=_NUMBER,
)
_EXPANDED: Final = {"latestIncident": _or_null("Incident")}
_RULE_DETAILS: Final = _object(
    **_RULE["properties"], excludedProjects=_list(_TEXT), eventTypes=_list(_TEXT), snooze=_TRUTH
)

_INCIDENT: Final = _object(
    id=_ID,
    identifier=_ID,
    organizationId=_ID,
    projects=_list(_TEXT),
    alertRule=_or_null("AlertRule"),
    activities={"type": ["array", "null"], "items": _named("Activity")},
    seenBy={"type": ["array", "null"], "items": _SEEN_BY},
    hasSeen={"type": ["boolean", "null"]},
    status={"type": "integer", "enum": [1, 2, 10, 20]},
    statusMethod=_NUMBER,
    type=_NUMBER,
    title=_TEXT,
    dateStarted=_TIME,
    dateDetected=_TIME,
    dateCreated=_TIME,
    dateClosed=_TIME_OR_NULL,
    version=_NUMBER,
)

_ENTITIES: Final[Json] = {
    "UserBrief": _USER_BRIEF,
    "User": _USER,
    "Activity": _object(
        id=_ID,
        incidentIdentifier=_ID,
        user=_or_null("User"),
        type={"type": "integer", "enum": [1, 2, 3, 4]},
        value=_TEXT_OR_NULL,
        previousValue=_TEXT_OR_NULL,
        comment=_TEXT_OR_NULL,
        dateCreated=_TIME,
        version=_NUMBER,
    ),
    "Incident": _INCIDENT,
    "IncidentDetails": {
        "type": "object",
        "properties": _INCIDENT["properties"]
        | {"seenBy": _list(_SEEN_BY), "hasSeen": _TRUTH, "isSubscribed": _TRUTH, "discoverQuery": _TEXT},
        "required": [*_INCIDENT["required"], "isSubscribed", "discoverQuery"],
    },
    "AlertRule": _with_optional(_RULE, snooze={"const": True}, **_EXPANDED),
    "AlertRuleDetails": _with_optional(_RULE_DETAILS, snoozeForEveryone=_TRUTH, snoozeCreatedBy=_TEXT, **_EXPANDED),
    "Trigger": _TRIGGER,
    "TriggerAction": _ACTION,
    "ActionBody": ACTION_SCHEMA,
    "AvailableActions": _list(_object(type=_one_of(ActionType), allowedTargetTypes=_list(_one_of(TargetType)))),
    "Snooze": _object(
        ownerId=_ID,
        userId={"description": "A user's id, or `everyone`.", "type": "string"},
        until={"description": "A time, or `forever`.", "type": "string"},
        dateAdded=_TIME,
        ruleId={"type": "null"},
        alertRuleId=_ID,
    ),
    "Observed": {
        "type": "object",
        "properties": {
            "fired": _list(_TEXT),
            "resolved": _list(_TEXT),
            "incident": _or_null("Incident"),
            "ignored": _one_of(Ignored),
        },
        "required": ["fired", "resolved", "incident"],
    },
    "Observation": _object(
        project=_TEXT,
        value=_MEASURE_OR_NULL,
        comparisonValue=_MEASURE_OR_NULL,
        timestamp=_TIME,
        dateCreated=_TIME,
        fired=_list(_TEXT),
        resolved=_list(_TEXT),
        ignored={"type": ["string", "null"], "enum": [*(str(why) for why in Ignored), None]},
        incidentIdentifier={"type": ["string", "null"], "pattern": "^[0-9]+$"},
        counted={
            "description": "By label of the trigger: how often in a row it was met, and missed while it burned.",
            "type": "object",
            "additionalProperties": _object(alerts=_NUMBER, resolves=_NUMBER),
        },
    ),
    "Told": _object(user=_named("UserBrief"), reason=_one_of(NotificationReason)),
    "Nothing": {"type": "object", "additionalProperties": False},
    "Subscriber": _object(user=_named("UserBrief"), reason=_one_of(SubscriptionReason)),
    "Command": _object(
        id=_UUID,
        type={"type": "string"},
        status=_one_of(CommandState),
        organization=_TEXT_OR_NULL,
        acceptedAt=_TIME,
        finishedAt=_TIME_OR_NULL,
        attempts=_NUMBER,
        heldBy=_TEXT_OR_NULL,
        outcome={"anyOf": [_object(status=_NUMBER, body={}), {"type": "null"}]},
        error=_TEXT_OR_NULL,
    ),
    "CommandList": _object(commands=_list(_named("Command"))),
    "AlertGroup": {
        "description": "What Alertmanager posts, version 4 of its webhook; other fields are ignored.",
        "type": "object",
        "properties": {
            "version": {"enum": ["4", 4]},
            "groupKey": json_schema.TEXT,
            "status": _one_of(AlertState),
            "groupLabels": _LABELS,
            "commonLabels": _LABELS,
            "commonAnnotations": _LABELS,
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
    "Organization": _object(
        id=_ID,
        slug=_TEXT,
        name=_TEXT,
        features=_list(_TEXT),
        options=_object(open_membership=_TRUTH, alerts_member_write=_TRUTH, events_member_admin=_TRUTH),
    ),
    "Member": _object(id=_ID, role=_one_of(Role), user=_named("UserBrief"), teams=_list(_TEXT)),
    "Team": _object(id=_ID, slug=_TEXT, name=_TEXT, status=_one_of(ObjectStatus)),
    "Project": _object(id=_ID, slug=_TEXT, name=_TEXT, status=_one_of(ObjectStatus)),
    "Notification": _object(
        id=_ID,
        reason=_one_of(NotificationReason),
        event=_object(id=_UUID, type=_TEXT),
        incident=_object(identifier=_ID, title=_TEXT),
        activity=_object(id=_ID),
        text=_TEXT,
        dateCreated=_TIME,
        dateRead=_TIME_OR_NULL,
        retracted=_TRUTH,
    ),
    "UnreadCount": _object(unread=_NUMBER),
    "ReadCount": _object(read=_NUMBER),
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
        "additionalProperties": _object(created=_NUMBER, changed=_NUMBER, unchanged=_NUMBER),
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
            _named("Error"),
            {"type": "string"},
            _list(_TEXT),
            {"type": "object", "additionalProperties": {"anyOf": [_list(_TEXT), _named("FieldErrors")]}},
        ],
    },
    "Problem": _object(
        type=_TEXT,
        title=_TEXT,
        status=_NUMBER,
        detail=_TEXT,
        code=_TEXT,
        errors=_list(_object(pointer=_TEXT, detail=_TEXT)),
    ),
}


def body_name(operation: Operation) -> str | None:
    """The schema of what an operation takes, if it takes anything."""
    return operation.body or (operation.message.__name__ if operation.message else None)


def requires_body(schema: Mapping[str, Any]) -> bool:
    """Whether an empty object, which is what no body stands for, does not fit it."""
    ways = schema.get("anyOf", ())
    return bool(schema.get("required")) or (bool(ways) and all(requires_body(way) for way in ways))


def build_schemas(addresses: Sequence[Endpoint]) -> Json:
    """Every schema that the file refers to."""
    bodies = {
        operation.body or operation.message.__name__: _body(operation.message, operation.in_address, operation.narrowed)
        for address in addresses
        for operation in address.operations.values()
        if operation.message
    }
    return _ENTITIES | bodies | {"CommandRequest": _bulk()}


def _bulk() -> Json:
    items: list[Json] = []
    for name, entry in CATALOG.items():
        item = _body(entry.command_class, (), {})
        key = {"type": "string", "pattern": "^[!-~]{1,255}$"}
        item["properties"] |= {"type": {"const": name}, "idempotencyKey": key}
        item["required"] = ["type", *item.get("required", [])]
        items.append(_closed(item))
    listed: Json = {"type": "array", "minItems": 1, "maxItems": 1000, "items": {"oneOf": items}}
    return _object(commands=listed)


def _closed(schema: Any) -> Any:
    # Items of a list take no field that they do not know, nor do their parts.
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {word: _closed(each) for word, each in schema.items()}
    return closed | {"additionalProperties": False} if "properties" in schema else closed


def _body(message: type[Command], in_address: Sequence[str], narrowed: Mapping[str, Json]) -> Json:
    schema = message.model_json_schema(by_alias=True, mode="validation")
    hidden = message.path_fields.union(in_address)
    fields = {name: each for name, each in schema["properties"].items() if name not in hidden}
    if message.is_partial:
        fields = {name: {word: each[word] for word in each if word != "default"} for name, each in fields.items()}
    body: Json = {"type": "object", "title": message.__name__, "properties": {**fields, **narrowed}}
    if "anyOf" in schema:
        body["anyOf"] = schema["anyOf"]
    if message.__doc__:
        body["description"] = " ".join(message.__doc__.split())
    if required := [name for name in schema.get("required", []) if name not in hidden]:
        body["required"] = required
    return body
