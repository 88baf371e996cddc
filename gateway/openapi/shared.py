"""What the OpenAPI file says of exchanges: the statuses, headers and parameters they share, and where answers lead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.openapi.entity_schema import Json

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


_VERBOSE: Final = {
    "name": "verbose",
    "in": "query",
    "description": "Say what was looked at.",
    "schema": {"type": "string"},
}

OPEN_PATHS: Final[Json] = {
    "/livez": _open("Is it alive", "application/json"),
    "/readyz": _open("Can it accept", "application/json", statuses=(200, 503), parameters=[_VERBOSE]),
    "/version": _open("Which release is it", "application/json"),
    "/metrics": _open("Figures for Prometheus", "text/plain"),
    "/openapi.json": _open("This file", "application/json"),
    "/docs": _open("This file, for people", "text/html", headers=("Content-Security-Policy", "X-Content-Type-Options")),
}
"""Addresses that need no token."""
