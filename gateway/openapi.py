"""The OpenAPI file: every address that the doors know, described from the same table that they work from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from gateway import schemas
from gateway.addresses import Address, Operation

Json = dict[str, Any]

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

_DESCRIPTION: Final = (
    "Work on incidents through messages. Every write is a command: accepted once it is in the ledger, then applied by"
    " a worker. A route waits for the outcome, or answers 202 with the command. Errors are `application/problem+json`"
    " for callers who ask for it."
)


def describe(addresses: Sequence[Address]) -> Json:
    """The file, as JSON."""
    paths: Json = {
        address.path: {method.lower(): _operation(address, method, each) for method, each in address.operations.items()}
        | ({"parameters": _path_parameters(address.path)} if "{" in address.path else {})
        for address in addresses
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "tocsin", "version": version("tocsin"), "description": _DESCRIPTION},
        "paths": paths | schemas.OPEN_PATHS,
        "components": {
            "schemas": schemas.all_schemas(addresses),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(address: Address, method: str, operation: Operation) -> Json:
    described: Json = {
        "operationId": operation.handle.__name__,
        "summary": operation.summary,
        "tags": [address.tag],
        "parameters": _parameters(operation),
        "responses": _responses(address, method, operation),
    }
    if operation.handle.__doc__:
        described["description"] = operation.handle.__doc__.splitlines()[0]
    if body := schemas.body_name(operation):
        described["requestBody"] = {"required": operation.needs_body, "content": _content(_reference(body))}
    return described


def _path_parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "description": _PATHS[name], "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _parameters(operation: Operation) -> list[Json]:
    parameters: list[Json] = [
        {"name": each.name, "in": "query", "description": each.description, "schema": each.schema}
        for each in operation.parameters
    ]
    if operation.is_list:
        parameters += schemas.PAGING_PARAMETERS
    headers: list[str] = ["Act-As"]
    if operation.is_command:
        headers += ["Prefer", "Idempotency-Key", "If-Match"]
    if operation.waits:
        headers += ["Prefer"]
    if operation.has_etag:
        headers += ["If-None-Match"]
    if operation.is_stream:
        headers += ["Last-Event-ID"]
    return parameters + [schemas.HEADER_PARAMETERS[name] for name in headers]


def _responses(address: Address, method: str, operation: Operation) -> Json:
    responses: Json = {}
    for status, name in operation.answers.items():
        responses[str(status)] = _response(schemas.SUCCESSES[status], _answer_schema(operation, name))
        if operation.is_stream:
            responses[str(status)]["content"] = {"text/event-stream": {"schema": _reference(str(name))}}
        responses[str(status)]["headers"] = _answer_headers(operation)
    if operation.is_command and 202 not in operation.answers:
        responses["202"] = _response(schemas.SUCCESSES[202], _reference("Command"))
    if "202" in responses:
        responses["202"]["headers"] = _headers("Command-Id", "Location", "Retry-After", *_COMMAND_HEADERS)
    if operation.has_etag:
        responses["304"] = {"description": "The caller has it already.", "headers": _headers("ETag")}
    for status in _refusals(address, method, operation):
        responses[str(status)] = _refusal(status)
    return responses


def _refusals(address: Address, method: str, operation: Operation) -> list[int]:
    statuses = {400, 401, 403, 413, 415, 500, 503}
    if address.permission is not None or "{" in address.path:
        statuses.add(404)
    if operation.is_command:
        statuses |= {409, 412, 422, 429, *operation.refuses}
    if address.permission is None and address.ops_role is None and method == "GET":
        statuses -= {413}
    return sorted(statuses)


_COMMAND_HEADERS: Final = ("Idempotent-Replayed", "Preference-Applied")


def _answer_headers(operation: Operation) -> Json:
    names: list[str] = []
    if operation.is_command:
        names += ["Command-Id", *_COMMAND_HEADERS]
    if operation.waits:
        names += ["Preference-Applied"]
    if operation.has_etag:
        names += ["ETag"]
    if operation.is_list:
        names += ["Link"]
    names += operation.headers
    return _headers(*names)


def _headers(*names: str) -> Json:
    return {name: {"description": schemas.ANSWER_HEADERS[name], "schema": {"type": "string"}} for name in names}


def _answer_schema(operation: Operation, name: str | None) -> Json | None:
    if name is None:
        return None
    return {"type": "array", "items": _reference(name)} if operation.is_list else _reference(name)


def _response(description: str, schema: Json | None) -> Json:
    return {"description": description} | ({"content": _content(schema)} if schema is not None else {})


def _refusal(status: int) -> Json:
    content = _content(_reference("FieldErrors" if status == 400 else "Error"))
    described: Json = {
        "description": schemas.REFUSALS[status],
        "content": content | {"application/problem+json": {"schema": _reference("Problem")}},
    }
    names = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}.get(status, [])
    if names:
        described["headers"] = _headers(*names)
    return described


def _content(schema: Mapping[str, Any]) -> Json:
    return {"application/json": {"schema": schema}}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
