"""Responses to accepted commands: the outcome if it is known, otherwise 202 with the URL where it can be read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import orjson

from gateway.api.context import RequestContext
from gateway.http.responses import (
    HttpResponse,
    accepts_problem_json,
    encode_json,
    error_response,
    json_response,
    raw_json,
)
from gateway.ledger.outcomes import Outcome
from gateway.ledger.submission import AcceptedCommand
from models.enums import CommandState
from models.messaging.hold import HeldCommand
from models.refusals import Conflict, Refusal
from models.serializers.commands import CommandJson, command_json

DISCARDED: Final = "The command was discarded before it was applied."

HELD_RETRY_SECONDS: Final = 60
"""After how many seconds the caller of a held command may ask again, if nobody has said when the hold ends."""


def command_response(context: RequestContext, accepted: AcceptedCommand, outcome: Outcome | None) -> HttpResponse:
    """Return a command's outcome as a response, or 202 with the command if it is not finished."""
    headers = command_headers(context, [accepted])
    if outcome is None:
        return json_response(202, accepted_json(context, accepted), headers | pending_headers(context, [accepted]))
    problem = accepts_problem_json(context.headers.joined(b"accept"))
    if outcome.state is CommandState.DISCARDED:
        return error_response(409, Conflict(DISCARDED).body, headers, problem=problem)
    if outcome.status is None:
        # The command is dead. Its id serves as the error id, by which operators find it.
        return error_response(500, {"detail": "Internal Error", "errorId": str(outcome.id)}, headers, problem=problem)
    if outcome.body is None:
        return HttpResponse(outcome.status, headers=headers)
    if outcome.status == 202:
        # The command is applied, but what it started is not finished.
        headers |= pending_headers(context, [accepted])
    if outcome.status >= 400:
        members = orjson.loads(outcome.problem) if outcome.problem else {}
        return error_response(
            outcome.status, orjson.loads(outcome.body), headers, problem=problem, problem_members=members
        )
    return HttpResponse(outcome.status, encode_json(raw_json(outcome.body)), headers)


def command_headers(context: RequestContext, accepted: Sequence[AcceptedCommand]) -> dict[str, str]:
    """Return the headers for any response to accepted commands, with ``Command-Id`` only if there is exactly one."""
    headers = {}
    if len(accepted) == 1:
        headers["Command-Id"] = str(accepted[0].id)
    if all(command.is_replay for command in accepted):
        headers["Idempotent-Replayed"] = "true"
    if applied := context.preference.applied_to_wait:
        headers["Preference-Applied"] = applied
    return headers


def pending_headers(context: RequestContext, accepted: Sequence[AcceptedCommand]) -> dict[str, str]:
    """Return the additional headers for a 202: when to poll for the outcome and, for a single command, at which URL.

    The outcome of a held command is not to be expected before the hold ends.
    """
    seconds = max((_held_seconds(each.held) for each in accepted if each.held is not None), default=1)
    headers = {"Retry-After": str(seconds)}
    if len(accepted) == 1:
        headers["Location"] = f"{context.base_url}/api/0/commands/{accepted[0].id}/"
    return headers


def _held_seconds(held: HeldCommand) -> int:
    if held.release_at is None:
        return HELD_RETRY_SECONDS
    return max(1, math.ceil((held.release_at - datetime.now(UTC)).total_seconds()))


def accepted_json(context: RequestContext, accepted: AcceptedCommand) -> CommandJson:
    """Serialize a command that has just been accepted."""
    row = {
        "id": accepted.id,
        "type": accepted.type,
        "state": CommandState.ACCEPTED,
        "accepted_at": accepted.accepted_at,
        "finished_at": None,
        "attempts": 0,
        "outcome_status": None,
        "outcome_body": None,
        "error": None,
    }
    return command_json(row, organization=context.organization_slug, held=accepted.held)


async def refusals_of_replays(
    context: RequestContext, accepted: Iterable[AcceptedCommand], outcomes: Mapping[UUID, Outcome]
) -> dict[UUID, Refusal]:
    """Return, by command id, how the replays among these commands are to be refused.

    An outcome was recorded some time ago, and the caller may have lost the right to read what it is about.
    """
    container = context.container
    replayed = [each.id for each in accepted if each.is_replay and (outcomes[each.id].status or 400) < 400]
    rows = [row for id_ in dict.fromkeys(replayed) if (row := await container.queries.command(id_)) is not None]
    return await container.command_outcomes.refusals(context.actor, context.organization, rows) if rows else {}


def finished_json(context: RequestContext, outcome: Outcome, *, is_readable: bool = True) -> CommandJson:
    """Serialize a finished command with its outcome. If it is not readable, the outcome's body is null."""
    body = raw_json(outcome.body) if is_readable else None
    row = outcome._asdict() | {"outcome_status": outcome.status, "outcome_body": body}
    return command_json(row, organization=context.organization_slug)
