"""People are told by e-mail that a webhook or a chat destination was disabled, if they may still know of it."""

from __future__ import annotations

from typing import Any

import pytest

from models.enums import Role
from models.notifications.chat_destination import DISABLED_EVENT as CHAT_DISABLED
from models.notifications.delivery import DeliveryState
from models.notifications.webhook import DISABLED_EVENT as WEBHOOK_DISABLED
from tests.builders import NOW, a_chat_destination, a_webhook
from tests.conftest import Database
from tests.delivery.conftest import Scene
from tests.delivery.email.readers import read_with_perl
from tests.delivery.email.test_channel import a_delivery, a_person, claimed, outgoing, prepare, withheld
from workers.deliver.channel import ClaimedDelivery


def a_disabled_webhook(scene: Scene, **facts: Any) -> int:
    defaults = {"url": "https://hooks.example.org/s3cret?key=s3cret", "status": "disabled", "failing_since": NOW}
    with scene.engine.begin() as connection:
        return a_webhook(connection, scene.organization, "*", **defaults | {"disabled_reason": "failing"} | facts)


def a_disabled_chat(scene: Scene, **facts: Any) -> int:
    defaults = {"name": "On call", "status": "disabled", "failing_since": NOW}
    with scene.engine.begin() as connection:
        return a_chat_destination(connection, scene.organization, **defaults | facts)


def a_notice(scene: Scene, user: int, destination: int, event_type: str = WEBHOOK_DISABLED) -> ClaimedDelivery:
    return claimed(
        scene, user_id=user, destination_id=destination, event_type=event_type, incident_id=None, event_id=None
    )


def change(scene: Scene, statement: str) -> None:
    with scene.engine.begin() as connection:
        connection.exec_driver_sql(statement)


@pytest.fixture
def owner(scene: Scene) -> int:
    return a_person(scene, role=Role.OWNER, name="Owner", email="owner@example.org")


def test_a_disabled_webhook_is_announced_with_reason_time_and_remedy(
    scene: Scene, owner: int, database: Database
) -> None:
    webhook = a_disabled_webhook(scene)
    notice = a_notice(scene, owner, webhook)

    message = outgoing(prepare(database, notice), notice)

    read = read_with_perl(message.body)
    slug = scene.rows("SELECT slug FROM organizations")[0].slug
    assert read["headers"]["subject"] == "Webhook disabled: hooks.example.org"
    assert read["headers"]["to"] == "Owner <owner@example.org>"
    for part in read["parts"].values():
        assert "failed since 2026-11-23 10:00 UTC, for five days without a success" in part
        assert f"https://alerts.example.test/base/api/0/organizations/{slug}/webhooks/{webhook}/" in part
        assert "manager or an owner" in part
    assert b"s3cret" not in message.body
    assert b"List-Unsubscribe" not in message.body


def test_a_webhook_that_is_gone_is_announced_as_gone(scene: Scene, owner: int, database: Database) -> None:
    notice = a_notice(scene, owner, a_disabled_webhook(scene, disabled_reason="gone"))

    text = read_with_perl(outgoing(prepare(database, notice), notice).body)["parts"]["text/plain"]

    assert "It answered 410 Gone" in text


def test_a_disabled_chat_destination_is_announced_by_its_name(scene: Scene, owner: int, database: Database) -> None:
    notice = a_notice(scene, owner, a_disabled_chat(scene), CHAT_DISABLED)

    read = read_with_perl(outgoing(prepare(database, notice), notice).body)

    assert read["headers"]["subject"] == "Chat destination disabled: On call"
    assert "/chat-destinations/" in read["parts"]["text/plain"]


def test_a_persons_own_chat_destination_is_announced_to_that_person_only(scene: Scene, database: Database) -> None:
    ana, ben = a_person(scene), a_person(scene)
    chat = a_disabled_chat(scene, user_id=ana)
    to_ana, to_ben = (a_notice(scene, user, chat, CHAT_DISABLED) for user in (ana, ben))

    prepared = prepare(database, to_ana, to_ben)

    assert b"your own" in outgoing(prepared, to_ana).body
    assert withheld(prepared, to_ben) == (DeliveryState.SUPPRESSED, "no_access")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM webhooks", (DeliveryState.CANCELLED, "deleted")),
        ("UPDATE webhooks SET status = 'active', disabled_reason = NULL", (DeliveryState.CANCELLED, "deleted")),
        ("UPDATE members SET role = 'member'", (DeliveryState.SUPPRESSED, "no_access")),
        ("UPDATE users SET is_active = false", (DeliveryState.SUPPRESSED, "no_access")),
        ("UPDATE users SET email = ''", (DeliveryState.SUPPRESSED, "no_address")),
        ("UPDATE users SET email = 'nobody'", (DeliveryState.FAILED, "no_address")),
    ],
)
def test_a_notice_that_is_no_longer_right_is_not_sent(
    scene: Scene, owner: int, database: Database, statement: str, expected: tuple[DeliveryState, str]
) -> None:
    notice = a_notice(scene, owner, a_disabled_webhook(scene))
    change(scene, statement)

    assert withheld(prepare(database, notice), notice) == expected


def test_notices_and_other_mails_are_prepared_together_and_a_retry_sends_the_same_bytes(
    scene: Scene, owner: int, database: Database
) -> None:
    notice, other = a_notice(scene, owner, a_disabled_webhook(scene)), a_delivery(scene, owner)

    prepared = prepare(database, notice, other)
    retry = notice._replace(body=outgoing(prepared, notice).body, attempts=1)
    change(scene, "UPDATE webhooks SET url = 'https://elsewhere.example.org/'")

    assert outgoing(prepared, other)
    assert outgoing(prepare(database, retry), retry).body == outgoing(prepared, notice).body
