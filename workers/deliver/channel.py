"""The interface between the deliverer and the channels.

The deliverer claims due deliveries and hands them to their channel in two steps. :meth:`Channel.prepare` loads what a
number of deliveries needs in a few queries, repeats the checks (access may have been lost since the planning) and
renders. :meth:`Channel.send` sends one message. The deliverer records the attempts, schedules retries, and limits how
many messages are sent to a target at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from models.enums import ActivityType
from models.notifications.delivery import DeliveryState


class ClaimedDelivery(NamedTuple):
    """A delivery that this process has claimed, with the columns of its row.

    ``attempts`` counts the attempts so far. ``merged`` holds the deliveries, this one included and oldest first, that
    are sent in the same message; it has one element unless the delivery is merged.
    """

    id: UUID
    organization_id: int
    incident_id: int | None
    activity_id: int | None
    event_id: UUID | None
    event_type: str | None
    rule_id: int | None
    action_id: int | None
    project_id: int | None
    channel: str
    user_id: int | None
    target: str | None
    method: str | None
    status: int | None
    reason: str | None
    destination_id: int | None
    target_key: str
    is_merged: bool
    merged_into: UUID | None
    attempts: int
    body: bytes | None
    date_created: datetime
    merged: tuple[ClaimedDelivery, ...] = ()

    @property
    def contents(self) -> tuple[ClaimedDelivery, ...]:
        """The deliveries in the message: :attr:`merged`, or this one alone."""
        return self.merged or (self,)


class ActivityDetails(NamedTuple):
    """An activity as it is now, after all edits. ``actor`` is the name of the person who acted, if one did."""

    type: ActivityType
    actor: str | None
    value: str | None
    previous_value: str | None
    comment: str | None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that is ready to be sent.

    ``body`` is stored with the delivery before a retry, so that every attempt sends the same bytes. ``details`` is
    whatever the channel needs for sending, such as an address.
    """

    body: bytes
    details: Any = None


@dataclass(frozen=True, slots=True)
class Withheld:
    """The decision not to send a delivery. ``state`` is ``suppressed``, ``cancelled`` or ``failed``.

    ``rule`` names the reason, in the words of :mod:`models.notifications.explanation`.
    """

    state: DeliveryState
    rule: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Postponed:
    """The decision not to send a delivery now, without counting an attempt, for example because of quiet hours."""

    due_at: datetime
    rule: str
    is_merged: bool = False


class Verdict(StrEnum):
    """What an attempt means for the delivery.

    ``passing``: the next attempt may succeed. ``permanent``: no attempt will. After a timeout, the message may have
    arrived; this counts as passing, and the recipient recognizes the duplicate by its id.
    """

    DELIVERED = "delivered"
    PASSING = "passing"
    PERMANENT = "permanent"


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The result of one attempt to send a message.

    ``status`` is the status code of the answer, of HTTP or SMTP, if there was one. ``error`` is a sentence without
    secrets. ``retry_after_seconds`` is what the server asked for. ``is_target_fault`` tells that the target as a whole
    does not work, rather than this message: the circuit breaker counts only such faults.
    """

    verdict: Verdict
    status: int | None = None
    error: str | None = None
    retry_after_seconds: float | None = None
    is_target_fault: bool = False


class Channel(Protocol):
    """A way to send deliveries.

    ``retry_delays_seconds`` are the pauses after the 1st, 2nd, … failed attempt; after the last one, the delivery is
    dead. ``deadline_seconds`` limits :meth:`send` as a whole. ``concurrency_per_target`` limits how many messages are
    sent to one target at the same time. ``shows_activities`` tells that messages show comments and status changes as
    they are when they are sent, and not events as they were published: deliveries about deleted comments are cancelled.
    """

    name: str
    shows_activities: bool
    retry_delays_seconds: Sequence[float]
    deadline_seconds: float
    concurrency_per_target: int

    async def prepare(
        self,
        connection: AsyncConnection,
        claimed: Sequence[ClaimedDelivery],
        activities: Mapping[int, ActivityDetails],
    ) -> Mapping[UUID, Outgoing | Withheld | Postponed]:
        """Return what to do with each claimed delivery, by id: repeat the checks, and render the message.

        ``activities`` holds what the deliveries are about, by id, if the channel shows it. The connection commits each
        statement by itself.

        A delivery with a ``body`` has been rendered before, and sends it again. For merged deliveries, the result names
        those of :attr:`ClaimedDelivery.merged` that are withheld or postponed, and has the message under the id of the
        first of the others. That id is the message's.

        :raises Exception: if the database failed. All the deliveries remain pending.
        """

    async def send(self, delivery: ClaimedDelivery, message: Outgoing) -> AttemptResult:
        """Send one message. It is cancelled after ``deadline_seconds``, which counts as passing.

        :raises Exception: for an unexpected fault, which counts as passing.
        """

    async def record(self, connection: AsyncConnection, delivery: ClaimedDelivery, result: AttemptResult) -> None:
        """Update what the channel knows about the target after an attempt, in the transaction that records it."""

    async def close(self) -> None:
        """Close all connections."""
