"""Commands as such: many in one request, and what became of one."""

from __future__ import annotations

import re
from uuid import UUID

from gateway.api.bulk import ask_for_all
from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.http.parsing import LARGE_BODY_LIMIT
from gateway.http.responses import HttpResponse, raw_json, read_answer
from models.enums import CommandState
from models.policy import COMMANDS
from models.refusals import NotFound
from models.serializers import command_json


async def read_command(visit: RequestContext) -> HttpResponse:
    """What became of a command; waits for its end if asked to."""
    id_ = _id_of(visit.parameters["command"])
    row = await visit.services.queries.command(id_)
    if row is None or not visit.caller.may_read_command_of(row.caller):
        raise NotFound
    seconds = visit.preference.wait_seconds
    if seconds and row.state == CommandState.ACCEPTED:
        with visit.services.outcomes.expect([id_]) as wait:
            # It may have ended since it was read.
            visit.services.outcomes.look([id_])
            await wait.outcomes(seconds=seconds)
        row = await visit.services.queries.command(id_)
    resource = command_json(dict(row._mapping) | {"outcome_body": raw_json(row.outcome_body)}, organization=row.slug)
    answered = read_answer(resource, version=0, if_none_match=visit.if_none_match)
    if seconds is not None:
        answered.headers["Preference-Applied"] = f"wait={seconds}"
    return answered


def _id_of(text: str) -> UUID:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise NotFound
    return UUID(text)


ADDRESSES = (
    Endpoint(
        "/api/0/organizations/{organization}/commands/",
        {
            "POST": Operation(
                ask_for_all,
                "Ask for many commands at once",
                {202: "CommandList", 200: "CommandList"},
                body="CommandRequest",
                is_command=True,
            )
        },
        tag="commands",
        permission=COMMANDS,
        body_limit=LARGE_BODY_LIMIT,
    ),
    Endpoint(
        "/api/0/commands/{command}/",
        {
            "GET": Operation(
                read_command, "Read what became of a command", {200: "Command"}, can_wait=True, has_etag=True
            )
        },
        tag="commands",
    ),
)
