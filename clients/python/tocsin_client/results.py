"""Values that the client returns: command records, outcomes, and events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an applied command: the HTTP status and the JSON body of its own endpoint."""

    command_id: str
    status: int
    body: Any
    is_replay: bool = False
    """Whether the command had already been accepted in an earlier request with the same idempotency key."""


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """A command's record in the ledger. ``status`` is one of accepted, applied, rejected, dead or discarded."""

    id: str
    type: str
    status: str
    organization: str | None
    """The organization's slug; ``None`` if the command concerns only the caller's preferences."""
    accepted_at: datetime
    finished_at: datetime | None
    attempts: int
    held_by: str | None
    """The operator's hold that keeps the command from being applied; ``None`` if it is not held."""
    outcome: Outcome | None
    error: str | None

    @property
    def is_final(self) -> bool:
        """Whether the status is final, that is, anything but accepted."""
        return self.status != ACCEPTED

    @classmethod
    def from_json(cls, resource: Mapping[str, Any]) -> CommandRecord:
        """Parse the JSON of a command resource."""
        outcome = resource["outcome"]
        return cls(
            id=resource["id"],
            type=resource["type"],
            status=resource["status"],
            organization=resource["organization"],
            accepted_at=datetime.fromisoformat(resource["acceptedAt"]),
            finished_at=datetime.fromisoformat(resource["finishedAt"]) if resource["finishedAt"] else None,
            attempts=resource["attempts"],
            held_by=resource["heldBy"],
            outcome=Outcome(resource["id"], outcome["status"], outcome["body"]) if outcome else None,
            error=resource["error"],
        )


@dataclass(frozen=True, slots=True)
class Preferences:
    """The caller's preferences for messages: the JSON document, and its version for ``replace_preferences``."""

    document: dict[str, Any]
    version: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision on whether a person is notified of an activity through a channel, and the rule that decided it.

    ``outcome`` is one of delivered, pending, deferred, suppressed or failed. ``explanation`` is a sentence. ``at`` is
    ``None`` if the decision is not recorded.
    """

    activity: str
    event: str
    channel: str
    outcome: str
    rule: str
    detail: str
    explanation: str
    at: datetime | None

    @classmethod
    def from_json(cls, decision: Mapping[str, Any]) -> Decision:
        """Parse the JSON of a decision."""
        return cls(
            activity=decision["activity"],
            event=decision["event"],
            channel=decision["channel"],
            outcome=decision["outcome"],
            rule=decision["rule"],
            detail=decision["detail"],
            explanation=decision["explanation"],
            at=datetime.fromisoformat(decision["at"]) if decision["at"] else None,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """A CloudEvent. The events of one ``subject`` are numbered without gaps by ``sequence``."""

    id: str
    type: str
    source: str
    subject: str
    time: datetime
    sequence: int
    data: dict[str, Any]

    @classmethod
    def from_json(cls, event: Mapping[str, Any]) -> Event:
        """Parse the JSON of a CloudEvent."""
        return cls(
            id=event["id"],
            type=event["type"],
            source=event["source"],
            subject=event["subject"],
            time=datetime.fromisoformat(event["time"]),
            sequence=int(event["sequence"]),
            data=event["data"],
        )
