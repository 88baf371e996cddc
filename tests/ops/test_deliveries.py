"""Operators see deliveries with their attempts and without secrets, hold them, and retry them."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, update

from models.base import new_id
from models.database.async_engine import make_async_engine
from models.notifications.delivery import DeliveryState, deliveries, delivery_attempts
from models.operations.deliveries import DeliveryFilters, list_deliveries, read_delivery, retry_delivery
from models.operations.holds import place_hold, release_hold
from models.refusals import Conflict, InvalidFields
from models.serializers.operations import DeliveryJson
from tasks.commands.catalog import CATALOG
from tests.handlers.acme import Acme
from tests.harness import Harness
from workers.deliver.claim import claim_due, next_due_seconds


def a_delivery(harness: Harness, acme: Acme, **facts: Any) -> UUID:
    id_ = new_id()
    values = {
        "id": id_,
        "organization_id": acme.by("mem")["organization"],
        "channel": "email",
        "user_id": 11,
        "target_key": "email:1",
    }
    with harness.engine.begin() as connection:
        connection.execute(insert(deliveries).values(values | facts))
    return id_


def found(harness: Harness, **filters: Any) -> list[DeliveryJson]:
    with harness.engine.connect() as connection:
        return list_deliveries(connection, DeliveryFilters(**filters)).entities


async def claimable(harness: Harness) -> list[UUID]:
    """Return the deliveries that a deliverer would send now."""
    engine = make_async_engine(harness.url, application="test", pool_size=1, pool_timeout=5)
    try:
        async with engine.connect() as connection:
            channels = {"email": 10, "webhook": 10}
            claimed = await claim_due(connection, new_id(), channels=channels, limits={}, most=10)
            await connection.rollback()
            due = await next_due_seconds(connection, list(channels))
    finally:
        await engine.dispose()
    assert (due is None) == (not claimed)
    return [delivery.id for delivery in claimed]


def place(harness: Harness, scope: str, target: str) -> int:
    with harness.engine.begin() as connection:
        known = frozenset(CATALOG)
        hold = place_hold(connection, scope=scope, target=target, reason="down", by="ops:1", known_types=known)
    return int(hold["id"])


@pytest.mark.parametrize(("scope", "target", "left"), [("channel", "email", 1), ("queue", "deliveries", 0)])
def test_deliveries_of_a_held_channel_wait_until_it_is_released(
    harness: Harness, acme: Acme, scope: str, target: str, left: int
) -> None:
    mail = a_delivery(harness, acme)
    a_delivery(harness, acme, channel="webhook", target_key="webhook:1", user_id=None, target="https://x.test/secret")

    hold = place(harness, scope, target)

    assert len(asyncio.run(claimable(harness))) == left
    waiting = next(each for each in found(harness) if each["id"] == str(mail))
    assert waiting["state"] == "pending"
    assert waiting["heldBy"] is not None
    assert waiting["heldBy"]["target"] == target
    with harness.engine.begin() as connection:
        release_hold(connection, hold, reason="up", by="ops:1")
    assert len(asyncio.run(claimable(harness))) == 2


def test_every_filter_finds_its_deliveries(harness: Harness, acme: Acme) -> None:
    with harness.engine.connect() as connection:
        query = "SELECT id FROM incidents WHERE identifier = 1 AND organization_id = %s"
        incident = connection.exec_driver_sql(query, (acme.by("mem")["organization"],)).scalar_one()
    mail = a_delivery(harness, acme, incident_id=incident)
    hook = a_delivery(harness, acme, channel="webhook", user_id=None, state="dead", detail="HTTP 500")

    def ids(**filters: Any) -> list[str]:
        return [each["id"] for each in found(harness, **filters)]

    assert ids() == [str(hook), str(mail)]
    assert ids(organization="acme") == [str(hook), str(mail)]
    assert ids(organization="plain") == ids(organization="nowhere") == ids(user="nobody") == []
    assert ids(organization="acme", incident=1) == [str(mail)]
    assert ids(user="mem") == ids(channel="email") == ids(state=DeliveryState.PENDING) == [str(mail)]
    assert ids(state=DeliveryState.DEAD) == [str(hook)]
    with pytest.raises(InvalidFields):
        ids(incident=1)


def test_a_delivery_has_the_fields_of_the_contract_and_no_secrets(harness: Harness, acme: Acme) -> None:
    id_ = a_delivery(harness, acme, channel="chat", user_id=None, target="slack://TOKEN-A/TOKEN-B/#ops")
    with harness.engine.begin() as connection:
        connection.execute(
            insert(delivery_attempts).values(delivery_id=id_, number=1, status=500, duration_ms=12, error="HTTP 500")
        )

    [shown] = found(harness)

    assert {
        "id",
        "channel",
        "organization",
        "incident",
        "user",
        "target",
        "event",
        "state",
        "attempts",
        "dueAt",
    } <= set(shown)
    assert shown["target"] == "slack://…/…"
    [attempt] = shown["attempts"]
    assert (attempt["status"], attempt["durationMs"], attempt["error"]) == (500, 12, "HTTP 500")


@pytest.mark.parametrize("state", list(DeliveryState))
def test_a_delivery_in_any_state_is_due_again_after_a_retry(harness: Harness, acme: Acme, state: DeliveryState) -> None:
    id_ = a_delivery(harness, acme, state=state.value, attempts=3)

    with harness.engine.begin() as connection:
        retry_delivery(connection, id_, reason="the server is back", by="ops:1")

    with harness.engine.connect() as connection:
        shown = read_delivery(connection, id_)
    assert shown["state"] == "pending"
    assert shown["dueAt"] is not None


def test_a_delivery_that_is_being_sent_cannot_be_retried(harness: Harness, acme: Acme) -> None:
    id_ = a_delivery(harness, acme)
    with harness.engine.begin() as connection:
        connection.execute(update(deliveries).values(claimed_by=new_id()))

        with pytest.raises(Conflict):
            retry_delivery(connection, id_, reason="again", by="ops:1")
