"""What comes back, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command was applied: the status and the JSON that its own route answers with."""

    command_id: str
    status: int
    body: Any
    is_replay: bool = False
    """Whether an earlier request with the same key had been accepted already."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as the ledger has it. ``status`` is accepted, applied, rejected, dead or discarded."""

    id: str
    type: str
    status: str
    organization: str
    accepted_at: datetime
    finished_at: datetime | None
    attempts: int
    held_by: Any
    outcome: Outcome | None
    error: str | None

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status != ACCEPTED

    @classmethod
    def read(cls, resource: Mapping[str, Any]) -> Command:
        """A command from its JSON."""
        ended = resource["outcome"]
        return cls(
            id=resource["id"],
            type=resource["type"],
            status=resource["status"],
            organization=resource["organization"],
            accepted_at=datetime.fromisoformat(resource["acceptedAt"]),
            finished_at=datetime.fromisoformat(resource["finishedAt"]) if resource["finishedAt"] else None,
            attempts=resource["attempts"],
            held_by=resource["heldBy"],
            outcome=Outcome(resource["id"], ended["status"], ended["body"]) if ended else None,
            error=resource["error"],
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, from a CloudEvent. ``sequence`` is dense within ``subject``."""

    id: str
    type: str
    source: str
    subject: str
    time: datetime
    sequence: int
    data: dict[str, Any]

    @classmethod
    def read(cls, event: Mapping[str, Any]) -> Event:
        """An event from its JSON."""
        return cls(
            id=event["id"],
            type=event["type"],
            source=event["source"],
            subject=event["subject"],
            time=datetime.fromisoformat(event["time"]),
            sequence=int(event["sequence"]),
            data=event["data"],
        )
