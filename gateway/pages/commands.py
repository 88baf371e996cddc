"""Commands that people submit from pages: the same commands, by the same path, as over the API."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from gateway.api.context import RequestContext
from gateway.api.submit import submit_command
from gateway.auth import Caller, Credential
from gateway.caller_slots import REQUEST_SECONDS
from gateway.http.parsing import Headers
from gateway.http.responses import HttpResponse
from gateway.pages.request import PageRequest
from gateway.reads.visitors import Visitor
from models.policy import require_organization_access, require_token_scope
from models.refusals import NotFound
from models.types import JSON
from tasks.commands.catalog import CATALOG

NO_FIELDS: Mapping[str, JSON] = {}


async def submit(
    request: PageRequest,
    visitor: Visitor,
    command: str,
    *,
    incident: int | None = None,
    fields: Mapping[str, JSON] = NO_FIELDS,
    waits: bool = True,
) -> HttpResponse:
    """Submit a command for a person, and return what the API would answer.

    :param command: the command's name in the catalog.
    :param waits: whether to wait for the outcome; otherwise the answer is 202.
    :raises Refusal: if the command is not accepted.
    """
    entry = CATALOG[command]
    if visitor.organization is None:
        raise NotFound
    require_token_scope(visitor.actor, entry.permission, entry.method)
    require_organization_access(visitor.actor, visitor.organization, entry.permission, entry.method)
    caller = Caller(
        actor=visitor.actor,
        token_id=visitor.token_id,
        token_name=visitor.token_name,
        ops_role=None,
        organization=visitor.organization,
    )
    with request.container.requests.taken(caller.spender, seconds=REQUEST_SECONDS) as slot:
        context = RequestContext(
            container=request.container,
            method=entry.method,
            path=request.path,
            base_url="",
            path_parameters=dict(request.parameters),
            query_string=b"",
            headers=Headers([] if waits else [(b"prefer", b"respond-async")]),
            body=orjson.dumps(dict(fields)),
            caller=caller,
            act_as=None,
            credential=Credential(b"", visitor.organization.slug, None),
            slot=slot,
            deadline=request.deadline(),
            record=request.record,
        )
        return await submit_command(context, entry.command_class, incident=incident)
