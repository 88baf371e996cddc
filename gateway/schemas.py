"""The words of the OpenAPI file: how entities look on the wire, and what headers and statuses mean.

What may be sent comes from the commands themselves; what is answered is written down here, and tests compare real
answers with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.addresses import Address, Operation
from models.metric import Ignored
from models.rule_words import ActionType, TargetType
from models.vocabulary import AlertState, CommandState, NotificationReason, ObjectStatus, Role, SubscriptionReason
from tasks import spellings
from tasks.catalog import CATALOG
from tasks.commands import Command
from tasks.rule_fields import ACTION_SCHEMA

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
    "propertyNames": spellings.STORABLE,
    "additionalProperties": spellings.STORABLE,
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
            "groupKey": spellings.TEXT,
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

SUCCESSES: Final = {
    200: "Done.",
    201: "Created.",
    202: "Accepted; the outcome will be at Location.",
    204: "Done; there is nothing to say.",
}
REFUSALS: Final = {
    400: "The request cannot be read, or a field does not fit.",
    401: "No credential, or none that is valid.",
    403: "The caller may not do this.",
    404: "There is no such thing, or it is not the caller's to see.",
    409: "It contradicts what stands now.",
    410: "It stands already.",
    412: "The resource has changed since the caller read it.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    422: "The Idempotency-Key covers another request.",
    429: "The caller sends too fast.",
    500: "A fault; errorId leads to it.",
    503: "It cannot be taken now; repeat with the same Idempotency-Key.",
}
OUTCOMES: Final = frozenset({400, 403, 404, 409, 410, 412, 500})
"""What a command that was accepted can still end as, beside its success."""


def _answer_header(description: str, **schema: Any) -> Json:
    return {"description": description, "schema": {"type": "string"} | schema}


ANSWER_HEADERS: Final = {
    "Cache-Control": _answer_header("For the caller alone, and to be asked for again.", const="private, no-cache"),
    "Command-Id": _answer_header("Id of the command, if exactly one was accepted.", format="uuid"),
    "ETag": _answer_header('"<version>-<digest of the answer>"', pattern='^"[0-9]+-[0-9a-f]{16}"$'),
    "Idempotent-Replayed": _answer_header("An earlier request with this key was accepted.", const="true"),
    "Link": _answer_header("The previous and the next page, with rel, results and cursor."),
    "Location": _answer_header("Where the outcome will be.", pattern="^/api/0/commands/[0-9a-f-]{36}/$"),
    "Preference-Applied": _answer_header("What was done of Prefer."),
    "Retry-After": _answer_header("Seconds until it is worth trying again.", pattern="^[0-9]+$"),
    "WWW-Authenticate": _answer_header("The scheme of credentials.", const="Bearer"),
    "Access-Control-Allow-Origin": _answer_header("The Origin of the request, if pages of it may read this."),
    "Access-Control-Expose-Headers": _answer_header("The headers that such a page may read."),
    "Content-Security-Policy": _answer_header("Nothing comes from anywhere but here."),
    "X-Content-Type-Options": _answer_header("The type is as it is said.", const="nosniff"),
    "X-Sentry-Alert-Rule-Hits": _answer_header("How many rules there are in all.", pattern="^[0-9]+$"),
    "X-Sentry-Alert-Rule-Limit": _answer_header("How many rules an organization may have.", pattern="^[0-9]+$"),
    "Vary": _answer_header("The answer to a request with an Origin is for that origin.", const="Origin"),
}
STREAM_HEADERS: Final[Json] = {
    "Cache-Control": _answer_header("Not to be kept.", const="no-store") | {"required": True},
    "X-Accel-Buffering": _answer_header("Not to be collected on the way.", const="no") | {"required": True},
}
SHARING_HEADERS: Final = ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary")
"""What any answer says to a request that comes from a page."""


def _link(operation: str, description: str, **parameters: str) -> Json:
    here = {"organization": "$request.path.organization"}
    return {"operationId": operation, "description": description, "parameters": here | parameters}


_OPENED: Final = {"identifier": "$response.body#/identifier"}
_HERE: Final = {"identifier": "$request.path.identifier"}
_POSTED: Final = _HERE | {"comment": "$response.body#/id"}
_DETAILS: Final = _link("read_incident", "The incident.", **_HERE)
_ACTIVITY: Final = _link("list_activity", "What happened on it.", **_HERE)
_MADE: Final = {"rule": "$response.body#/id"}
_RULES: Final = {"rule": "$request.path.rule"}
_DRAWN: Final = _RULES | {"trigger": "$response.body#/id"}
_TRIGGERS: Final = _RULES | {"trigger": "$request.path.trigger"}
_AIMED: Final = _TRIGGERS | {"action": "$response.body#/id"}
_RULE_DETAILS_NOW: Final = _link("read_rule", "The rule.", **_RULES)
_VALUES: Final = _link("list_observations", "What its last values did.", **_RULES)

LINKS: Final[Json] = {
    "open_incident": {
        "details": _link("read_incident", "The incident.", **_OPENED),
        "close": _link("close_incident", "Close it.", **_OPENED),
        "comment": _link("post_comment", "Say something on it.", **_OPENED),
        "seen": _link("mark_seen", "Say that it was seen.", **_OPENED),
        "subscribe": _link("subscribe", "Hear of it.", **_OPENED),
        "activity": _link("list_activity", "What happened on it.", **_OPENED),
    },
    "post_comment": {
        "activity": _ACTIVITY,
        "edit": _link("edit_comment", "Say something else instead.", **_POSTED),
        "delete": _link("delete_comment", "Take it back.", **_POSTED),
    },
    "edit_comment": {"activity": _ACTIVITY, "delete": _link("delete_comment", "Take it back.", **_POSTED)},
    "close_incident": {"activity": _ACTIVITY},
    "mark_seen": {"details": _DETAILS},
    "subscribe": {
        "subscribers": _link("list_subscribers", "Who will hear of it.", **_HERE),
        "unsubscribe": _link("unsubscribe", "Hear no more of it.", **_HERE),
    },
    "create_rule": {
        "details": _link("read_rule", "The rule.", **_MADE),
        "update": _link("update_rule", "Let it say something else.", **_MADE),
        "delete": _link("delete_rule", "Watch it no more.", **_MADE),
        "triggers": _link("list_triggers", "Its thresholds.", **_MADE),
        "trigger": _link("create_trigger", "Add a threshold.", **_MADE),
        "observe": _link("observe_metric", "Send a value.", **_MADE),
        "snooze": _link("snooze_rule", "Keep it silent.", **_MADE, project="$response.body#/projects/0"),
        "wake": _link("unsnooze_rule", "Let it speak again.", **_MADE, project="$response.body#/projects/0"),
    },
    "update_rule": {"details": _RULE_DETAILS_NOW},
    "observe_metric": {"observations": _VALUES, "details": _RULE_DETAILS_NOW},
    "create_trigger": {
        "details": _link("read_trigger", "The threshold.", **_DRAWN),
        "update": _link("update_trigger", "Move it.", **_DRAWN),
        "delete": _link("delete_trigger", "Take it away.", **_DRAWN),
        "actions": _link("list_actions", "Whom it tells.", **_DRAWN),
        "action": _link("create_action", "Let it tell somebody else as well.", **_DRAWN),
    },
    "create_action": {
        "details": _link("read_action", "Who is told.", **_AIMED),
        "update": _link("update_action", "Tell somebody else instead.", **_AIMED),
        "delete": _link("delete_action", "Tell them no more.", **_AIMED),
    },
    "snooze_rule": {
        "wake": _link("unsnooze_rule", "Let it speak again.", **_RULES, project="$request.path.project"),
    },
}
"""Where an answer leads, by operation."""

COMMAND_LINKS: Final[Json] = {
    "command": {
        "operationId": "read_command",
        "description": "What became of the command.",
        "parameters": {"command": "$response.header.Command-Id"},
    }
}


def _header(name: str, description: str, **schema: Any) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"} | schema}


HEADER_PARAMETERS: Final = {
    "Act-As": _header("Act-As", "user:ID; a service with that right acts for this member.", pattern="^user:[0-9]+$"),
    "Prefer": _header(
        "Prefer",
        "respond-async answers at once; wait=N waits up to N seconds (0 to 30).",
        examples=["respond-async", "wait=5"],
    ),
    "Idempotency-Key": _header(
        "Idempotency-Key",
        "Makes a repetition harmless for a day.",
        pattern="^[!-~]+$",
        minLength=1,
        maxLength=255,
        examples=["b1946ac9-1"],
    ),
    "If-Match": _header(
        "If-Match",
        '*, "<version>" or an ETag: the version that the caller means.',
        pattern=r'^(\*|"[0-9]{1,19}(-[!#-~]*)?")$',
        examples=["*", '"3"'],
    ),
    "If-None-Match": _header("If-None-Match", "ETags that the caller has already."),
    "Last-Event-ID": _header("Last-Event-ID", "Go on after this event; after an unknown one with all of a day."),
}
_CURSOR: Final = {"type": "string", "format": "cursor"}
PAGING_PARAMETERS: Final[list[Json]] = [
    {
        "name": "per_page",
        "in": "query",
        "description": "Rows of a page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100},
    },
    {"name": "cursor", "in": "query", "description": "Where to read on; opaque, from Link.", "schema": _CURSOR},
]


def _open(
    summary: str, media_type: str, *, statuses: Sequence[int] = (200,), headers: Sequence[str] = (), **more: Any
) -> Json:
    return {
        "get": {
            "summary": summary,
            "tags": ["health"],
            "security": [],
            "responses": {
                str(status): {
                    "description": "Well." if status == 200 else "Not ready.",
                    "headers": {name: ANSWER_HEADERS[name] | {"required": True} for name in headers},
                    "content": {media_type: {"schema": {}}},
                }
                for status in statuses
            },
        }
        | more
    }


_VERBOSE: Final = {"name": "verbose", "in": "query", "description": "Say what was looked at.", "schema": _TEXT}

OPEN_PATHS: Final[Json] = {
    "/livez": _open("Is it alive", "application/json"),
    "/readyz": _open("Can it accept", "application/json", statuses=(200, 503), parameters=[_VERBOSE]),
    "/version": _open("Which release is it", "application/json"),
    "/metrics": _open("Figures for Prometheus", "text/plain"),
    "/openapi.json": _open("This file", "application/json"),
    "/docs": _open("This file, for people", "text/html", headers=("Content-Security-Policy", "X-Content-Type-Options")),
}
"""Addresses that need no token."""


def body_name(operation: Operation) -> str | None:
    """The schema of what an operation takes, if it takes anything."""
    return operation.body or (operation.message.__name__ if operation.message else None)


def requires_body(schema: Mapping[str, Any]) -> bool:
    """Whether an empty object, which is what no body stands for, does not fit it."""
    ways = schema.get("anyOf", ())
    return bool(schema.get("required")) or (bool(ways) and all(requires_body(way) for way in ways))


def all_schemas(addresses: Sequence[Address]) -> Json:
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
        item = _body(entry.message, (), {})
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
    hidden = message.of_address.union(in_address)
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
