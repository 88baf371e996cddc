"""Endpoints that submit many commands in one request and that read a single command."""

from __future__ import annotations

import re
from uuid import UUID

from gateway.api.bulk import submit_commands
from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.http.parsing import LARGE_BODY_LIMIT_BYTES
from gateway.http.responses import HttpResponse, conditional_response, raw_json
from models.enums import CommandState
from models.permissions import COMMANDS
from models.refusals import NotFound
from models.serializers.commands import command_json


async def read_command(context: RequestContext) -> HttpResponse:
    """Read a command. With ``Prefer: wait``, wait for it to finish, up to the given time."""
    id_ = _id_of(context.path_parameters["command"])
    row = await context.container.queries.command(id_)
    if row is None or not context.caller.may_read_command_of(row.caller):
        raise NotFound
    seconds = context.preference.wait_seconds
    if seconds and row.state == CommandState.ACCEPTED:
        with context.container.outcomes.expect([id_]) as wait:
            # The command may have finished between the read and the wait.
            context.container.outcomes.refresh([id_])
            await wait.outcomes(seconds=seconds)
        row = await context.container.queries.command(id_)
    held = await context.container.queries.held(id_) if row.state == CommandState.ACCEPTED else None
    values = dict(row._mapping) | {"outcome_body": raw_json(row.outcome_body)}
    resource = command_json(values, organization=row.slug, held=held)
    response = conditional_response(resource, version=0, if_none_match=context.if_none_match)
    if seconds is not None:
        response.headers["Preference-Applied"] = f"wait={seconds}"
    return response


def _id_of(text: str) -> UUID:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise NotFound
    return UUID(text)


ENDPOINTS = (
    Endpoint(
        "/api/0/organizations/{organization}/commands/",
        {
            "POST": Operation(
                submit_commands,
                "Submit many commands",
                {202: "CommandList", 200: "CommandList"},
                body="CommandRequest",
                is_command=True,
            )
        },
        tag="commands",
        permission=COMMANDS,
        body_limit=LARGE_BODY_LIMIT_BYTES,
    ),
    Endpoint(
        "/api/0/commands/{command}/",
        {"GET": Operation(read_command, "Read a command", {200: "Command"}, can_wait=True, has_etag=True)},
        tag="commands",
    ),
)
