"""A channel that records what it is asked to send, and answers as the test tells it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from workers.deliver.channel import (
    ActivityDetails,
    AttemptResult,
    ClaimedDelivery,
    Outgoing,
    Postponed,
    Verdict,
    Withheld,
)

DELIVERED = AttemptResult(Verdict.DELIVERED, status=250)


@dataclass
class FakeChannel:
    """A channel named ``email``. ``answers`` maps a target key to the results of its next attempts, in order.

    ``hanging`` holds the target keys whose messages are never answered. ``decide`` may withhold a delivery.
    ``on_prepare`` is called for each delivery that is prepared, and may raise.
    """

    answers: dict[str, list[AttemptResult]] = field(default_factory=dict)
    hanging: frozenset[str] = frozenset()
    decide: Callable[[ClaimedDelivery], Withheld | Postponed | None] = lambda _: None
    on_prepare: Callable[[ClaimedDelivery], None] = lambda _: None
    name: str = "email"
    retry_delays_seconds: Sequence[float] = (0.0, 0.0, 0.0)
    deadline_seconds: float = 20.0
    concurrency_per_target: int = 4
    shows_activities: bool = False
    sent: list[ClaimedDelivery] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    in_flight: Counter[str] = field(default_factory=Counter)
    most_in_flight: Counter[str] = field(default_factory=Counter)

    async def prepare(
        self,
        connection: AsyncConnection,
        claimed: Sequence[ClaimedDelivery],
        activities: Mapping[int, ActivityDetails],
    ) -> Mapping[UUID, Outgoing | Withheld | Postponed]:
        await connection.exec_driver_sql("SELECT 1")
        prepared: dict[UUID, Outgoing | Withheld | Postponed] = {}
        for delivery in claimed:
            for each in delivery.merged:
                self.on_prepare(each)
                if decision := self.decide(each):
                    prepared[each.id] = decision
            kept = [each for each in delivery.merged if each.id not in prepared]
            if kept:
                prepared[kept[0].id] = Outgoing(delivery.body or f"rendered for {kept[0].attempts + 1}".encode())
        return prepared

    async def send(self, delivery: ClaimedDelivery, message: Outgoing) -> AttemptResult:
        key = delivery.target_key
        self.in_flight[key] += 1
        self.most_in_flight[key] = max(self.most_in_flight[key], self.in_flight[key])
        try:
            self.sent.append(delivery)
            self.bodies.append(message.body)
            if key in self.hanging:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            answers = self.answers.get(key)
            return answers.pop(0) if answers else DELIVERED
        finally:
            self.in_flight[key] -= 1

    async def record(self, connection: AsyncConnection, delivery: ClaimedDelivery, result: AttemptResult) -> None:
        """Know nothing about the target."""

    async def close(self) -> None:
        """Hold no connections."""

    def sent_ids(self) -> list[UUID]:
        return [delivery.id for delivery in self.sent]


def failing(times: int, **result: object) -> Iterable[AttemptResult]:
    """Return passing failures."""
    return [AttemptResult(Verdict.PASSING, error="try later", **result) for _ in range(times)]  # type: ignore[arg-type]
