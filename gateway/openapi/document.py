"""The builder of the OpenAPI document, which describes the endpoint table that the gateway serves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.metadata import version
from typing import Any, Final

from gateway.api.endpoint import Endpoint, Operation
from gateway.openapi import components, shared
from gateway.openapi.entity_schema import Json, component_reference

_PATH_PARAMETERS: Final = {
    "organization": "Slug or id of the organization.",
    "identifier": "Number of the incident within its organization.",
    "comment": "Id of the comment's activity.",
    "command": "Id of the command.",
    "project": "Slug of the project.",
    "notification": "Id of the notification. It changes if a stronger reason raises the notification.",
    "rule": "Id of the alert rule.",
    "trigger": "Id of the trigger.",
    "action": "Id of the action.",
    "webhook": "Id of the webhook.",
    "destination": "Id of the chat destination.",
    "delivery": "Id of the delivery, which is also the message's `webhook-id`.",
    "hold": "Id of the hold.",
    "operation": "Id of the requeue.",
}

_PATH_SCHEMAS: Final = {"identifier": {"type": "string", "pattern": "^[0-9]+$"}}
_NAME_SCHEMA: Final = {"type": "string", "minLength": 1}

_TAGS: Final = {
    "alert rules": "Rules that open and close incidents, and the values that they observe.",
    "chat destinations": "Chats to which events and notifications are posted.",
    "commands": "Commands of every type in one request, and their outcomes.",
    "directory": "Who exists: organizations, people, teams and projects.",
    "events": "What happens, as a stream of server-sent events.",
    "health": "Checks, metrics and descriptions, without a token.",
    "incidents": "Incidents, their comments, subscribers and activity.",
    "integrations": "Alerts from other programs.",
    "notifications": "A person's inbox and preferences.",
    "operations": "What operators see and do.",
    "organizations": "An organization, its members, teams and projects.",
    "webhooks": "URLs to which events are sent, signed.",
}

_DESCRIPTION: Final = (
    "Work on incidents through messages. Every write is a command: accepted once it is in the ledger, then applied by"
    " a worker. An endpoint waits for the outcome, or responds with 202 and the command. Errors are"
    " `application/problem+json` for callers who accept it."
)


class Form(Enum):
    """Which requests a document describes.

    The published document recommends one way to write each request, which generators of clients understand. The other
    form allows exactly what is accepted, such as numbers as text, for tests of the boundary.
    """

    RECOMMENDED = "recommended"
    ACCEPTED = "accepted"


def build_document(endpoints: Sequence[Endpoint], *, form: Form = Form.RECOMMENDED) -> Json:
    """Return the OpenAPI document for these endpoints as a JSON object, without the URL of the server."""
    both = components.build_schemas(endpoints)
    schemas = (components.recommended_schemas if form is Form.RECOMMENDED else components.accepted_schemas)(both)
    paths: Json = {
        endpoint.path: {
            method.lower(): _operation(endpoint, method, each, schemas) for method, each in endpoint.operations.items()
        }
        | ({"parameters": _path_parameters(endpoint.path)} if "{" in endpoint.path else {})
        for endpoint in endpoints
    }
    tags = dict.fromkeys([*(endpoint.tag for endpoint in endpoints), shared.PUBLIC_TAG])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tocsin HTTP API",
            "version": version("tocsin"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": tag, "description": _TAGS[tag]} for tag in tags],
        "paths": paths | shared.PUBLIC_PATHS,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": shared.SESSION_COOKIE},
            },
        },
        "security": [{"token": []}],
    }


def _operation(endpoint: Endpoint, method: str, operation: Operation, schemas: Mapping[str, Json]) -> Json:
    described: Json = {
        "operationId": operation.handle.__name__,
        "summary": operation.summary,
        "tags": [endpoint.tag],
        "parameters": _parameters(endpoint, method, operation),
        "responses": _responses(endpoint, operation),
    }
    if endpoint.has_sessions:
        described["security"] = [{"token": []}, {"session": []}]
    if operation.handle.__doc__:
        described["description"] = operation.handle.__doc__.splitlines()[0]
    if body := components.body_name(operation):
        required = components.requires_body(schemas[body])
        described["requestBody"] = {"required": required, "content": _content(component_reference(body))}
    return described


def _links(operation: Operation, status: int) -> Json:
    links = shared.LINKS.get(operation.handle.__name__, {}) if status in (200, 201) else {}
    if operation.is_command and _returns_one_command(operation):
        links = links | shared.COMMAND_LINKS
    return {"links": links} if links else {}


def _returns_one_command(operation: Operation) -> bool:
    return "CommandList" not in operation.responses.values()


def _path_parameters(path: str) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_PARAMETERS[name],
            "schema": _PATH_SCHEMAS.get(name, _NAME_SCHEMA),
        }
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _parameters(endpoint: Endpoint, method: str, operation: Operation) -> list[Json]:
    parameters: list[Json] = [
        {"name": each.name, "in": "query", "description": each.description, "schema": each.schema}
        | ({"required": True} if each.is_required else {})
        for each in operation.parameters
    ]
    if operation.is_list:
        parameters += shared.PAGING_PARAMETERS
    headers: list[str] = ["Act-As", "Prefer"]
    if operation.is_command:
        headers += ["Idempotency-Key", "If-Match"]
    if operation.has_etag:
        headers += ["If-None-Match"]
    if operation.is_stream and not endpoint.has_sessions:
        headers += ["Last-Event-ID"]
    if endpoint.has_sessions and method != "GET":
        headers += ["X-CSRF-Token"]
    return parameters + [shared.HEADER_PARAMETERS[name] for name in headers]


def _responses(endpoint: Endpoint, operation: Operation) -> Json:
    responses: Json = {}
    for status, name in operation.responses.items():
        responses[str(status)] = _response(shared.SUCCESSES[status], _response_schema(operation, name))
        if operation.is_stream:
            responses[str(status)]["content"] = {"text/event-stream": {"schema": component_reference(str(name))}}
    if operation.is_command and 202 not in operation.responses:
        responses["202"] = _response(shared.SUCCESSES[202], component_reference("Command"))
    for status in map(int, responses):
        responses[str(status)] |= {"headers": _response_headers(operation, status)} | _links(operation, status)
    if operation.has_etag:
        headers = _headers("ETag", "Cache-Control")
        responses["304"] = {"description": "The caller already has the current version.", "headers": headers}
    for status in _refusals(endpoint, operation):
        responses[str(status)] = _refusal(status, operation)
    for response in responses.values():
        response["headers"] = (
            response.get("headers", {})
            | _headers(*shared.EVERY_RESPONSE_HEADERS)
            | _headers(*shared.CORS_HEADERS, *shared.HANDLING_HEADERS, required=False)
            | _headers(*(["X-CSRF-Token"] if endpoint.has_sessions else []), required=False)
        )
    return responses


def _refusals(endpoint: Endpoint, operation: Operation) -> list[int]:
    statuses = {400, 401, 403, 408, 413, 414, 415, 429, 500, 503}
    if endpoint.permission is not None or "{" in endpoint.path:
        statuses.add(404)
    if operation.is_command:
        statuses |= {409, 412, 422}
    statuses.update(operation.refusals)
    return sorted(statuses)


_COMMAND_HEADERS: Final = ("Idempotent-Replayed",)


def _response_headers(operation: Operation, status: int) -> Json:
    required: list[str] = []
    optional: list[str] = []
    if operation.is_command:
        optional += _COMMAND_HEADERS
        (required if _returns_one_command(operation) else optional).append("Command-Id")
    if operation.is_command and status == 202:
        required.append("Retry-After")
        (required if _returns_one_command(operation) else optional).append("Location")
    if operation.has_etag:
        required += ["ETag", "Cache-Control"]
    if operation.is_list:
        required.append("Link")
    required += operation.headers
    if operation.is_stream:
        return shared.STREAM_HEADERS
    return _headers(*required) | _headers(*optional, required=False)


def _headers(*names: str, required: bool = True) -> Json:
    return {name: shared.RESPONSE_HEADERS[name] | {"required": required} for name in names}


def _response_schema(operation: Operation, name: str | None) -> Json | None:
    if name is None:
        return None
    return {"type": "array", "items": component_reference(name)} if operation.is_list else component_reference(name)


def _response(description: str, schema: Json | None) -> Json:
    return {"description": description} | ({"content": _content(schema)} if schema is not None else {})


def _refusal(status: int, operation: Operation) -> Json:
    content = _content(component_reference("FieldErrors" if status == 400 else "Error"))
    required = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}.get(status, [])
    # A refusal by the worker is the outcome of an accepted command.
    optional = ["Command-Id", *_COMMAND_HEADERS] if operation.is_command and status in shared.OUTCOME_STATUSES else []
    optional += ["Accept-Encoding"] if status == 415 else []
    return {
        "description": shared.REFUSALS[status],
        "content": content | {"application/problem+json": {"schema": component_reference("Problem")}},
        "headers": _headers(*required) | _headers(*optional, required=False),
    }


def _content(schema: Mapping[str, Any]) -> Json:
    return {"application/json": {"schema": schema}}
