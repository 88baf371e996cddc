"""Commands and their outcomes as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from models.enums import (
    CommandState,
)
from models.json_fields import DateTime, Id, Uuid
from models.messaging.hold import HeldCommand, HoldScope
from models.timestamps import iso, iso_or_none


class OutcomeJson(TypedDict):
    """A command's outcome: the HTTP status and the response body."""

    status: int
    body: Any


class HeldByJson(TypedDict):
    """The hold that keeps a command from being applied: its own, or that of a command before it on its subject."""

    hold: Id
    scope: HoldScope
    target: str
    reason: str
    since: DateTime
    releaseAt: DateTime | None


class CommandJson(TypedDict):
    """A command and, once it is finished, its outcome. ``organization`` is a slug."""

    id: Uuid
    type: str
    status: CommandState
    organization: str | None
    acceptedAt: DateTime
    finishedAt: DateTime | None
    attempts: int
    heldBy: HeldByJson | None
    outcome: OutcomeJson | None
    error: str | None


def command_json(
    command: Mapping[str, Any], *, organization: str | None, held: HeldCommand | None = None
) -> CommandJson:
    """Serialize a command from its row in the ledger. ``organization`` is a slug."""
    is_finished = command["outcome_status"] is not None
    return {
        "id": str(command["id"]),
        "type": command["type"],
        "status": CommandState(command["state"]),
        "organization": organization,
        "acceptedAt": iso(command["accepted_at"]),
        "finishedAt": iso_or_none(command["finished_at"]),
        "attempts": command["attempts"],
        "heldBy": held_by_json(held),
        "outcome": {"status": command["outcome_status"], "body": command["outcome_body"]} if is_finished else None,
        "error": command["error"],
    }


def held_by_json(held: HeldCommand | None) -> HeldByJson | None:
    """Serialize the hold that holds a command, if any."""
    if held is None:
        return None
    return {
        "hold": str(held.hold_id),
        "scope": HoldScope(held.scope),
        "target": held.target,
        "reason": held.reason,
        "since": iso(held.since),
        "releaseAt": iso_or_none(held.release_at),
    }
