"""What an address is: a path, who may come, and what its methods do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.api.context import RequestContext
from gateway.http.parsing import BODY_LIMIT
from gateway.http.responses import HttpResponse
from models.enums import OpsRole
from models.policy import Actor, Permission
from tasks.commands.base import Command

Handler = Callable[[RequestContext], Awaitable[HttpResponse]]

TEXTS: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "string"}}
"""The schema of a parameter that may be repeated."""


@dataclass(frozen=True)
class Parameter:
    """A query parameter, for the OpenAPI file."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True)
class Operation:
    """One method of an address, and what the OpenAPI file says about it.

    ``answers`` maps a status to the name of a schema, ``None`` for an answer without a body; ``message`` is the
    command that the body asks for, ``in_address`` its fields that the address gives, ``narrowed`` the schemas of those
    of which it takes less than the command does; ``body`` is the name of the body's schema where it is not the
    message's. ``headers`` are what the answer has beside the usual ones, ``refuses`` the refusals.
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
    """A path with its methods. ``permission`` makes it an organization's, ``ops_role`` the operators'.

    ``welcomes`` judges the caller before the organization is looked up (step 6); it raises a refusal.
    ``body_limit`` is in bytes; ``tag`` groups addresses in the OpenAPI file.
    """

    path: str
    operations: Mapping[str, Operation]
    tag: str
    permission: Permission | None = None
    ops_role: OpsRole | None = None
    precondition: Callable[[Actor], None] | None = None
    body_limit: int = BODY_LIMIT
