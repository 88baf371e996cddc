"""The declaration of endpoints: path, permission and operations, with what the OpenAPI document needs to know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.api.context import RequestContext
from gateway.http.parsing import BODY_LIMIT_BYTES
from gateway.http.responses import HttpResponse
from models.enums import OpsRole
from models.policy import Actor, Permission
from tasks.commands.base import Command

Handler = Callable[[RequestContext], Awaitable[HttpResponse]]

REPEATABLE_TEXT: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "string"}}
"""The schema of a query parameter that may be repeated."""


@dataclass(frozen=True)
class Parameter:
    """A query parameter, as described in the OpenAPI document; ``schema`` is a string by default."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True)
class Operation:
    """One HTTP method of an endpoint. Only ``handle`` affects requests; the rest describes it for OpenAPI.

    :param responses: component name of the body by success status, ``None`` if the response has no body.
    :param command_class: the command that the request body describes.
    :param path_fields: fields of that command that the path determines, on the wire's names.
    :param narrowed: schemas of fields for which this operation accepts less than the command does.
    :param body: component name of the request body, if it is not that of ``command_class``.
    :param headers: response headers in addition to those that follow from the flags.
    :param refusals: refusal statuses in addition to the usual ones.
    :param can_wait: the operation reads ``Prefer: wait``, although it is not a command.
    :param has_etag: the response has an ETag, and ``If-None-Match`` is read.
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


@dataclass(frozen=True)
class Endpoint:
    """A path with its operations by HTTP method.

    :param tag: groups endpoints in the OpenAPI document.
    :param permission: what the caller needs in the organization that the path names.
    :param ops_role: the least role of the operator who may call an endpoint outside of organizations.
    :param precondition: check 6: judges the caller before the organization is looked at; raises the refusal.
    :param body_limit: the largest request body in bytes.
    """

    path: str
    operations: Mapping[str, Operation]
    tag: str
    permission: Permission | None = None
    ops_role: OpsRole | None = None
    precondition: Callable[[Actor], None] | None = None
    body_limit: int = BODY_LIMIT_BYTES
