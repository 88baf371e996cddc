"""Chat messages from the planned event to the post: what is sent, what is withheld, and what is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select, update

from models.base import new_id
from models.database.async_engine import make_async_engine
from models.enums import ActivityType, IncidentStatus, Role
from models.incidents.activity import activities
from models.notifications.chat_destination import (
    DESTINATION_DISABLED,
    DESTINATION_PAUSED,
    DISABLED_AFTER,
    NO_DESTINATION,
    TEST_EVENT,
    URL_UNREADABLE,
    chat_destinations,
)
from models.notifications.chat_url import URL_PURPOSE
from models.notifications.delivery import DeliveryState, deliveries, delivery_attempts, target_key
from models.notifications.network_guard import NetworkGuard
from models.notifications.suppression import DELETED, NO_ACCESS
from models.secrets import SecretBox
from tasks.events import IncidentOpened
from tests.builders import NOW, a_chat_destination, a_member, a_subscription, an_event
from tests.delivery.chat.chat_server import ChatServer, chat_server
from tests.delivery.conftest import Scene
from tests.waiting import eventually
from workers.deliver.channel import ClaimedDelivery, Outgoing, Postponed, Withheld
from workers.deliver.channels.chat.channel import ChatChannel
from workers.deliver.channels.configured import make_channels
from workers.deliver.deliverer import Deliverer
from workers.deliver.prepare import prepare
from workers.settings import WorkerSettings

BOX = SecretBox(("0123456789abcdef",), URL_PURPOSE)
URL = "mmosts://mm.example.org/3ccdd113474722377935511fc85d3dd4"
PUBLIC_URL = "https://tocsin.example/base/"


@dataclass
class Chat:
    """A scene with a chat server, and a channel that posts there."""

    scene: Scene
    server: ChatServer
    channel: ChatChannel

    def add_destination(self, *events: str, **facts: Any) -> int:
        with self.scene.engine.begin() as connection:
            url = BOX.encrypt(facts.pop("in_plain", URL))
            return a_chat_destination(connection, self.scene.organization, *events, url=url, **facts)

    def add_delivery(self, **facts: Any) -> UUID:
        """Insert a delivery that is due; return its id."""
        id_ = new_id()
        values: dict[str, Any] = {
            "id": id_,
            "organization_id": self.scene.organization,
            "channel": "chat",
            "due_at": datetime.now(UTC) - timedelta(minutes=1),
            "target_key": target_key("chat", self.scene.organization, facts.get("destination_id", facts.get("target"))),
        }
        with self.scene.engine.begin() as connection:
            connection.execute(insert(deliveries).values(values | facts))
        return id_

    def _add_status_change(self) -> int:
        with self.scene.engine.begin() as connection:
            statement = insert(activities).values(
                incident_id=self.scene.incident,
                type=ActivityType.STATUS_CHANGE,
                value=str(IncidentStatus.CRITICAL.value),
                date_added=NOW,
                notification_uuid=new_id(),
            )
            return int(connection.execute(statement.returning(activities.c.id)).scalar_one())

    def add_action(self, target: str) -> UUID:
        """Insert a delivery of an alert rule's action."""
        return self.add_delivery(
            incident_id=self.scene.incident,
            activity_id=self._add_status_change(),
            rule_id=1,
            action_id=1,
            project_id=self.scene.project,
            target=target,
            method="fire",
            status=IncidentStatus.CRITICAL.value,
        )

    def add_personal(self, user: int, comment: int, **facts: Any) -> UUID:
        return self.add_delivery(
            incident_id=self.scene.incident, activity_id=comment, user_id=user, reason="mention", **facts
        )

    def prepare(self, *ids: UUID) -> dict[UUID, Outgoing | Withheld | Postponed]:
        """Prepare pending deliveries, by default all, those of a person in one message."""
        with self.scene.engine.connect() as connection:
            columns = [deliveries.c[name] for name in ClaimedDelivery._fields if name != "merged"]
            query = select(*columns).where(deliveries.c.state == "pending").order_by(deliveries.c.id)
            claimed = [ClaimedDelivery(**row._mapping) for row in connection.execute(query)]
        claimed = [each for each in claimed if not ids or each.id in ids]
        merged = tuple(each for each in claimed if each.is_merged)
        alone = [each._replace(merged=(each,)) for each in claimed if not each.is_merged]
        return asyncio.run(self._prepare([*alone, *(each._replace(merged=merged) for each in merged[:1])]))

    async def _prepare(self, claimed: list[ClaimedDelivery]) -> dict[UUID, Outgoing | Withheld | Postponed]:
        url = self.scene.engine.url.render_as_string(hide_password=False)
        engine = make_async_engine(url, application="test", pool_size=1, pool_timeout=5)
        try:
            async with engine.connect() as connection:
                return dict(await prepare(connection, self.channel, claimed))
        finally:
            await engine.dispose()

    def deliver(self) -> None:
        """Run the deliverer until every delivery to a chat has been attempted or withheld."""
        url = self.scene.engine.url.render_as_string(hide_password=False)
        deliverer = Deliverer(url, [self.channel])
        deliverer.start()
        try:
            waiting = "SELECT 1 FROM deliveries WHERE channel = 'chat' AND state = 'pending' AND attempts = 0"
            eventually(lambda: not self.scene.rows(waiting))
        finally:
            deliverer.stop()

    def posted(self) -> list[str]:
        return [each.json()["text"] for each in self.server.requests]

    def delivery(self, id_: UUID) -> Any:
        with self.scene.engine.connect() as connection:
            return connection.execute(select(deliveries).where(deliveries.c.id == id_)).one()

    def destination(self, id_: int) -> Any:
        with self.scene.engine.connect() as connection:
            return connection.execute(select(chat_destinations).where(chat_destinations.c.id == id_)).one()


@pytest.fixture
def chat(scene: Scene, tmp_path: Path) -> Iterator[Chat]:
    with chat_server(tmp_path) as server:
        channel = ChatChannel(
            BOX,
            NetworkGuard((ip_network("127.0.0.0/8"),)),
            public_url=PUBLIC_URL,
            ca_file=str(server.ca_file),
            resolve=server.resolve,
            seconds_between_messages=0,
        )
        yield Chat(scene, server, channel)


def text_of(prepared: Outgoing | Withheld | Postponed) -> str:
    assert isinstance(prepared, Outgoing)
    return prepared.body.decode()


# --- events ----------------------------------------------------------------------------------------------------------


def test_an_event_that_a_destination_asks_for_is_posted_there(chat: Chat) -> None:
    destination = chat.add_destination("incident.*")
    chat.add_destination("alert_rule.*")
    chat.add_destination(status="disabled")
    chat.scene.post_comment(text="Restarting @here now.")

    chat.scene.plan()
    chat.deliver()

    (text,) = chat.posted()
    assert text.startswith("[Open] ")
    assert "commented:\n\nRestarting @\u200bhere now." in text
    slug, number = chat.scene.rows("SELECT slug, identifier FROM organizations, incidents")[0]
    page = f"https://tocsin.example/base/organizations/{slug}/alerts/{number}/"
    assert text.endswith(f"\n\n{page}?referrer=incident_activity_chat")
    assert [row.destination_id for row in chat.scene.rows("SELECT * FROM deliveries")] == [destination]
    assert [row.state for row in chat.scene.rows("SELECT * FROM deliveries")] == ["delivered"]


def test_a_comment_is_posted_as_it_is_now_and_not_at_all_once_deleted(chat: Chat) -> None:
    chat.add_destination("*")
    edited, deleted = chat.scene.post_comment(text="Frist"), chat.scene.post_comment(text="Oops")
    chat.scene.plan()
    with chat.scene.engine.begin() as connection:
        connection.execute(update(activities).where(activities.c.id == edited).values(comment="First"))
        connection.execute(activities.delete().where(activities.c.id == deleted))

    prepared = list(chat.prepare().values())

    texts = [text_of(each) for each in prepared if isinstance(each, Outgoing)]
    assert len(texts) == 1
    assert "First" in texts[0]
    assert [each.rule for each in prepared if isinstance(each, Withheld)] == [DELETED]


def test_an_event_that_notifies_nobody_waits_for_the_planner_only_if_a_destination_may_want_it(chat: Chat) -> None:
    with chat.scene.engine.begin() as connection:
        an_event(connection, chat.scene.incident, IncidentOpened(projects=()))
        a_chat_destination(connection, chat.scene.organization)
        an_event(connection, chat.scene.incident, IncidentOpened(projects=()))
        wanting = a_chat_destination(connection, chat.scene.organization, "*")
        second = an_event(connection, chat.scene.incident, IncidentOpened(projects=()))

    assert chat.scene.unplanned() == {second}
    chat.scene.plan()
    assert [row.destination_id for row in chat.scene.rows("SELECT * FROM deliveries")] == [wanting]


def test_a_message_says_nothing_after_its_incident_is_gone(chat: Chat) -> None:
    destination = chat.add_destination("*")
    delivery = chat.add_delivery(destination_id=destination, event_id=new_id(), event_type="incident.opened")

    assert chat.prepare() == {delivery: Withheld(DeliveryState.CANCELLED, DELETED)}


# --- actions of alert rules ------------------------------------------------------------------------------------------


def test_a_rule_finds_its_destination_by_id_or_by_name(chat: Chat) -> None:
    id_ = chat.add_destination(name="On Call")

    prepared = [chat.prepare(chat.add_action(str(id_))), chat.prepare(chat.add_action(" on  CALL"))]

    for each in prepared:
        (outgoing,) = each.values()
        assert text_of(outgoing).startswith("[Critical] ")
        assert "The alert is Critical in project " in text_of(outgoing)


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("nowhere", 'the action names "nowhere", but there is no chat destination with this name or id'),
        ("slack://token/ops", "the action names a URL, but there is no chat destination with this name or id"),
        ("99999999999999999999", 'the action names "99999999999999999999", but there is no chat'),
    ],
)
def test_a_rule_that_names_no_destination_fails_and_says_so(chat: Chat, target: str, detail: str) -> None:
    delivery = chat.add_action(target)

    (withheld,) = chat.prepare().values()

    assert isinstance(withheld, Withheld)
    assert (withheld.state, withheld.rule) == (DeliveryState.FAILED, NO_DESTINATION)
    assert withheld.detail.startswith(detail)
    chat.deliver()
    assert chat.delivery(delivery).state == "failed"


def test_a_rule_cannot_post_to_a_persons_own_destination(chat: Chat) -> None:
    id_ = chat.add_destination(name="Ana", user_id=chat.scene.author)

    (withheld,) = chat.prepare(chat.add_action("Ana")).values()
    (by_id,) = chat.prepare(chat.add_action(str(id_))).values()

    assert isinstance(withheld, Withheld)
    assert isinstance(by_id, Withheld)
    assert (withheld.rule, by_id.rule) == (NO_DESTINATION, NO_DESTINATION)


# --- people ----------------------------------------------------------------------------------------------------------


def test_a_person_gets_a_message_in_their_own_destination(chat: Chat) -> None:
    comment = chat.scene.post_comment(text="Have a look.")
    person = a_person(chat)
    chat.add_destination(user_id=person)
    delivery = chat.add_personal(person, comment)

    chat.deliver()

    (text,) = chat.posted()
    assert "commented:\n\nHave a look." in text
    assert chat.delivery(delivery).state == "delivered"


def test_a_person_who_lost_access_gets_nothing(chat: Chat) -> None:
    comment = chat.scene.post_comment(text="Have a look.")
    person = a_person(chat)
    chat.add_destination(user_id=person)
    delivery = chat.add_personal(person, comment)
    with chat.scene.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM members WHERE user_id = %s", (person,))

    assert chat.prepare() == {delivery: Withheld(DeliveryState.SUPPRESSED, NO_ACCESS)}


def test_merged_notifications_are_one_message(chat: Chat) -> None:
    comments = [chat.scene.post_comment(text=f"Step {number}.") for number in range(3)]
    person = a_person(chat)
    chat.add_destination(user_id=person)
    first, *_ = [chat.add_personal(person, each, is_merged=True) for each in comments]

    prepared = chat.prepare()

    text = text_of(prepared[first])
    assert list(prepared) == [first]
    assert text.startswith("3 updates\n\n")
    assert [f"Step {number}." in text for number in range(3)] == [True] * 3


def test_a_status_change_is_a_message_with_the_new_status(chat: Chat) -> None:
    person = a_person(chat)
    chat.add_destination(user_id=person)
    with chat.scene.engine.begin() as connection:
        change = connection.execute(
            insert(activities)
            .values(
                incident_id=chat.scene.incident, user_id=chat.scene.author, type=ActivityType.STATUS_CHANGE.value,
                value="2", previous_value="20", date_added=datetime.now(UTC), notification_uuid=new_id(),
            )
            .returning(activities.c.id)
        ).scalar_one()  # fmt: skip
    delivery = chat.add_personal(person, change)

    text = text_of(chat.prepare()[delivery])

    assert text.startswith("[Resolved] ")
    assert "changed the status from Critical to Resolved." in text


# --- destinations ----------------------------------------------------------------------------------------------------


def test_a_test_message_is_sent_even_to_a_disabled_destination(chat: Chat) -> None:
    id_ = chat.add_destination(status="disabled")
    chat.add_delivery(destination_id=id_, event_id=new_id(), event_type=TEST_EVENT)

    chat.deliver()

    (text,) = chat.posted()
    assert text.startswith("Test message from tocsin\n\nMessages of ")


def test_nothing_else_is_sent_to_a_disabled_or_deleted_destination(chat: Chat) -> None:
    disabled = chat.add_destination(status="disabled", name="Off")
    off = chat.add_action("Off")
    gone = chat.add_delivery(destination_id=disabled + 1, event_id=new_id(), event_type="incident.opened")

    prepared = chat.prepare()

    assert prepared[off] == Withheld(DeliveryState.SUPPRESSED, DESTINATION_DISABLED)
    assert prepared[gone] == Withheld(DeliveryState.FAILED, NO_DESTINATION, "the chat destination was deleted")


def test_a_url_of_another_secret_waits_for_the_secret(chat: Chat) -> None:
    with chat.scene.engine.begin() as connection:
        a_chat_destination(connection, chat.scene.organization, name="Ops", url=b"other")

    (postponed,) = chat.prepare(chat.add_action("Ops")).values()

    assert isinstance(postponed, Postponed)
    assert postponed.rule == URL_UNREADABLE


def test_a_destination_that_asks_for_a_pause_is_left_alone(chat: Chat) -> None:
    chat.add_destination(name="Ops")
    first = chat.add_action("Ops")
    chat.server.answer(429, {"Retry-After": "600"})
    chat.deliver()

    second = chat.add_action("Ops")
    postponed = chat.prepare(second)[second]

    assert isinstance(postponed, Postponed)
    assert postponed.rule == DESTINATION_PAUSED
    assert postponed.due_at > datetime.now(UTC) + timedelta(minutes=8)
    assert len(chat.server.requests) == 1
    assert chat.delivery(first).due_at > datetime.now(UTC) + timedelta(minutes=8)


def test_failures_are_recorded_without_a_secret(chat: Chat) -> None:
    id_ = chat.add_destination(name="Ops")
    delivery = chat.add_action("Ops")
    chat.server.answer(404)

    chat.deliver()

    row = chat.delivery(delivery)
    assert (row.state, row.detail) == ("failed", "The service answered 404.")
    with chat.scene.engine.connect() as connection:
        attempts = connection.execute(select(delivery_attempts.c.status, delivery_attempts.c.error)).all()
    assert [tuple(each) for each in attempts] == [(404, "The service answered 404.")]
    assert chat.destination(id_).failing_since is not None
    assert "3ccdd11347" not in str(chat.scene.rows("SELECT d::text FROM deliveries d"))


def test_a_success_ends_a_series_of_failures(chat: Chat) -> None:
    id_ = chat.add_destination(name="Ops", failing_since=datetime.now(UTC) - timedelta(days=1))
    chat.add_action("Ops")

    chat.deliver()

    assert (chat.destination(id_).failing_since, chat.destination(id_).status) == (None, "active")


def test_a_destination_is_disabled_after_five_days_of_failures(chat: Chat) -> None:
    id_ = chat.add_destination(name="Ops", failing_since=datetime.now(UTC) - DISABLED_AFTER)
    chat.add_action("Ops")
    chat.server.answer(500)

    chat.deliver()

    assert (chat.destination(id_).status, chat.destination(id_).version) == ("disabled", 2)


def test_when_a_destination_is_disabled_managers_and_owners_or_its_own_person_are_told(chat: Chat) -> None:
    with chat.scene.engine.begin() as connection:
        manager, owner = (
            a_member(connection, chat.scene.organization, role=role) for role in (Role.MANAGER, Role.OWNER)
        )
        ana = a_member(connection, chat.scene.organization, teams=[chat.scene.team])
    long_ago = datetime.now(UTC) - DISABLED_AFTER - timedelta(hours=1)
    shared = chat.add_destination(failing_since=long_ago, name="Shared")
    own = chat.add_destination(failing_since=long_ago, user_id=ana, name="Own")
    chat.server.answer(500)
    chat.server.answer(500)
    chat.add_action("Shared")
    chat.add_personal(ana, chat.scene.post_comment())

    chat.deliver()

    mails = chat.scene.rows(
        "SELECT user_id, destination_id, event_type, target_key FROM deliveries"
        " WHERE channel = 'email' AND destination_id IS NOT NULL ORDER BY user_id"
    )
    event, key = "chat_destination.disabled", f"email:{chat.scene.organization}"
    assert mails == [(manager, shared, event, key), (owner, shared, event, key), (ana, own, event, key)]


def test_a_retry_sends_the_same_text(chat: Chat) -> None:
    chat.add_destination(name="Ops")
    delivery = chat.add_action("Ops")
    with chat.scene.engine.begin() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == delivery).values(body=b"as before", attempts=1))

    assert text_of(chat.prepare()[delivery]) == "as before"


def test_messages_to_a_destination_follow_one_another(chat: Chat) -> None:
    assert chat.channel.concurrency_per_target == 1
    assert chat.channel.retry_delays_seconds == (5, 30, 300, 1800, 7200)


def a_person(chat: Chat) -> int:
    """Return a subscriber of the scene's incident."""
    with chat.scene.engine.begin() as connection:
        person = a_member(connection, chat.scene.organization, teams=[chat.scene.team])
        a_subscription(connection, chat.scene.incident, person)
    return person


def test_messages_wait_until_there_is_a_secret() -> None:
    known: dict[str, Any] = {"_env_file": None, "DATABASE_URL": "postgresql://x/x", "BROKER_URL": "redis://x/0"}

    without = make_channels(WorkerSettings(**known, secret=None))
    with_secret = make_channels(WorkerSettings(**known, secret="0123456789abcdef"))

    assert "chat" not in [each.name for each in without]
    assert "chat" in [each.name for each in with_secret]
