"""Endpoints that submit many commands in one request, and that list, read and cancel commands."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.api.bulk import submit_commands
from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation, Parameter
from gateway.http.pagination import page_response, parse_page
from gateway.http.parsing import LARGE_BODY_LIMIT_BYTES
from gateway.http.responses import HttpResponse, conditional_response, json_response, raw_json
from models.enums import CallerKind, CommandState, OpsRole
from models.messaging.hold import HeldCommand
from models.permissions import COMMANDS
from models.policy import require_token_scope
from models.refusals import Conflict, Forbidden, InvalidFields, NotFound
from models.serializers.commands import CommandJson, command_json
from models.types import JSON
from tasks.commands.catalog import CATALOG

PAGE: Final = 100
NOT_CANCELLED: Final[Mapping[CommandState, str]] = {
    CommandState.ACCEPTED: "A worker is applying this command, or others before it, at this moment.",
    CommandState.APPLIED: "The command has already been applied.",
    CommandState.REJECTED: "The command has already been rejected.",
    CommandState.DEAD: "The command is dead; only an operator can discard it.",
    CommandState.DISCARDED: "The command has already been discarded.",
}
"""Why a command could not be cancelled, by its state."""


async def read_command(context: RequestContext) -> HttpResponse:
    """Read a command. With ``Prefer: wait``, wait for it to finish, up to the given time."""
    id_ = context.uuid("command")
    row = await context.container.queries.command(id_)
    if row is None or not context.caller.may_read_command_of(row.caller):
        raise NotFound
    seconds = context.preference.wait_seconds
    if seconds and row.state == CommandState.ACCEPTED:
        context.expect_wait(seconds)
        with context.container.outcomes.expect([id_]) as wait:
            # The command may have finished between the read and the wait.
            context.container.outcomes.refresh([id_])
            await wait.outcomes(seconds=seconds)
        row = await context.container.queries.command(id_)
    held = await context.container.queries.held(id_) if row.state == CommandState.ACCEPTED else None
    resource = _resource(row, is_readable=await _may_read_outcome(context, row), held=held)
    response = conditional_response(resource, version=0, if_none_match=context.if_none_match)
    if seconds is not None:
        response.headers["Preference-Applied"] = f"wait={seconds}"
    return response


async def cancel_command(context: RequestContext) -> HttpResponse:
    """Cancel one of the caller's commands that no worker has begun to apply, and return 200 with it."""
    id_ = context.uuid("command")
    row = await context.container.queries.command(id_)
    if row is None or not context.caller.may_read_command_of(row.caller):
        raise NotFound
    if context.actor.kind is CallerKind.OPS:
        # Operators discard dead commands, for a reason that is recorded.
        raise Forbidden
    if (entry := CATALOG.get(row.type)) is not None:
        require_token_scope(context.actor, entry.permission, entry.method)
    context.ignore_unknown(_fields(await context.json_body()))
    is_cancelled = row.state == CommandState.ACCEPTED and await context.container.canceller.cancel(id_)
    row = await context.container.queries.command(id_)
    if not is_cancelled:
        raise Conflict(NOT_CANCELLED.get(CommandState(row.state), NOT_CANCELLED[CommandState.ACCEPTED]))
    # Callers who wait for it on this gateway need not wait for the next poll.
    context.container.outcomes.refresh([id_])
    return json_response(200, _resource(row, is_readable=True))


async def list_commands(context: RequestContext) -> HttpResponse:
    """List the commands that the caller has submitted in this organization, newest first."""
    organization, container = context.organization, context.container
    page = parse_page(context.query, default=PAGE)
    rows = await container.queries.commands(
        organization.id,
        context.caller.caller_key,
        page,
        states=_filter(context, "state", list(CommandState)),
        types=_filter(context, "type", list(CATALOG)),
    )
    refusals = await container.command_outcomes.refusals(context.actor, organization, rows)
    return page_response(
        page,
        rows,
        key_of=lambda row: (row.seq,),
        serialize=lambda row: _resource(row, is_readable=row.id not in refusals),
        url=context.url,
        query=context.query,
    )


def _filter(context: RequestContext, name: str, known: Sequence[str]) -> list[str]:
    values = context.query.getlist(name)
    if not set(values) <= set(known):
        raise InvalidFields({name: [f"Valid values: {', '.join(known)}."]})
    return values


def _fields(body: JSON) -> list[str]:
    return list(body) if isinstance(body, dict) else []


def _resource(row: Any, *, is_readable: bool, held: HeldCommand | None = None) -> CommandJson:
    body = raw_json(row.outcome_body) if is_readable else None
    return command_json(dict(row._mapping) | {"outcome_body": body}, organization=row.slug, held=held)


async def _may_read_outcome(context: RequestContext, row: Any) -> bool:
    """Return whether the caller may read what the command is about now."""
    if context.actor.kind is CallerKind.OPS:
        return context.caller.ops_role is not OpsRole.VIEWER
    if row.outcome_body is None or row.slug is None:
        return True
    # The path names no organization, so the caller's role in the command's organization is not known yet.
    credential = context.credential._replace(organization=row.slug)
    deadline = asyncio.get_running_loop().time() + context.container.timeouts.acceptance_seconds
    caller = await context.container.authenticator.authenticate(credential, deadline=deadline)
    if caller.organization is None:
        return False
    outcomes = context.container.command_outcomes
    return not await outcomes.refusals(caller.actor, caller.organization, [row])


def _one_or_more_of(values: Sequence[str]) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string", "enum": [str(value) for value in values]}}


ENDPOINTS = (
    Endpoint(
        "/api/0/organizations/{organization}/commands/",
        {
            "GET": Operation(
                list_commands,
                "List the caller's commands",
                {200: "Command"},
                parameters=(
                    Parameter("state", "States, repeatable.", _one_or_more_of(list(CommandState))),
                    Parameter("type", "Command types, repeatable.", _one_or_more_of(list(CATALOG))),
                ),
                is_list=True,
            ),
            "POST": Operation(
                submit_commands,
                "Submit many commands",
                {202: "CommandList", 200: "CommandList"},
                body="CommandRequest",
                is_command=True,
            ),
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
    Endpoint(
        "/api/0/commands/{command}/cancel/",
        {"POST": Operation(cancel_command, "Cancel a command", {200: "Command"}, refusals=(409,))},
        tag="commands",
    ),
)
