"""Declarations of endpoints: their paths, permissions and operations, and their descriptions for OpenAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.api.context import RequestContext
from gateway.http.parsing import BODY_LIMIT_BYTES
from gateway.http.responses import HttpResponse
from models.enums import OpsRole
from models.permissions import Permission
from models.policy import Actor
from tasks.commands.base import Command

Handler = Callable[[RequestContext], Awaitable[HttpResponse]]

REPEATABLE_TEXT: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "string"}}
"""The schema for a text query parameter that may be repeated."""


@dataclass(frozen=True)
class Parameter:
    """A query parameter, as described in the OpenAPI document. By default, it is a string.

    A parameter that is not declared is unknown: requests with ``Prefer: handling=strict`` are refused because of it.
    """

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    is_required: bool = False


PAGING_NAMES: Final = ("per_page", "cursor")
"""The names of the query parameters that every list has."""


@dataclass(frozen=True)
class Operation:
    """One HTTP method of an endpoint. Only ``handle``, ``ops_role`` and the names in ``parameters`` affect requests.

    The rest describes the method for OpenAPI.

    :param responses: maps each success status to the response body's component name, or to ``None`` if it has no body.
    :param command_class: the command that the request body describes.
    :param path_fields: the names (as sent in JSON) of the command's fields whose values come from the path.
    :param narrowed: schemas for fields that this operation restricts more than the command does.
    :param body: the component name of the request body, if it is not that of ``command_class``.
    :param headers: response headers in addition to those that the flags below imply.
    :param refusals: the HTTP statuses of possible refusals, in addition to the usual ones.
    :param can_wait: whether the operation reads ``Prefer: wait`` even though it is not a command.
    :param has_etag: whether the response has an ETag and the request's ``If-None-Match`` is respected.
    :param ops_role: the lowest operator role that may call the operation, if it is not that of the endpoint.
    """

    handle: Handler
    summary: str
    responses: Mapping[int, str | None]
    command_class: type[Command] | None = None
    path_fields: tuple[str, ...] = ()
    narrowed: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    body: str | None = None
    parameters: tuple[Parameter, ...] = ()
    headers: tuple[str, ...] = ()
    refusals: tuple[int, ...] = ()
    can_wait: bool = False
    is_command: bool = False
    is_list: bool = False
    has_etag: bool = False
    is_stream: bool = False
    ops_role: OpsRole | None = None


def parameter_names(operation: Operation) -> frozenset[str]:
    """Return the names of an operation's query parameters."""
    return frozenset({each.name for each in operation.parameters}.union(PAGING_NAMES if operation.is_list else ()))


@dataclass(frozen=True)
class Endpoint:
    """A path with its operations by HTTP method.

    :param tag: the tag that groups endpoints in the OpenAPI document.
    :param permission: the permission that the caller needs in the organization that the path names.
    :param ops_role: the lowest operator role that may call the endpoint, if it is outside any organization.
    :param is_personal: whether the path names no organization, so that the permission is a matter of the token alone.
    :param precondition: check 6, which examines only the caller. It raises a refusal if it fails.
    :param body_limit: the maximum size of a request body in bytes.
    :param throttles_with_503: whether callers who exceed a limit get 503, because they would not repeat after 429.
    :param has_sessions: whether operators may call the endpoint with the cookie of a session in place of a token.
    """

    path: str
    operations: Mapping[str, Operation]
    tag: str
    permission: Permission | None = None
    ops_role: OpsRole | None = None
    precondition: Callable[[Actor], None] | None = None
    body_limit: int = BODY_LIMIT_BYTES
    is_personal: bool = False
    throttles_with_503: bool = False
    has_sessions: bool = False
