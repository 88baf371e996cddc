"""One request on its way through the house: what it says, and who says it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar
from urllib.parse import quote

from starlette.datastructures import QueryParams

from gateway.auth import Caller, Credential
from gateway.container import Container
from gateway.http.parsing import BODY_LIMIT, Headers, Preference, parse_json, preference
from gateway.http.request_log import RequestRecord
from models.enums import JSON
from models.policy import Actor, OrganizationFacts
from models.refusals import NotFound
from tasks.commands.fields import identifier

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass
class RequestContext:
    """A request whose caller is known and may be here.

    ``question`` is what their identity was asked with; ``deadline`` (the loop's clock) is for accepting;
    ``record`` holds its ids, and what its log line will say.
    """

    services: Container
    method: str
    path: str
    base_url: str
    parameters: dict[str, str]
    query_string: bytes
    headers: Headers
    body: bytes
    caller: Caller
    act_as: int | None
    question: Credential
    deadline: float
    record: RequestRecord

    @property
    def actor(self) -> Actor:
        """Who asks, as the policy sees them."""
        return self.caller.actor

    @property
    def organization(self) -> OrganizationFacts:
        """The organization of the address.

        :raises NotFound: there is no such organization, or the address names none.
        """
        if self.caller.organization is None:
            raise NotFound
        return self.caller.organization

    @cached_property
    def query(self) -> QueryParams:
        """The parameters after the question mark."""
        return QueryParams(self.query_string)

    @property
    def url(self) -> str:
        """The absolute address, without parameters."""
        return f"{self.base_url}{quote(self.path)}"

    @property
    def preference(self) -> Preference:
        """How long the caller wants to wait."""
        return preference(self.headers.joined(b"prefer"))

    @property
    def if_none_match(self) -> str | None:
        """The ETags that the caller has already."""
        return self.headers.joined(b"if-none-match")

    def incident_number(self) -> int:
        """The incident's number in the address (step 10).

        :raises NotFound: the address has none that could exist.
        """
        number = identifier(self.parameters["identifier"])
        if number is None:
            raise NotFound
        return number

    def row_id(self, name: str) -> int:
        """The id of a row in the address.

        :raises NotFound: the address has none that could exist.
        """
        id_ = identifier(self.parameters[name])
        if not id_:
            raise NotFound
        return id_

    def project_slug(self) -> str:
        """The project's slug in the address.

        :raises NotFound: the address has none that could exist.
        """
        slug = self.parameters["project"]
        if "\0" in slug or slug != slug.strip():
            raise NotFound
        return slug

    async def json(self) -> JSON:
        """The body as JSON.

        :raises Malformed: it is none.
        """
        return await self.beside(parse_json, self.body)

    async def beside(self, work: Callable[[Given], Found], given: Given) -> Found:
        """What the work finds; on megabytes it takes long, and the others do not wait for that."""
        return work(given) if len(self.body) <= BODY_LIMIT else await asyncio.to_thread(work, given)
