"""Events reach webhooks: planned, prepared, sent, recorded, and sent again with the same bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from sqlalchemy import Row, select
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from standardwebhooks import Webhook

from models.base import new_id
from models.enums import Role
from models.messaging.outbox import DESTINATION_TABLES, NewEvent, write_events
from models.notifications.delivery import deliveries
from models.notifications.webhook import SECRET_PURPOSE, new_secret
from models.secrets import SecretBox
from tasks.broker.hint_publisher import HintPublisher
from tasks.events import IncidentOpened, Seen
from tests.builders import a_member, a_webhook, a_webhook_delivery, an_event, an_organization
from tests.delivery.conftest import Scene
from tests.delivery.node_packages import NodePackages
from tests.delivery.webhook_receiver import Receiver, a_channel, answering, receiving
from workers.deliver.channel import AttemptResult, ClaimedDelivery, Outgoing, Postponed, Withheld
from workers.deliver.prepare import prepare
from workers.notify.destinations import DESTINATIONS
from workers.notify.notifier import EVENTS_PER_SUBJECT

BOX: Final = SecretBox(("a secret for these tests",), SECRET_PURPOSE)
CLAIMED: Final = tuple(deliveries.c[name] for name in ClaimedDelivery._fields if name != "merged")


@dataclass
class Sending:
    """A scene with a receiver, and a channel that sends to it what is due."""

    scene: Scene
    receiver: Receiver

    def a_webhook(self, *events: str, secret: str | None = None, **facts: Any) -> int:
        sealed = BOX.encrypt(secret or new_secret())
        with self.scene.engine.begin() as connection:
            return a_webhook(
                connection, self.scene.organization, *events, **{"url": self.receiver.url, "secret": sealed} | facts
            )

    def webhook(self, id_: int) -> Any:
        [row] = self.scene.rows(f"SELECT * FROM webhooks WHERE id = {id_}")
        return row

    def change(self, statement: str) -> None:
        with self.scene.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    def attempt(self, *, box: SecretBox | None = BOX, session: str = "") -> dict[UUID, Any]:
        """Prepare all pending deliveries to webhooks, send and record each; return what came of it, by delivery id."""
        return asyncio.run(self._attempt(box, session))

    async def _attempt(self, box: SecretBox | None, session: str) -> dict[UUID, Any]:
        engine = create_async_engine(self.scene.engine.url)
        channel = a_channel(box=box)
        results: dict[UUID, Any] = {}
        try:
            async with engine.begin() as connection:
                if session:
                    await connection.exec_driver_sql(session)
                rows = await connection.execute(
                    select(*CLAIMED)
                    .where(deliveries.c.channel == "webhook", deliveries.c.state == "pending")
                    .order_by(deliveries.c.id)
                )
                claimed = [ClaimedDelivery(*row) for row in rows]
                prepared = await prepare(connection, channel, claimed)
                for delivery in claimed:
                    results[delivery.id] = outcome = prepared[delivery.id]
                    if isinstance(outcome, Outgoing):
                        results[delivery.id] = result = await channel.send(delivery, outcome)
                        await channel.record(connection, delivery, result)
        finally:
            await channel.close()
            await engine.dispose()
        return results


@pytest.fixture
def sending(scene: Scene) -> Iterator[Sending]:
    with receiving() as receiver:
        yield Sending(scene, receiver)


def rows_to_webhooks(scene: Scene) -> list[Row[Any]]:
    return scene.rows("SELECT * FROM deliveries WHERE channel = 'webhook' ORDER BY id")


# --- planning --------------------------------------------------------------------------------------------------


def test_an_event_is_planned_for_every_webhook_whose_patterns_match(sending: Sending) -> None:
    exact, family = sending.a_webhook("incident.comment_posted"), sending.a_webhook("alert_rule.*", "incident.*")
    everything = sending.a_webhook("*")
    sending.a_webhook("incident.comment_edited", "alert_rule.*")
    sending.a_webhook("*", status="disabled")
    with sending.scene.engine.begin() as connection:
        a_webhook(connection, an_organization(connection), "*")
    comment = sending.scene.post_comment(text="Look at this.")

    sending.scene.plan()

    [event] = sending.scene.rows("SELECT id, body::text AS body FROM events")
    planned = rows_to_webhooks(sending.scene)
    assert [row.destination_id for row in planned] == [exact, family, everything]
    for row in planned:
        assert (row.event_id, row.event_type) == (event.id, "incident.comment_posted")
        assert (row.activity_id, row.incident_id, row.user_id) == (comment, sending.scene.incident, None)
        assert row.target_key == f"webhook:{sending.scene.organization}:{row.destination_id}"
        assert bytes(row.body) == event.body.encode()
        assert (row.state, row.attempts) == ("pending", 0)


def test_an_event_that_notifies_nobody_is_planned_for_webhooks_only(sending: Sending) -> None:
    scene = sending.scene
    with scene.engine.begin() as connection:
        an_event(connection, scene.incident, Seen(scene.author), by=scene.author)
    assert scene.unplanned() == set()
    sending.a_webhook("incident.opened")
    with scene.engine.begin() as connection:
        opened = an_event(connection, scene.incident, IncidentOpened(("p1",)))
        elsewhere = an_organization(connection)
        write_events(connection, [event_of(elsewhere)])
    assert scene.unplanned() == {opened}

    scene.plan()

    assert scene.unplanned() == set()
    assert [row.event_id for row in rows_to_webhooks(scene)] == [opened]


def test_a_disabled_webhook_does_not_have_events_planned(sending: Sending) -> None:
    sending.a_webhook("*", status="disabled")

    with sending.scene.engine.begin() as connection:
        an_event(connection, sending.scene.incident, IncidentOpened(("p1",)))

    assert sending.scene.unplanned() == set()


def test_the_outbox_knows_every_kind_of_destination() -> None:
    assert {each.table for each in DESTINATIONS} == set(DESTINATION_TABLES)


def test_an_event_planned_twice_is_delivered_once(sending: Sending) -> None:
    sending.a_webhook("*")
    sending.scene.post_comment()
    sending.scene.plan()
    sending.change("UPDATE events SET planned_at = NULL")

    sending.scene.plan()

    assert len(rows_to_webhooks(sending.scene)) == 1


def test_many_events_without_an_activity_keep_their_order(sending: Sending) -> None:
    sending.a_webhook("*")
    number = 3 * EVENTS_PER_SUBJECT + 1
    with sending.scene.engine.begin() as connection:
        expected = [
            an_event(connection, sending.scene.incident, IncidentOpened((f"p{index}",))) for index in range(number)
        ]

    sending.scene.plan()

    assert [row.event_id for row in rows_to_webhooks(sending.scene)] == expected


def test_the_deliverer_is_woken_when_something_is_due(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setattr(
        HintPublisher,
        "publish",
        lambda _self, lane, subjects: published.append((lane.value, tuple(subjects))),
    )
    sending.scene.post_comment()
    sending.scene.plan()
    assert published == []
    sending.a_webhook("*")
    sending.scene.post_comment()

    sending.scene.plan()

    assert published == [("deliveries", ())]


def event_of(organization: int) -> NewEvent:
    return NewEvent(
        id=UUID(int=1),
        organization_id=organization,
        subject="commands/1",
        sequence=1,
        type="command.dead",
        incident_id=None,
        activity_id=None,
        command_id=None,
        body="{}",
        planned_at=datetime.now(UTC),
    )


# --- sending ---------------------------------------------------------------------------------------------------


def test_a_planned_event_is_verified_by_the_packages_for_python_and_node(sending: Sending, node: NodePackages) -> None:
    secret = new_secret()
    sending.a_webhook("*", secret=secret)
    sending.scene.post_comment(text="Größe \U0001f600 <b> \u2028 1e2")
    sending.scene.plan()

    sending.attempt()

    [request] = sending.receiver.requests
    [delivery] = rows_to_webhooks(sending.scene)
    assert request.body == bytes(delivery.body)
    assert request.headers["webhook-id"] == str(delivery.id)
    assert json.loads(request.body)["data"]["activity"]["comment"] == "Größe \U0001f600 <b> \u2028 1e2"
    Webhook(secret).verify(request.body, request.headers)
    assert node.verify(request, secret) == "verified"
    assert node.verify(request, new_secret()) == "No matching signature found"


def test_while_a_secret_is_rotated_receivers_with_either_secret_verify(sending: Sending, node: NodePackages) -> None:
    new, old = new_secret(), new_secret()
    webhook = sending.a_webhook(
        "*", secret=new, previous_secret=BOX.encrypt(old), previous_secret_until=datetime.now(UTC) + timedelta(hours=1)
    )
    sending.scene.post_comment()
    sending.scene.plan()

    sending.attempt()
    sending.change(f"UPDATE webhooks SET previous_secret_until = now() WHERE id = {webhook}")
    sending.attempt()

    during, afterwards = sending.receiver.requests
    assert [node.verify(during, new), node.verify(during, old)] == ["verified", "verified"]
    Webhook(old).verify(during.body, during.headers)
    assert node.verify(afterwards, new) == "verified"
    assert node.verify(afterwards, old) == "No matching signature found"


def test_a_body_that_json_would_change_is_sent_again_byte_for_byte(sending: Sending, node: NodePackages) -> None:
    body = b'{"b": 1e2, "a": "\xc3\x84 \\u00e4", "b": 100,  "c": "\\u0000"}'
    secret = new_secret()
    webhook = sending.a_webhook("*", secret=secret)
    with sending.scene.engine.begin() as connection:
        id_ = a_webhook_delivery(connection, webhook, body=body)

    for _ in range(2):
        sending.attempt()

    assert [(each.headers["webhook-id"], each.body) for each in sending.receiver.requests] == [(str(id_), body)] * 2
    assert [node.verify(each, secret) for each in sending.receiver.requests] == ["verified", "verified"]


def test_a_session_in_another_time_zone_signs_the_same_instant(sending: Sending, node: NodePackages) -> None:
    secret = new_secret()
    sending.a_webhook("*", secret=secret)
    sending.scene.post_comment()
    sending.scene.plan()

    sending.attempt(session="SET timezone = 'Europe/Berlin'")

    [request] = sending.receiver.requests
    Webhook(secret).verify(request.body, request.headers)
    assert node.verify(request, secret) == "verified"


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("DELETE FROM webhooks", "webhook_deleted"),
        ("UPDATE webhooks SET status = 'disabled'", "webhook_disabled"),
    ],
)
def test_nothing_is_sent_to_a_webhook_that_is_gone(sending: Sending, statement: str, rule: str) -> None:
    sending.a_webhook("*")
    sending.scene.post_comment()
    sending.scene.plan()
    sending.change(statement)

    [outcome] = sending.attempt().values()

    assert isinstance(outcome, Withheld)
    assert (outcome.state, outcome.rule) == ("suppressed", rule)
    assert sending.receiver.connections == 0


def test_a_webhook_of_another_organization_is_not_used(sending: Sending) -> None:
    webhook = sending.a_webhook("*")
    with sending.scene.engine.begin() as connection:
        a_webhook_delivery(connection, webhook, organization_id=an_organization(connection))

    [outcome] = sending.attempt().values()

    assert isinstance(outcome, Withheld)


def test_a_test_is_sent_to_a_disabled_webhook_and_changes_nothing(sending: Sending) -> None:
    webhook = sending.a_webhook("*", status="disabled", disabled_reason="failing")
    with sending.scene.engine.begin() as connection:
        a_webhook_delivery(connection, webhook, event_type="webhook.test")
    before = sending.webhook(webhook)

    sending.attempt()

    assert len(sending.receiver.requests) == 1
    assert sending.webhook(webhook) == before


def an_action_delivery(sending: Sending, **facts: Any) -> Any:
    """Insert a delivery as an alert rule's action makes it; return the id of the event."""
    with sending.scene.engine.begin() as connection:
        event = an_event(connection, sending.scene.incident, IncidentOpened(("p1",)))
        connection.execute(
            deliveries.insert().values(
                {
                    "id": new_id(),
                    "organization_id": sending.scene.organization,
                    "incident_id": sending.scene.incident,
                    "event_id": event,
                    "action_id": 8,
                    "channel": "webhook",
                    "target": sending.receiver.url,
                    "method": "fire",
                }
                | facts
            )
        )
    return event


def test_an_alert_rules_action_sends_its_event_to_its_url(sending: Sending) -> None:
    event = an_action_delivery(sending)

    [result] = sending.attempt().values()

    [request] = sending.receiver.requests
    assert (result.verdict, json.loads(request.body)["id"]) == ("delivered", str(event))
    assert "webhook-id" in request.headers
    assert "webhook-signature" not in request.headers


def test_an_action_with_the_url_of_a_webhook_is_signed_with_its_secret(sending: Sending) -> None:
    secret = new_secret()
    sending.a_webhook("command.dead", secret=secret)
    an_action_delivery(sending)

    sending.attempt()

    [request] = sending.receiver.requests
    Webhook(secret).verify(request.body, request.headers)


def test_an_action_whose_event_is_gone_fails(sending: Sending) -> None:
    an_action_delivery(sending, event_id=new_id())

    [outcome] = sending.attempt().values()

    assert isinstance(outcome, Withheld)
    assert (outcome.state, outcome.rule) == ("failed", "event_deleted")


@pytest.mark.parametrize("box", [None, SecretBox(("another secret for tests",), SECRET_PURPOSE)])
def test_deliveries_wait_while_the_secret_cannot_be_decrypted(sending: Sending, box: SecretBox | None) -> None:
    sending.a_webhook("*")
    sending.scene.post_comment()
    sending.scene.plan()

    [outcome] = sending.attempt(box=box).values()

    assert isinstance(outcome, Postponed)
    assert outcome.rule == "secret_unreadable"
    assert sending.receiver.connections == 0


# --- failing webhooks ------------------------------------------------------------------------------------------


def fail_once(sending: Sending, answer: bytes = answering(500)) -> AttemptResult:
    sending.receiver.answer = answer
    sending.change("DELETE FROM deliveries WHERE channel = 'webhook'")
    sending.scene.post_comment()
    sending.scene.plan()
    [result] = sending.attempt().values()
    assert isinstance(result, AttemptResult)
    return result


def mails(sending: Sending) -> list[tuple[Any, ...]]:
    return [
        tuple(row)
        for row in sending.scene.rows(
            "SELECT user_id, event_type, destination_id, state, target_key FROM deliveries"
            " WHERE channel = 'email' ORDER BY user_id"
        )
    ]


def add_member(connection: Connection, sending: Sending, role: Role, **facts: Any) -> int:
    return a_member(connection, sending.scene.organization, role=role, **facts)


def test_a_webhook_is_failing_until_the_next_success(sending: Sending) -> None:
    webhook = sending.a_webhook("*")

    fail_once(sending)
    since = sending.webhook(webhook).failing_since
    fail_once(sending)
    still = sending.webhook(webhook).failing_since
    fail_once(sending, answering(200))

    assert since is not None
    assert still == since
    assert (sending.webhook(webhook).failing_since, sending.webhook(webhook).status) == (None, "active")


def test_after_five_days_of_failure_a_webhook_is_disabled_and_managers_and_owners_are_told(sending: Sending) -> None:
    with sending.scene.engine.begin() as connection:
        manager, owner = (add_member(connection, sending, role) for role in (Role.MANAGER, Role.OWNER))
        add_member(connection, sending, Role.ADMIN)
        add_member(connection, sending, Role.OWNER, is_active=False)
        a_member(connection, an_organization(connection), role=Role.OWNER)
    failing = "now() - interval '5 days'"
    webhook = sending.a_webhook("*", version=3)

    sending.change(f"UPDATE webhooks SET failing_since = {failing} + interval '1 minute'")
    fail_once(sending)
    before = sending.webhook(webhook).status, mails(sending)
    sending.change(f"UPDATE webhooks SET failing_since = {failing}")
    fail_once(sending)

    key = f"email:{sending.scene.organization}"
    row = sending.webhook(webhook)
    assert before == ("active", [])
    assert (row.status, row.disabled_reason, row.version) == ("disabled", "failing", 4)
    assert mails(sending) == [(user, "webhook.disabled", webhook, "pending", key) for user in (manager, owner)]


def test_a_webhook_that_is_gone_is_disabled_at_once_and_announced_once(sending: Sending) -> None:
    with sending.scene.engine.begin() as connection:
        owner = add_member(connection, sending, Role.OWNER)
    webhook = sending.a_webhook("*")
    for _ in range(2):
        sending.scene.post_comment()
    sending.scene.plan()
    sending.receiver.answer = answering(410)

    sending.attempt()

    row = sending.webhook(webhook)
    assert (row.status, row.disabled_reason) == ("disabled", "gone")
    assert len(sending.receiver.requests) == 2
    assert [(mail[0], mail[2]) for mail in mails(sending)] == [(owner, webhook)]


def test_a_success_without_a_failure_before_it_writes_nothing(sending: Sending) -> None:
    webhook = sending.a_webhook("*")
    before = sending.scene.rows(f"SELECT xmin FROM webhooks WHERE id = {webhook}")

    fail_once(sending, answering(200))

    assert sending.scene.rows(f"SELECT xmin FROM webhooks WHERE id = {webhook}") == before
