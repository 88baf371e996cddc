"""Responses to accepted commands: the outcome if it is known, otherwise 202 with the URL where it can be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

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
from models.serializers.commands import CommandJson, command_json

HELD_RETRY_SECONDS: Final = 60
"""After how many seconds the caller of a held command may ask again, if nobody has said when the hold ends."""


def command_response(context: RequestContext, accepted: AcceptedCommand, outcome: Outcome | None) -> HttpResponse:
    """Return a command's outcome as a response, or 202 with the command if it is not finished."""
    headers = command_headers(context, [accepted])
    if outcome is None:
        return json_response(202, accepted_json(context, accepted), headers | pending_headers([accepted]))
    problem = accepts_problem_json(context.headers.joined(b"accept"))
    if outcome.status is None:
        # The command is dead or discarded. Its id serves as the error id, by which operators find it.
        return error_response(500, {"detail": "Internal Error", "errorId": str(outcome.id)}, headers, problem=problem)
    if outcome.body is None:
        return HttpResponse(outcome.status, headers=headers)
    if outcome.status >= 400:
        return error_response(outcome.status, orjson.loads(outcome.body), headers, problem=problem)
    return HttpResponse(outcome.status, encode_json(raw_json(outcome.body)), headers)


def command_headers(context: RequestContext, accepted: Sequence[AcceptedCommand]) -> dict[str, str]:
    """Return the headers for any response to accepted commands, with ``Command-Id`` only if there is exactly one."""
    headers = {}
    if len(accepted) == 1:
        headers["Command-Id"] = str(accepted[0].id)
    if all(command.is_replay for command in accepted):
        headers["Idempotent-Replayed"] = "true"
    if applied := context.preference.applied_header:
        headers["Preference-Applied"] = applied
    return headers


def pending_headers(accepted: Sequence[AcceptedCommand]) -> dict[str, str]:
    """Return the additional headers for a 202: when to poll for the outcome and, for a single command, at which URL.

    The outcome of a held command is not to be expected before the hold ends.
    """
    seconds = max((_held_seconds(each.held) for each in accepted if each.held is not None), default=1)
    headers = {"Retry-After": str(seconds)}
    if len(accepted) == 1:
        headers["Location"] = f"/api/0/commands/{accepted[0].id}/"
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
    return command_json(row, organization=context.organization.slug, held=accepted.held)


def finished_json(context: RequestContext, outcome: Outcome) -> CommandJson:
    """Serialize a finished command with its outcome."""
    row = outcome._asdict() | {"outcome_status": outcome.status, "outcome_body": raw_json(outcome.body)}
    return command_json(row, organization=context.organization.slug)
