"""The e-mail channel: which deliveries become mails, what they say, and what is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from uuid import UUID

import pytest
from sqlalchemy import delete, event, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import new_id
from models.database.async_engine import make_async_engine
from models.directory.tables import members, projects, users
from models.enums import ActivityType, IncidentStatus
from models.incidents.activity import activities
from models.incidents.incident import incidents
from models.incidents.subscription import subscriptions
from models.notifications.delivery import DeliveryMethod, DeliveryState
from models.notifications.mailbox import make_mailbox
from models.notifications.notification import notifications
from models.settings import SettingsError
from tests.builders import NOW, a_comment, a_member, a_subscription, an_incident
from tests.conftest import Database
from tests.delivery.conftest import Scene
from tests.delivery.email.mails import raw_field
from tests.delivery.email.readers import dkim_verifies, read_with_perl
from tests.delivery.email.servers import Catcher
from tests.delivery.email.test_dkim import a_key, dns_record, signer
from workers.deliver.channel import Channel, ClaimedDelivery, Outgoing, Postponed, Verdict, Withheld
from workers.deliver.channels.email.channel import EmailChannel, missing_settings
from workers.deliver.prepare import prepare as prepare_deliveries
from workers.settings import SmtpServer, WorkerSettings, parse_smtp_url

T = TypeVar("T")
Prepared = Mapping[UUID, Outgoing | Withheld | Postponed]

NOWHERE = SmtpServer("127.0.0.1", 9, False, None, None)


class FakeTickets:
    """Tickets that can be read in a test."""

    def page_ticket(self, user_id: int, organization_id: int, incident_id: int, identifier: int) -> str:
        return f"page.{user_id}.{organization_id}.{incident_id}.{identifier}"

    def unsubscribe_ticket(self, user_id: int, organization_id: int, incident_id: int, identifier: int) -> str:
        return f"stop.{user_id}.{organization_id}.{incident_id}.{identifier}"


def a_channel(server: SmtpServer = NOWHERE, **options: Any) -> EmailChannel:
    defaults: dict[str, Any] = {
        "public_url": "https://alerts.example.test/base",
        "sender": make_mailbox("", "tocsin@example.test"),
        "tickets": FakeTickets(),
        "now": lambda: NOW,
    }
    return EmailChannel(server, **defaults | options)


@pytest.fixture
def ana(scene: Scene) -> int:
    return a_person(scene, name="Ana", email="ana@example.org")


def test_the_channel_has_the_interface_of_a_channel() -> None:
    channel: Channel = a_channel()

    assert channel.name == "email"
    assert list(channel.retry_delays_seconds) == sorted(channel.retry_delays_seconds)


# --- what a mail says ------------------------------------------------------------------------------------------------


def test_a_comment_becomes_a_mail_with_a_link_that_opens_the_page_and_one_that_unsubscribes(
    scene: Scene, ana: int, database: Database
) -> None:
    execute(scene, update(incidents).values(title="Disk full", identifier=7))
    execute(scene, update(users).where(users.c.id == scene.author).values(name="Ben"))
    delivery = a_delivery(scene, ana, text="Look at **this**.")

    message = outgoing(prepare(database, delivery), delivery)

    slug = scene.rows("SELECT slug FROM organizations")[0].slug
    person = f"{ana}.{scene.organization}.{scene.incident}.7"
    read = read_with_perl(message.body)
    assert read["headers"]["subject"] == "Activity on Alert Disk full (#7)"
    assert read["headers"]["to"] == "Ana <ana@example.org>"
    assert raw_field(message.body, "Message-ID") == f"<{delivery.id}@example.test>"
    assert raw_field(message.body, "References") == f"<incident.{scene.organization}.7@example.test>"
    assert raw_field(message.body, "List-Unsubscribe") == (
        f"<https://alerts.example.test/base/unsubscribe/stop.{person}/>"
    )
    text = read["parts"]["text/plain"]
    assert "Ben left a comment on alert Disk full (#7)" in text
    assert "Look at **this**." in text
    assert (
        f"https://alerts.example.test/base/organizations/{slug}/alerts/7/"
        f"?referrer=incident_activity_email&ticket=page.{person}" in text
    )


def test_an_edited_comment_is_mailed_with_its_new_text(scene: Scene, ana: int, database: Database) -> None:
    delivery = a_delivery(scene, ana, text="Old")
    execute(scene, update(activities).values(comment="New"))

    message = outgoing(prepare(database, delivery), delivery)

    text = read_with_perl(message.body)["parts"]["text/plain"]
    assert "New" in text.replace("New Alert Activity", "")
    assert "Old" not in text


@pytest.mark.parametrize(
    ("previous", "expected"),
    [("20", "changed status from Critical to Resolved on alert"), (None, "changed status to Resolved on alert")],
)
def test_a_status_change_is_mailed_with_its_comment(
    scene: Scene, ana: int, database: Database, previous: str | None, expected: str
) -> None:
    delivery = a_delivery(scene, ana)
    changed = {"type": ActivityType.STATUS_CHANGE, "value": "2", "previous_value": previous, "comment": "Fixed"}
    execute(scene, update(activities).values(changed))

    text = read_with_perl(outgoing(prepare(database, delivery), delivery).body)["parts"]["text/plain"]

    assert expected in text
    assert "Fixed" in text


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("mention", "You were mentioned."),
        ("team_mention", "A team of yours was mentioned."),
        ("subscribed", "You are subscribed to this alert."),
    ],
)
def test_a_mail_says_why_it_was_sent(scene: Scene, ana: int, database: Database, reason: str, sentence: str) -> None:
    subscribe(scene, ana)
    delivery = a_delivery(scene, ana, reason=reason)

    text = read_with_perl(outgoing(prepare(database, delivery), delivery).body)["parts"]["text/plain"]

    assert sentence in text


def test_an_action_of_a_rule_has_the_status_and_the_project_in_its_subject(
    scene: Scene, ana: int, database: Database
) -> None:
    execute(scene, update(incidents).values(title="Too many\nerrors"))
    execute(scene, update(projects).values(slug="shop"))
    delivery = an_action_delivery(scene, ana, IncidentStatus.CRITICAL)

    message = outgoing(prepare(database, delivery), delivery).body

    read = read_with_perl(message)
    assert read["headers"]["subject"] == "[Critical] Too many errors - shop"
    assert "An action of the alert rule names you" in read["parts"]["text/plain"]
    assert b"Unsubscribe" not in message


def test_an_action_of_a_rule_is_sent_to_people_who_are_not_subscribed_and_whatever_the_inbox_says(
    scene: Scene, ana: int, database: Database
) -> None:
    delivery = an_action_delivery(scene, ana, IncidentStatus.CLOSED)
    an_inbox_item(scene, delivery, date_read=NOW)

    message = outgoing(prepare(database, delivery), delivery).body

    assert raw_field(message, "Subject").startswith("[Resolved] ")


def test_an_international_domain_is_sent_with_its_a_labels(scene: Scene, database: Database) -> None:
    ana = a_person(scene, email="j@bücher.example")
    delivery = a_delivery(scene, ana)

    message = outgoing(prepare(database, delivery), delivery)

    assert message.details.recipient == "j@xn--bcher-kva.example"
    assert not message.details.needs_smtputf8


# --- what is withheld ------------------------------------------------------------------------------------------------

SUPPRESSED, CANCELLED, FAILED = DeliveryState.SUPPRESSED, DeliveryState.CANCELLED, DeliveryState.FAILED


def test_someone_who_left_the_organization_gets_no_mail(scene: Scene, ana: int, database: Database) -> None:
    delivery = a_delivery(scene, ana)
    execute(scene, delete(members).where(members.c.user_id == ana))

    assert withheld(prepare(database, delivery), delivery) == (SUPPRESSED, "no_access")


def test_someone_whose_account_is_inactive_gets_no_mail(scene: Scene, ana: int, database: Database) -> None:
    delivery = a_delivery(scene, ana)
    execute(scene, update(users).where(users.c.id == ana).values(is_active=False))

    assert withheld(prepare(database, delivery), delivery) == (SUPPRESSED, "no_access")


def test_someone_without_access_to_the_incidents_projects_gets_no_mail(closed_scene: Scene, database: Database) -> None:
    outsider, insider = a_person(closed_scene), a_person(closed_scene, teams=[closed_scene.team])
    activity = closed_scene.post_comment()
    to_outsider = a_delivery(closed_scene, outsider, activity=activity)
    to_insider = a_delivery(closed_scene, insider, activity=activity)

    prepared = prepare(database, to_outsider, to_insider)

    assert withheld(prepared, to_outsider) == (SUPPRESSED, "no_access")
    assert outgoing(prepared, to_insider)


def test_a_comment_that_was_read_in_the_inbox_is_not_mailed(scene: Scene, ana: int, database: Database) -> None:
    delivery = a_delivery(scene, ana)
    an_inbox_item(scene, delivery, date_read=NOW)

    assert withheld(prepare(database, delivery), delivery) == (SUPPRESSED, "read")


def test_an_unread_comment_is_mailed(scene: Scene, ana: int, database: Database) -> None:
    delivery = a_delivery(scene, ana)
    an_inbox_item(scene, delivery)

    assert outgoing(prepare(database, delivery), delivery)


def test_someone_who_unsubscribed_meanwhile_gets_no_mail_unless_mentioned(
    scene: Scene, ana: int, database: Database
) -> None:
    subscribe(scene, ana)
    as_subscriber, mentioned = a_delivery(scene, ana, reason="subscribed"), a_delivery(scene, ana, reason="mention")
    execute(scene, delete(subscriptions))

    prepared = prepare(database, as_subscriber, mentioned)

    assert withheld(prepared, as_subscriber) == (SUPPRESSED, "unsubscribed")
    assert outgoing(prepared, mentioned)


@pytest.mark.parametrize(
    ("email", "expected"),
    [
        ("", (SUPPRESSED, "no_address")),
        ("  ", (SUPPRESSED, "no_address")),
        ("nobody", (FAILED, "no_address")),
        ("a b@example.org", (FAILED, "no_address")),
        ("ana@example.org\nBcc: eve@example.org", (FAILED, "no_address")),
        ("ana@example.org, eve@example.org", (FAILED, "no_address")),
        ("ana@-.example", (FAILED, "no_address")),
        ("ana@" + "x" * 64 + ".example", (FAILED, "no_address")),
        ("x" * 65 + "@example.org", (FAILED, "no_address")),
    ],
)
def test_someone_without_a_valid_address_gets_no_mail(
    scene: Scene, database: Database, email: str, expected: tuple[DeliveryState, str]
) -> None:
    delivery = a_delivery(scene, a_person(scene, email=email))

    assert withheld(prepare(database, delivery), delivery) == expected


# --- several deliveries in one mail ----------------------------------------------------------------------------------


def test_merged_deliveries_are_one_mail_grouped_by_incident(scene: Scene, ana: int, database: Database) -> None:
    first, second = a_delivery(scene, ana, text="First"), a_delivery(scene, ana, text="Second")
    with scene.engine.begin() as connection:
        scene.incident = an_incident(connection, scene.organization, projects=[scene.project])
    third = a_delivery(scene, ana, text="Third")
    main = merged(third, first, second, third)

    prepared = prepare(database, main)

    message = outgoing(prepared, first)
    read = read_with_perl(message.body)
    assert read["headers"]["subject"].startswith("3 updates on 2 incidents in org-")
    text = read["parts"]["text/plain"]
    assert text.index("First") < text.index("Second") < text.index("unsubscribe") < text.index("Third")


def test_a_withheld_part_of_a_merged_mail_is_left_out(scene: Scene, ana: int, database: Database) -> None:
    read, unread = a_delivery(scene, ana, text="Read before"), a_delivery(scene, ana, text="Unread")
    an_inbox_item(scene, read, date_read=NOW)
    main = merged(unread, read, unread)

    prepared = prepare(database, main)

    assert withheld(prepared, read) == (SUPPRESSED, "read")
    assert b"Read before" not in outgoing(prepared, unread).body


def test_if_all_parts_of_a_merged_mail_are_withheld_nothing_is_sent(scene: Scene, ana: int, database: Database) -> None:
    first, second = a_delivery(scene, ana), a_delivery(scene, ana)
    for each in (first, second):
        an_inbox_item(scene, each, date_read=NOW)
    main = merged(first, first, second)

    prepared = prepare(database, main)

    assert {each: withheld(prepared, each) for each in (main, second)} == {
        main: (SUPPRESSED, "read"),
        second: (SUPPRESSED, "read"),
    }


# --- retries ---------------------------------------------------------------------------------------------------------


def test_a_retry_sends_the_stored_bytes_although_the_comment_has_changed(
    scene: Scene, ana: int, database: Database
) -> None:
    delivery = a_delivery(scene, ana, text="Old")
    body = outgoing(prepare(database, delivery), delivery).body
    execute(scene, update(activities).values(comment="New"))

    retried = delivery._replace(body=body, attempts=1)

    assert outgoing(prepare(database, retried), retried).body == body


def test_a_retry_checks_access_again(scene: Scene, ana: int, database: Database) -> None:
    delivery = a_delivery(scene, ana)
    retried = delivery._replace(body=outgoing(prepare(database, delivery), delivery).body, attempts=1)
    execute(scene, delete(members).where(members.c.user_id == ana))

    assert withheld(prepare(database, retried), retried) == (SUPPRESSED, "no_access")


def test_a_retry_is_rendered_for_the_new_address_if_that_has_changed(
    scene: Scene, ana: int, database: Database
) -> None:
    delivery = a_delivery(scene, ana)
    retried = delivery._replace(body=outgoing(prepare(database, delivery), delivery).body, attempts=1)
    execute(scene, update(users).where(users.c.id == ana).values(email="new@example.org"))

    message = outgoing(prepare(database, retried), retried)

    assert message.details.recipient == "new@example.org"
    assert raw_field(message.body, "To") == "Ana <new@example.org>"


def test_the_prepared_bytes_arrive_unchanged_and_signed(scene: Scene, ana: int, database: Database) -> None:
    delivery, catcher, key = a_delivery(scene, ana, text="Süd\n.\n" + "ü" * 2000), Catcher(), a_key("ed25519")

    async def scenario(connection: AsyncConnection) -> Outgoing:
        async with catcher.running(decode_data=False) as server:
            channel = a_channel(server, signer=signer(key))
            message = outgoing(await prepare_deliveries(connection, channel, [delivery]), delivery)
            result = await channel.send(delivery, message)
            await channel.close()
            assert result.verdict is Verdict.DELIVERED
            return message

    message = with_connection(database, scenario)

    [mail] = catcher.mails
    assert mail.message == message.body
    assert (mail.sender, mail.recipients) == ("tocsin@example.test", ["ana@example.org"])
    assert dkim_verifies(mail.message, dns_record(key))


def test_many_deliveries_are_prepared_with_a_fixed_number_of_queries(
    scene: Scene, ana: int, database: Database
) -> None:
    few = [a_delivery(scene, ana) for _ in range(2)]
    many = few + [a_delivery(scene, a_person(scene)) for _ in range(20)]

    assert count_queries(database, many) == count_queries(database, few)


# --- settings --------------------------------------------------------------------------------------------------------

COMPLETE = {
    "DATABASE_URL": "postgresql://localhost/x",
    "BROKER_URL": "redis://localhost",
    "TOCSIN_SMTP_URL": "smtp://mail.example.test",
    "TOCSIN_PUBLIC_URL": "https://alerts.example.test/base/",
    "TOCSIN_SECRET": "0123456789abcdef",
}


@pytest.mark.parametrize("missing", ["TOCSIN_SMTP_URL", "TOCSIN_PUBLIC_URL", "TOCSIN_SECRET"])
def test_without_a_required_setting_there_is_no_channel(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    settings = settings_with(monkeypatch, **{missing: None})

    assert missing_settings(settings) == [missing]
    assert EmailChannel.from_settings(settings, FakeTickets()) is None


@pytest.mark.parametrize(
    ("public_url", "mail_from", "sender"),
    [
        ("https://alerts.example.test/base/", None, "tocsin@alerts.example.test"),
        ("https://bücher.example", None, "tocsin@xn--bcher-kva.example"),
        ("http://127.0.0.1:8400", None, "tocsin@localhost"),
        ("http://10.1.2.3:8400", None, "tocsin@[10.1.2.3]"),
        ("https://alerts.example.test", "Alerts <alerts@faß.example>", "alerts@xn--fa-hia.example"),
    ],
)
def test_the_sender_is_the_configured_one_or_tocsin_at_the_public_host(
    monkeypatch: pytest.MonkeyPatch, public_url: str, mail_from: str | None, sender: str
) -> None:
    settings = settings_with(monkeypatch, TOCSIN_PUBLIC_URL=public_url, TOCSIN_MAIL_FROM=mail_from)

    channel = EmailChannel.from_settings(settings, FakeTickets())

    assert channel is not None
    assert channel.sender.address == sender


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOCSIN_SMTP_URL", "mail.example.test"),
        ("TOCSIN_SMTP_URL", "https://mail.example.test"),
        ("TOCSIN_SMTP_URL", "smtp://user:pass#word@mail.example.test"),
        ("TOCSIN_SMTP_URL", "smtp://mail.example.test:70000"),
        ("TOCSIN_SMTP_URL", "smtp://:password@mail.example.test"),
        ("TOCSIN_MAIL_FROM", "nobody"),
        ("TOCSIN_MAIL_FROM", "one@example.test, two@example.test"),
        ("TOCSIN_MAIL_FROM", "Tocsin <tocsin@example.test> and more <two@example.test>"),
        ("TOCSIN_MAIL_FROM", "jörg@example.test"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        settings_with(monkeypatch, **{name: value})

    assert "pass#" not in str(caught.value)
    assert "#word" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"TOCSIN_DKIM_SELECTOR": "mail"}, "TOCSIN_DKIM_KEY"),
        ({"TOCSIN_DKIM_KEY": "/nowhere.pem"}, "TOCSIN_DKIM_SELECTOR"),
        ({"TOCSIN_DKIM_SELECTOR": "mail", "TOCSIN_DKIM_KEY": "/nowhere.pem"}, "TOCSIN_DKIM_KEY"),
        ({"TOCSIN_PUBLIC_URL": "alerts.example.test"}, "TOCSIN_PUBLIC_URL"),
    ],
)
def test_a_channel_is_refused_if_a_setting_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError, match=named):
        EmailChannel.from_settings(settings_with(monkeypatch, **settings), FakeTickets())


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.test", SmtpServer("mail.test", 25, False, None, None)),
        ("smtp://u%40x:p%23w@mail.test", SmtpServer("mail.test", 587, False, "u@x", "p#w")),
        ("smtp://u:p@mail.test:2525", SmtpServer("mail.test", 2525, False, "u", "p")),
        ("smtps://u:p@mail.test", SmtpServer("mail.test", 465, True, "u", "p")),
        ("smtp://[::1]:25", SmtpServer("::1", 25, False, None, None)),
        ("smtp://mail.bücher.example", SmtpServer("mail.xn--bcher-kva.example", 25, False, None, None)),
    ],
)
def test_a_url_names_a_mail_server(url: str, server: SmtpServer) -> None:
    assert parse_smtp_url(url) == server


# --- helpers ---------------------------------------------------------------------------------------------------------


def settings_with(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> WorkerSettings:
    for name, value in {**COMPLETE, **changes}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    return WorkerSettings.from_environment()


def a_person(scene: Scene, **facts: Any) -> int:
    with scene.engine.begin() as connection:
        return a_member(connection, scene.organization, **facts)


def subscribe(scene: Scene, user: int) -> None:
    with scene.engine.begin() as connection:
        a_subscription(connection, scene.incident, user)


def a_delivery(
    scene: Scene, user: int, *, reason: str = "mention", text: str = "Look.", activity: int | None = None
) -> ClaimedDelivery:
    """Return a claimed delivery about a comment, which is new unless `activity` is given."""
    if activity is None:
        with scene.engine.begin() as connection:
            activity = a_comment(connection, scene.incident, by=scene.author, text=text)
    return claimed(scene, user_id=user, activity_id=activity, reason=reason)


def an_action_delivery(scene: Scene, user: int, status: IncidentStatus) -> ClaimedDelivery:
    with scene.engine.begin() as connection:
        activity = connection.execute(
            insert(activities)
            .values(
                incident_id=scene.incident,
                type=ActivityType.STATUS_CHANGE,
                value=str(int(status)),
                date_added=NOW,
                notification_uuid=new_id(),
            )
            .returning(activities.c.id)
        ).scalar_one()
    return claimed(
        scene,
        user_id=user,
        activity_id=activity,
        rule_id=1,
        action_id=2,
        project_id=scene.project,
        method=DeliveryMethod.FIRE.value,
        status=int(status),
    )


def claimed(scene: Scene, **facts: Any) -> ClaimedDelivery:
    columns: dict[str, Any] = dict.fromkeys(ClaimedDelivery._fields)
    columns |= {
        "id": new_id(),
        "organization_id": scene.organization,
        "incident_id": scene.incident,
        "event_id": new_id(),
        "channel": "email",
        "target_key": f"email:{scene.organization}",
        "is_merged": False,
        "attempts": 0,
        "date_created": NOW,
        "merged": (),
    }
    return ClaimedDelivery(**columns | facts)


def merged(main: ClaimedDelivery, *every: ClaimedDelivery) -> ClaimedDelivery:
    return main._replace(is_merged=True, merged=every)


def an_inbox_item(scene: Scene, delivery: ClaimedDelivery, **facts: Any) -> None:
    values = {
        "organization_id": delivery.organization_id,
        "user_id": delivery.user_id,
        "incident_id": delivery.incident_id,
        "activity_id": delivery.activity_id,
        "event_id": delivery.event_id,
        "event_type": "comment.posted",
        "reason": "mention",
    }
    execute(scene, insert(notifications).values(values | facts))


def execute(scene: Scene, statement: Any) -> None:
    with scene.engine.begin() as connection:
        connection.execute(statement)


def prepare(database: Database, *deliveries: ClaimedDelivery) -> Prepared:
    return with_connection(database, lambda connection: prepare_deliveries(connection, a_channel(), deliveries))


def count_queries(database: Database, deliveries: list[ClaimedDelivery]) -> int:
    """Return how many statements PostgreSQL executes while the deliveries are prepared."""
    statements: list[str] = []

    async def scenario(connection: AsyncConnection) -> None:
        event.listen(
            connection.sync_connection, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
        )
        await prepare_deliveries(connection, a_channel(), deliveries)

    with_connection(database, scenario)
    return len(statements)


def with_connection(database: Database, scenario: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    async def run() -> T:
        url = database.url.replace("postgresql://", "postgresql+psycopg://")
        engine = make_async_engine(url, application="test", pool_size=1, pool_timeout=5)
        try:
            async with engine.connect() as connection:
                return await scenario(connection)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def outgoing(prepared: Prepared, delivery: ClaimedDelivery) -> Outgoing:
    result = prepared[delivery.id]
    assert isinstance(result, Outgoing), result
    return result


def withheld(prepared: Prepared, delivery: ClaimedDelivery) -> tuple[DeliveryState, str]:
    result = prepared[delivery.id]
    assert isinstance(result, Withheld), result
    return result.state, result.rule
