"""The OpenAPI file: every address that the doors know, described from the same table that they work from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from gateway.api.endpoint import Endpoint, Operation
from gateway.openapi import components, shared
from gateway.openapi.entity_schema import Json, component_reference

_PATHS: Final = {
    "organization": "Slug or number of the organization.",
    "identifier": "Number of the incident in its organization.",
    "comment": "Id of the comment: of its activity.",
    "command": "Id of the command.",
    "project": "Slug of the project.",
    "rule": "Id of the alert rule.",
    "trigger": "Id of the trigger.",
    "action": "Id of the action.",
}

_PATH_SCHEMAS: Final = {"identifier": {"type": "string", "pattern": "^[0-9]+$"}}
_NAME_SCHEMA: Final = {"type": "string", "minLength": 1}

_DESCRIPTION: Final = (
    "Work on incidents through messages. Every write is a command: accepted once it is in the ledger, then applied by"
    " a worker. A route waits for the outcome, or answers 202 with the command. Errors are `application/problem+json`"
    " for callers who ask for it."
)


def build_document(endpoints: Sequence[Endpoint]) -> Json:
    """The file, as JSON."""
    bodies = components.build_schemas(endpoints)
    paths: Json = {
        address.path: {method.lower(): _operation(address, each, bodies) for method, each in address.operations.items()}
        | ({"parameters": _path_parameters(address.path)} if "{" in address.path else {})
        for address in endpoints
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "tocsin", "version": version("tocsin"), "description": _DESCRIPTION},
        "paths": paths | shared.OPEN_PATHS,
        "components": {
            "schemas": bodies,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(address: Endpoint, operation: Operation, bodies: Mapping[str, Json]) -> Json:
    described: Json = {
        "operationId": operation.handle.__name__,
        "summary": operation.summary,
        "tags": [address.tag],
        "parameters": _parameters(operation),
        "responses": _responses(address, operation),
    }
    if operation.handle.__doc__:
        described["description"] = operation.handle.__doc__.splitlines()[0]
    if body := components.body_name(operation):
        required = components.requires_body(bodies[body])
        described["requestBody"] = {"required": required, "content": _content(component_reference(body))}
    return described


def _links(operation: Operation, status: int) -> Json:
    links = shared.LINKS.get(operation.handle.__name__, {}) if status in (200, 201) else {}
    if operation.is_command and _names_its_command(operation):
        links = links | shared.COMMAND_LINKS
    return {"links": links} if links else {}


def _names_its_command(operation: Operation) -> bool:
    return "CommandList" not in operation.responses.values()


def _path_parameters(path: str) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATHS[name],
            "schema": _PATH_SCHEMAS.get(name, _NAME_SCHEMA),
        }
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _parameters(operation: Operation) -> list[Json]:
    parameters: list[Json] = [
        {"name": each.name, "in": "query", "description": each.description, "schema": each.schema}
        for each in operation.parameters
    ]
    if operation.is_list:
        parameters += shared.PAGING_PARAMETERS
    headers: list[str] = ["Act-As"]
    if operation.is_command:
        headers += ["Prefer", "Idempotency-Key", "If-Match"]
    if operation.can_wait:
        headers += ["Prefer"]
    if operation.has_etag:
        headers += ["If-None-Match"]
    if operation.is_stream:
        headers += ["Last-Event-ID"]
    return parameters + [shared.HEADER_PARAMETERS[name] for name in headers]


def _responses(address: Endpoint, operation: Operation) -> Json:
    responses: Json = {}
    for status, name in operation.responses.items():
        responses[str(status)] = _response(shared.SUCCESSES[status], _answer_schema(operation, name))
        if operation.is_stream:
            responses[str(status)]["content"] = {"text/event-stream": {"schema": component_reference(str(name))}}
    if operation.is_command and 202 not in operation.responses:
        responses["202"] = _response(shared.SUCCESSES[202], component_reference("Command"))
    for status in map(int, responses):
        responses[str(status)] |= {"headers": _answer_headers(operation, status)} | _links(operation, status)
    if operation.has_etag:
        headers = _headers("ETag", "Cache-Control") | _headers(*_waiting_headers(operation), required=False)
        responses["304"] = {"description": "The caller has it already.", "headers": headers}
    for status in _refusals(address, operation):
        responses[str(status)] = _refusal(status, operation)
    for described in responses.values():
        described["headers"] = described.get("headers", {}) | _headers(*shared.SHARING_HEADERS, required=False)
    return responses


def _refusals(address: Endpoint, operation: Operation) -> list[int]:
    statuses = {400, 401, 403, 413, 415, 500, 503}
    if address.permission is not None or "{" in address.path:
        statuses.add(404)
    if operation.is_command:
        statuses |= {409, 412, 422, 429, *operation.refusals}
    return sorted(statuses)


_COMMAND_HEADERS: Final = ("Idempotent-Replayed", "Preference-Applied")


def _answer_headers(operation: Operation, status: int) -> Json:
    always: list[str] = []
    maybe = _waiting_headers(operation)
    if operation.is_command:
        maybe += _COMMAND_HEADERS
        (always if _names_its_command(operation) else maybe).append("Command-Id")
    if operation.is_command and status == 202:
        always.append("Retry-After")
        (always if _names_its_command(operation) else maybe).append("Location")
    if operation.has_etag:
        always += ["ETag", "Cache-Control"]
    if operation.is_list:
        always.append("Link")
    always += operation.headers
    if operation.is_stream:
        return shared.STREAM_HEADERS
    return _headers(*always) | _headers(*maybe, required=False)


def _waiting_headers(operation: Operation) -> list[str]:
    return ["Preference-Applied"] if operation.can_wait else []


def _headers(*names: str, required: bool = True) -> Json:
    return {name: shared.ANSWER_HEADERS[name] | {"required": required} for name in names}


def _answer_schema(operation: Operation, name: str | None) -> Json | None:
    if name is None:
        return None
    return {"type": "array", "items": component_reference(name)} if operation.is_list else component_reference(name)


def _response(description: str, schema: Json | None) -> Json:
    return {"description": description} | ({"content": _content(schema)} if schema is not None else {})


def _refusal(status: int, operation: Operation) -> Json:
    content = _content(component_reference("FieldErrors" if status == 400 else "Error"))
    always = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}.get(status, [])
    # What the worker refuses was accepted before, and is a command like any other.
    maybe = ["Command-Id", *_COMMAND_HEADERS] if operation.is_command and status in shared.OUTCOMES else []
    return {
        "description": shared.REFUSALS[status],
        "content": content | {"application/problem+json": {"schema": component_reference("Problem")}},
        "headers": _headers(*always) | _headers(*maybe, required=False),
    }


def _content(schema: Mapping[str, Any]) -> Json:
    return {"application/json": {"schema": schema}}
