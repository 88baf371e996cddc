"""Values that the client returns about commands, messages and events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from tocsin_client.errors import Failed, NotApplied, Refused

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
class Hold:
    """An operator's hold, which keeps commands from being applied.

    ``scope`` is queue, type or organization. ``release_at`` is ``None`` if the hold has no planned end.
    """

    id: str
    scope: str
    target: str
    reason: str
    since: datetime
    release_at: datetime | None

    @classmethod
    def from_json(cls, hold: Mapping[str, Any]) -> Hold:
        """Parse the JSON of a hold."""
        return cls(
            id=hold["hold"],
            scope=hold["scope"],
            target=hold["target"],
            reason=hold["reason"],
            since=datetime.fromisoformat(hold["since"]),
            release_at=time_or_none(hold["releaseAt"]),
        )


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
    held_by: Hold | None
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
            finished_at=time_or_none(resource["finishedAt"]),
            attempts=resource["attempts"],
            held_by=Hold.from_json(resource["heldBy"]) if resource["heldBy"] else None,
            outcome=Outcome(resource["id"], outcome["status"], outcome["body"]) if outcome else None,
            error=resource["error"],
        )


class CommandRecords(list[CommandRecord]):
    """The records of the commands in a bulk request, in the order of the request."""

    def raise_for_refused(self) -> Self:
        """Return these records, unless a command was rejected, is dead or was discarded.

        :raises NotApplied: if there is such a command, with an error for each of them. A command that has no outcome
            yet is none of them.
        """
        errors: dict[int, Refused | Failed] = {}
        for position, record in enumerate(self):
            if record.is_final:
                try:
                    outcome_of(record)
                except (Refused, Failed) as error:
                    errors[position] = error
        if errors:
            raise NotApplied(errors, total=len(self))
        return self


def outcome_of(record: CommandRecord) -> Outcome:
    """Return the outcome of a finished command.

    :raises Refused: if the command was rejected.
    :raises Failed: if the command is dead or was discarded.
    """
    if record.outcome is None:
        raise Failed(record.error or f"the command is {record.status}", command=record)
    if record.outcome.status >= 400:
        raise Refused(record.outcome.status, record.outcome.body, command_id=record.id)
    return record.outcome


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
            at=time_or_none(decision["at"]),
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


def time_or_none(text: str | None) -> datetime | None:
    """Parse an optional ISO 8601 timestamp."""
    return datetime.fromisoformat(text) if text else None
