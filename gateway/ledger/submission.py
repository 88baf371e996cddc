"""Submissions: the commands of one request with their idempotency keys, and the commands accepted for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from models.messaging.command_ledger import NewCommand
from models.messaging.hold import HeldCommand


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's idempotency key, with a digest of the request and the indexes of the commands that the key covers."""

    name: str
    digest: str
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """The commands in one request, of which all or none are accepted. ``rows`` is never empty."""

    rows: tuple[NewCommand, ...]
    keys: tuple[IdempotencyKey, ...] = ()

    @property
    def caller(self) -> str:
        """The caller key. An idempotency key is unique among those of the same caller key."""
        return self.rows[0].caller


class AcceptedCommand(NamedTuple):
    """A command in the ledger. ``is_replay`` means that an earlier request with the same key submitted it.

    ``held`` is the hold that kept it from being applied while its caller was still waiting, if any.
    """

    id: UUID
    type: str
    accepted_at: datetime
    subject: str
    is_replay: bool = False
    held: HeldCommand | None = None


AcceptedCommands = tuple[AcceptedCommand, ...]
Result = AcceptedCommands | Exception
"""What becomes of one submission in a batch: its commands, or the error that its request ends with."""
