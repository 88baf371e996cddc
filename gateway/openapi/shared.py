"""The parts of the OpenAPI document that several operations share: statuses, headers, parameters and links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.openapi.entity_schema import Json

SUCCESSES: Final = {
    200: "Done.",
    201: "Created.",
    202: "Accepted; the outcome will be available at Location.",
    204: "Done; the response has no body.",
}
REFUSALS: Final = {
    400: "The request is malformed, or a field is invalid.",
    401: "There is no credential, or it is invalid.",
    403: "The caller may not do this.",
    404: "The resource does not exist, or the caller may not see it.",
    408: "The body did not arrive in time.",
    409: "The change conflicts with the current state.",
    410: "The change was already made.",
    412: "The resource has changed since the caller read it.",
    413: "The body is too large.",
    414: "The query is too long.",
    415: "The body is not JSON, or it is encoded.",
    422: "The Idempotency-Key covers another request.",
    429: "The caller exceeds its rate, or has too much open; an address sends too many wrong tokens.",
    500: "An internal error; the log contains its errorId.",
    503: "The request cannot be accepted now; repeat it with the same Idempotency-Key.",
}
OUTCOME_STATUSES: Final = frozenset({400, 403, 404, 409, 410, 412, 500})
"""The error statuses with which an accepted command can end."""


def _response_header(description: str, **schema: Any) -> Json:
    return {"description": description, "schema": {"type": "string"} | schema}


RESPONSE_HEADERS: Final = {
    "Cache-Control": _response_header("Private to the caller, and to be revalidated.", const="private, no-cache"),
    "Command-Id": _response_header("Id of the command, if exactly one was accepted.", format="uuid"),
    "ETag": _response_header('"<version>-<digest of the body>"', pattern='^"[0-9]+-[0-9a-f]{16}"$'),
    "Idempotent-Replayed": _response_header("An earlier request with this key was accepted.", const="true"),
    "Link": _response_header("The previous and the next page, with rel, results and cursor."),
    "Location": _response_header(
        "URL of the accepted command.", pattern="^https?://[^ ]+/api/0/commands/[0-9a-f-]{36}/$"
    ),
    "Preference-Applied": _response_header("The preferences of Prefer that were applied."),
    "Tocsin-Ignored": _response_header(
        "The body fields (nested ones as a path) and query parameters that were ignored because they are unknown."
        " Separated by commas, percent-encoded, cut with ... after 1,000 characters.",
        maxLength=1100,
    ),
    "Retry-After": _response_header("Seconds to wait before the next attempt.", pattern="^[0-9]+$"),
    "WWW-Authenticate": _response_header("The authentication scheme.", const="Bearer"),
    "Accept-Encoding": _response_header("The only coding of a body, if it has another.", const="identity"),
    "Access-Control-Allow-Origin": _response_header("The origin of the request, if it is allowed."),
    "Access-Control-Expose-Headers": _response_header("The headers that scripts of that origin may read."),
    "Content-Security-Policy": _response_header("Everything is loaded from this server only."),
    "X-Content-Type-Options": _response_header("The media type is not to be guessed.", const="nosniff"),
    "X-Request-Id": _response_header("Id of the request, given by the caller or generated.", pattern="^[!-~]{1,128}$"),
    "X-CSRF-Token": _response_header("The token that the next write of this session must carry."),
    "X-Sentry-Alert-Rule-Hits": _response_header("Total number of rules.", pattern="^[0-9]+$"),
    "X-Sentry-Alert-Rule-Limit": _response_header("Maximum number of rules per organization.", pattern="^[0-9]+$"),
    "Vary": _response_header("The response depends on the Origin of the request.", const="Origin"),
}
STREAM_HEADERS: Final[Json] = {
    "Cache-Control": _response_header("Not to be cached.", const="no-store") | {"required": True},
    "X-Accel-Buffering": _response_header("Not to be buffered by proxies.", const="no") | {"required": True},
}
CORS_HEADERS: Final = ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary")
"""The headers of a response to a request with an ``Origin`` header."""

SESSION_COOKIE: Final = "tocsin_ops_session"
"""The cookie of an operator's session, which `/ops/login/` sets."""

EVERY_RESPONSE_HEADERS: Final = ("X-Request-Id",)
HANDLING_HEADERS: Final = ("Preference-Applied", "Tocsin-Ignored")
"""The headers that say how unknown body fields and query parameters were handled."""


def _link(operation: str, description: str, **parameters: str) -> Json:
    in_organization = {"organization": "$request.path.organization"}
    return {"operationId": operation, "description": description, "parameters": in_organization | parameters}


_NEW_INCIDENT: Final = {"identifier": "$response.body#/identifier"}
_SAME_INCIDENT: Final = {"identifier": "$request.path.identifier"}
_NEW_COMMENT: Final = _SAME_INCIDENT | {"comment": "$response.body#/id"}
_INCIDENT: Final = _link("read_incident", "The incident.", **_SAME_INCIDENT)
_ACTIVITY: Final = _link("list_activity", "Its activity.", **_SAME_INCIDENT)
_NEW_RULE: Final = {"rule": "$response.body#/id"}
_SAME_RULE: Final = {"rule": "$request.path.rule"}
_NEW_TRIGGER: Final = _SAME_RULE | {"trigger": "$response.body#/id"}
_SAME_TRIGGER: Final = _SAME_RULE | {"trigger": "$request.path.trigger"}
_NEW_ACTION: Final = _SAME_TRIGGER | {"action": "$response.body#/id"}
_NEW_WEBHOOK: Final = {"webhook": "$response.body#/id"}
_RULE: Final = _link("read_rule", "The rule.", **_SAME_RULE)
_OBSERVATIONS: Final = _link("list_observations", "Its latest observations.", **_SAME_RULE)

LINKS: Final[Json] = {
    "open_incident": {
        "details": _link("read_incident", "The incident.", **_NEW_INCIDENT),
        "close": _link("close_incident", "Close it.", **_NEW_INCIDENT),
        "comment": _link("post_comment", "Comment on it.", **_NEW_INCIDENT),
        "seen": _link("mark_seen", "Mark it as seen.", **_NEW_INCIDENT),
        "subscribe": _link("subscribe", "Subscribe to it.", **_NEW_INCIDENT),
        "activity": _link("list_activity", "Its activity.", **_NEW_INCIDENT),
    },
    "post_comment": {
        "activity": _ACTIVITY,
        "edit": _link("edit_comment", "Edit it.", **_NEW_COMMENT),
        "delete": _link("delete_comment", "Delete it.", **_NEW_COMMENT),
    },
    "edit_comment": {"activity": _ACTIVITY, "delete": _link("delete_comment", "Delete it.", **_NEW_COMMENT)},
    "close_incident": {"activity": _ACTIVITY},
    "mark_seen": {"details": _INCIDENT},
    "subscribe": {
        "subscribers": _link("list_subscribers", "Its subscribers.", **_SAME_INCIDENT),
        "unsubscribe": _link("unsubscribe", "Unsubscribe from it.", **_SAME_INCIDENT),
    },
    "create_rule": {
        "details": _link("read_rule", "The rule.", **_NEW_RULE),
        "update": _link("update_rule", "Update it.", **_NEW_RULE),
        "delete": _link("delete_rule", "Delete it.", **_NEW_RULE),
        "triggers": _link("list_triggers", "Its triggers.", **_NEW_RULE),
        "trigger": _link("create_trigger", "Add a trigger.", **_NEW_RULE),
        "observe": _link("observe_metric", "Send an observation.", **_NEW_RULE),
        "snooze": _link("snooze_rule", "Snooze it.", **_NEW_RULE, project="$response.body#/projects/0"),
        "wake": _link("unsnooze_rule", "Unsnooze it.", **_NEW_RULE, project="$response.body#/projects/0"),
    },
    "update_rule": {"details": _RULE},
    "observe_metric": {"observations": _OBSERVATIONS, "details": _RULE},
    "create_trigger": {
        "details": _link("read_trigger", "The trigger.", **_NEW_TRIGGER),
        "update": _link("update_trigger", "Update it.", **_NEW_TRIGGER),
        "delete": _link("delete_trigger", "Delete it.", **_NEW_TRIGGER),
        "actions": _link("list_actions", "Its actions.", **_NEW_TRIGGER),
        "action": _link("create_action", "Add an action.", **_NEW_TRIGGER),
    },
    "create_action": {
        "details": _link("read_action", "The action.", **_NEW_ACTION),
        "update": _link("update_action", "Update it.", **_NEW_ACTION),
        "delete": _link("delete_action", "Delete it.", **_NEW_ACTION),
    },
    "create_webhook": {
        "details": _link("read_webhook", "The webhook.", **_NEW_WEBHOOK),
        "update": _link("update_webhook", "Change it.", **_NEW_WEBHOOK),
        "delete": _link("delete_webhook", "Delete it.", **_NEW_WEBHOOK),
        "rotate": _link("rotate_secret", "Give it a new secret.", **_NEW_WEBHOOK),
        "test": _link("send_test_event", "Test it.", **_NEW_WEBHOOK),
        "deliveries": _link("list_deliveries", "What was sent to it.", **_NEW_WEBHOOK),
    },
    "snooze_rule": {
        "wake": _link("unsnooze_rule", "Unsnooze it.", **_SAME_RULE, project="$request.path.project"),
    },
}
"""Maps each operation to those that can follow it. Their parameters are taken from its request and response."""

COMMAND_LINKS: Final[Json] = {
    "command": {
        "operationId": "read_command",
        "description": "The command and its outcome.",
        "parameters": {"command": "$response.header.Command-Id"},
    }
}


def _header(name: str, description: str, **schema: Any) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"} | schema}


HEADER_PARAMETERS: Final = {
    "Act-As": _header("Act-As", "user:ID, the member whom a service acts for.", pattern="^user:[0-9]+$"),
    "Prefer": _header(
        "Prefer",
        "respond-async responds at once; wait=N waits up to N seconds (0 to 30). These two are for commands and for"
        " reading one. handling=strict refuses unknown body fields and query parameters with 400.",
        examples=["respond-async", "wait=5", "handling=strict"],
    ),
    "Idempotency-Key": _header(
        "Idempotency-Key",
        "Makes the request safe to repeat for a day.",
        pattern="^[!-~]+$",
        minLength=1,
        maxLength=255,
        examples=["b1946ac9-1"],
    ),
    "If-Match": _header(
        "If-Match",
        '*, "<version>" or an ETag, or a list of them: the versions that the caller may change.',
        pattern=r'^(\*|[ \t,]*(W/)?"[!#-~]*"([ \t]*,[ \t,]*(W/)?"[!#-~]*")*[ \t,]*)$',
        examples=["*", '"3"'],
    ),
    "If-None-Match": _header("If-None-Match", "ETags that the caller already has."),
    "X-CSRF-Token": _header("X-CSRF-Token", "For sessions only: the token from a response to one of their reads."),
    "Last-Event-ID": _header("Last-Event-ID", "Resume after this event; if it is unknown, with those of the last day."),
}
_CURSOR: Final = {"type": "string", "format": "cursor"}
PAGING_PARAMETERS: Final[list[Json]] = [
    {
        "name": "per_page",
        "in": "query",
        "description": "Rows per page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100},
    },
    {"name": "cursor", "in": "query", "description": "Position of the page; opaque, from Link.", "schema": _CURSOR},
]


PUBLIC_TAG: Final = "health"
"""The tag of the operations that need no token."""


def _public(
    operation: str,
    summary: str,
    media_type: str,
    *,
    statuses: Sequence[int] = (200,),
    headers: Sequence[str] = (),
    **more: Any,
) -> Json:
    return {
        "get": {
            "summary": summary,
            "description": f"{summary}. No token is needed.",
            "operationId": operation,
            "tags": [PUBLIC_TAG],
            "security": [],
            "responses": {
                str(status): {
                    "description": "OK." if status == 200 else "Not ready.",
                    "headers": {
                        name: RESPONSE_HEADERS[name] | {"required": True}
                        for name in (*headers, *EVERY_RESPONSE_HEADERS)
                    },
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
    "description": "Include the result of each check.",
    "schema": {"type": "string"},
}

PUBLIC_PATHS: Final[Json] = {
    "/livez": _public("check_liveness", "Check liveness", "application/json"),
    "/readyz": _public(
        "check_readiness", "Check readiness", "application/json", statuses=(200, 503), parameters=[_VERBOSE]
    ),
    "/version": _public("read_version", "Read the version", "application/json"),
    "/metrics": _public("read_metrics", "Read metrics for Prometheus", "text/plain"),
    "/openapi.json": _public("read_openapi_document", "Read the OpenAPI document", "application/json"),
    "/asyncapi.json": _public(
        "read_asyncapi_document", "Read the AsyncAPI document, which describes the events", "application/json"
    ),
    "/docs": _public(
        "browse_api",
        "Browse the OpenAPI document",
        "text/html",
        headers=("Content-Security-Policy", "X-Content-Type-Options"),
    ),
}
"""Paths that need no token."""
