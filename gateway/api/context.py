"""The context of one request: its parameters, body, caller and organization."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeVar
from urllib.parse import quote
from uuid import UUID

from starlette.datastructures import QueryParams

from gateway.auth import Caller, Credential
from gateway.caller_slots import Slot
from gateway.container import Container
from gateway.http.json_digest import parse_exact_json
from gateway.http.parsing import BODY_LIMIT_BYTES, Headers, parse_json
from gateway.http.prefer import Preference, parse_prefer
from gateway.http.request_log import RequestRecord
from models.policy import Actor, OrganizationFacts
from models.refusals import InvalidFields, NotFound
from models.types import JSON
from tasks.commands.fields import errors_of_unknown, identifier

MAX_VALUES: Final = 100
"""How often a query parameter may be repeated."""

TOO_MANY_VALUES: Final = f"At most {MAX_VALUES} values are allowed."
UNKNOWN_PARAMETER: Final = "Unknown query parameter."

Input = TypeVar("Input")
Result = TypeVar("Result")

_UUID: Final = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass
class RequestContext:
    """A request that has passed the pipeline's checks.

    ``base_url`` is the start of the gateway's absolute URLs. ``path_parameters`` are decoded. ``act_as`` is the
    user id in ``Act-As``, or 0 if the header names no possible user. ``credential`` is the credential by which
    ``caller`` was looked up. ``slot`` is what the request takes up of the caller's limit. ``deadline`` is the
    event-loop time by which a command must be accepted. ``record`` holds the request id and the details that the
    request's log line will contain. ``known_parameters`` are the names of the operation's query parameters.
    ``ignored`` collects the names of the body fields and query parameters that were ignored because nobody knows them.
    ``has_paid`` tells whether the caller has been charged for commands.
    """

    container: Container
    method: str
    path: str
    base_url: str
    path_parameters: dict[str, str]
    query_string: bytes
    headers: Headers
    body: bytes
    caller: Caller
    act_as: int | None
    credential: Credential
    slot: Slot
    deadline: float
    record: RequestRecord
    known_parameters: frozenset[str] = frozenset()
    ignored: list[str] = field(default_factory=list, init=False)
    has_paid: bool = field(default=False, init=False)

    @property
    def actor(self) -> Actor:
        """The caller, in the form of an actor whose access the policy can check."""
        return self.caller.actor

    @property
    def organization(self) -> OrganizationFacts:
        """The organization in the path.

        :raises NotFound: if the organization does not exist, or if the path does not name one.
        """
        if self.caller.organization is None:
            raise NotFound
        return self.caller.organization

    @property
    def organization_slug(self) -> str | None:
        """The slug of the organization in the path, or ``None`` if the path does not name one."""
        return None if self.caller.organization is None else self.caller.organization.slug

    @cached_property
    def query(self) -> QueryParams:
        """The request's query parameters."""
        return QueryParams(self.query_string)

    @property
    def url(self) -> str:
        """The request's absolute URL, without query parameters."""
        return f"{self.base_url}{quote(self.path)}"

    @property
    def preference(self) -> Preference:
        """The caller's preferences: how long to wait for a command's outcome, and how strict to be."""
        return parse_prefer(self.headers.joined(b"prefer"))

    @property
    def if_none_match(self) -> str | None:
        """The value of the header ``If-None-Match``, which lists the ETags that the caller already has."""
        return self.headers.joined(b"if-none-match")

    @property
    def unknown_parameters(self) -> list[str]:
        """The names of the query parameters that the operation does not have."""
        if not self.query_string:
            return []
        return [name for name in dict.fromkeys(self.query.keys()) if name not in self.known_parameters]

    def require_few_values(self) -> None:
        """Require that no query parameter is repeated more than :data:`MAX_VALUES` times.

        :raises InvalidFields: if one is.
        """
        if self.query_string.count(b"&") < MAX_VALUES:
            return
        counts = Counter(name for name, _ in self.query.multi_items())
        if errors := {name: [TOO_MANY_VALUES] for name, count in counts.items() if count > MAX_VALUES}:
            raise InvalidFields(errors)

    def ignore_unknown(self, fields: Iterable[str]) -> None:
        """Ignore these body fields and the unknown query parameters, and note their names.

        :raises InvalidFields: if the caller prefers strict handling, and there is any of them.
        """
        if self.preference.is_strict and (errors := self.errors_of_unknown(fields)):
            raise InvalidFields(errors)
        self.ignored += [*fields, *self.unknown_parameters]

    def errors_of_unknown(self, fields: Iterable[str]) -> dict[str, JSON]:
        """Return an error for each of these body fields and for each unknown query parameter, by name."""
        return {name: [UNKNOWN_PARAMETER] for name in self.unknown_parameters} | errors_of_unknown(fields)

    def incident_number(self) -> int:
        """Return the incident number in the path.

        :raises NotFound: if the text in the path cannot be an incident number.
        """
        number = identifier(self.path_parameters["identifier"])
        if number is None:
            raise NotFound
        return number

    def row_id(self, name: str) -> int:
        """Return the id in the path parameter ``name``.

        :raises NotFound: if the text in the path cannot be an id.
        """
        id_ = identifier(self.path_parameters[name])
        if not id_:
            raise NotFound
        return id_

    def uuid(self, name: str) -> UUID:
        """Return the UUID in the path parameter ``name``.

        :raises NotFound: if the text in the path is not a UUID.
        """
        text = self.path_parameters[name]
        if not _UUID.fullmatch(text):
            raise NotFound
        return UUID(text)

    def project_slug(self) -> str:
        """Return the project slug in the path.

        :raises NotFound: if the text in the path cannot be a slug.
        """
        slug = self.path_parameters["project"]
        if "\0" in slug or slug != slug.strip():
            raise NotFound
        return slug

    def pay_for(self, commands: int) -> None:
        """Charge the caller for a number of commands.

        :raises TooManyRequests: if the caller has to wait before it may send as many.
        :raises TooManyCommands: if the caller may never send as many at once.
        """
        self.container.rate_limiter.acquire(self.caller.spender, commands)
        self.has_paid = True

    def expect_wait(self, seconds: float) -> None:
        """Note that the request may wait for outcomes this long, so that its slot is in use."""
        self.container.requests.extend(self.slot, seconds=seconds)

    async def json_body(self) -> JSON:
        """Parse the body as JSON.

        :raises MalformedRequest: if the body is not JSON.
        """
        return await self.offload(parse_json, self.body)

    async def exact_json_body(self) -> JSON:
        """Parse the body, which :meth:`json_body` has accepted, for :func:`gateway.http.json_digest.json_digest`."""
        return await self.offload(parse_exact_json, self.body)

    async def offload(self, work: Callable[[Input], Result], value: Input) -> Result:
        """Return ``work(value)``. If the body is large, run it in a thread, so that the event loop is not blocked."""
        return work(value) if len(self.body) <= BODY_LIMIT_BYTES else await asyncio.to_thread(work, value)
