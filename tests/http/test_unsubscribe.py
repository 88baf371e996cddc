"""Unsubscribing by the link in a mail, in a browser and with one click (RFC 8058)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from models.directory.importer import import_directory
from models.directory.tables import users
from models.incidents.subscription import subscriptions
from models.messaging.command_ledger import commands
from models.notifications.tickets import MAX_AGE_SECONDS, TicketKind, Tickets, used_tickets
from tests.builders import a_subscription
from tests.handlers.acme import Acme
from tests.http.browser_session import Browser
from tests.http.gateway_server import Gateway, Worker, running_gateway

SECRET = "a secret for the tests"
MEM = 11
ONE_CLICK = "List-Unsubscribe=One-Click"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def gateway(acme: Acme, settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """A gateway that can sign."""
    with running_gateway(settings(secret=SECRET)) as running:
        yield running


@pytest.fixture
def subscribed(ledger: Engine, incident: int) -> None:
    """Mem is subscribed to incident 1."""
    with ledger.begin() as connection:
        a_subscription(connection, incident, MEM)


@pytest.fixture
def link(acme: Acme, incident: int, subscribed: None) -> str:
    ticket = Tickets((SECRET,)).unsubscribe_ticket(MEM, acme.organizations["acme"], incident, 1)
    return f"/unsubscribe/{ticket}/"


def subscribers(ledger: Engine) -> list[int]:
    with ledger.connect() as connection:
        return list(connection.execute(select(subscriptions.c.user_id)).scalars())


def command_count(ledger: Engine) -> int:
    with ledger.connect() as connection:
        return len(connection.execute(select(commands.c.id)).all())


def click(gateway: Gateway, link: str, **headers: str) -> httpx.Response:
    """Send what a mail service sends."""
    with httpx.Client(base_url=gateway.url, timeout=30, verify=False) as client:
        return client.post(link, content=ONE_CLICK, headers=FORM | headers)


def test_one_click_unsubscribes_without_cookies_login_or_redirects(
    gateway: Gateway, link: str, ledger: Engine, worker: Worker
) -> None:
    answer = click(gateway, link)
    worker.apply()

    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert subscribers(ledger) == []


def test_one_click_also_comes_as_multipart_and_from_another_origin(
    gateway: Gateway, link: str, ledger: Engine, worker: Worker
) -> None:
    with httpx.Client(base_url=gateway.url, verify=False) as client:
        answer = client.post(
            link,
            files={"List-Unsubscribe": (None, "One-Click")},
            headers={"Origin": "https://mail.test", "Sec-Fetch-Site": "cross-site"},
        )
    worker.apply()

    assert answer.status_code == 200
    assert subscribers(ledger) == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_program_that_opens_the_links_of_a_mail_changes_nothing(
    gateway: Gateway, link: str, ledger: Engine, method: str
) -> None:
    with gateway.client(None) as client:
        answer = client.request(method, link)

    assert answer.status_code in (200, 204)
    assert command_count(ledger) == 0


def test_the_page_has_a_button_that_unsubscribes(gateway: Gateway, link: str, ledger: Engine, worker: Worker) -> None:
    with Browser(gateway) as browser:
        browser.open(link)
        document = browser.submit(browser.document.forms[0])
    worker.apply()

    assert "You are unsubscribed" in document.text
    assert subscribers(ledger) == []


def test_a_repeated_click_is_answered_alike_and_changes_nothing_more(
    gateway: Gateway, link: str, ledger: Engine, incident: int, worker: Worker
) -> None:
    click(gateway, link)
    worker.apply()
    with ledger.begin() as connection:
        a_subscription(connection, incident, MEM)

    again = click(gateway, link)
    worker.apply()

    assert again.status_code == 200
    assert "used already" in again.text
    assert subscribers(ledger) == [MEM]
    assert command_count(ledger) == 1


def test_another_spelling_of_a_used_ticket_is_the_same_ticket(
    gateway: Gateway, link: str, ledger: Engine, worker: Worker
) -> None:
    click(gateway, link)
    ticket = link.split("/")[2]
    others = [
        each
        for each in (ticket[:-1] + last for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        if each != ticket
    ]

    accepted = [answer for each in others if (answer := click(gateway, f"/unsubscribe/{each}/")).status_code == 200]

    assert accepted
    assert all("used already" in answer.text for answer in accepted)
    assert command_count(ledger) == 1


def test_a_later_mails_link_unsubscribes_again(
    gateway: Gateway, acme: Acme, link: str, ledger: Engine, incident: int, worker: Worker
) -> None:
    click(gateway, link)
    worker.apply()
    with ledger.begin() as connection:
        a_subscription(connection, incident, MEM)

    later = Tickets((SECRET,)).unsubscribe_ticket(MEM, acme.organizations["acme"], incident, 1)
    click(gateway, f"/unsubscribe/{later}/")
    worker.apply()

    assert subscribers(ledger) == []


def test_someone_who_lost_access_is_unsubscribed_too(
    gateway: Gateway, link: str, ledger: Engine, worker: Worker
) -> None:
    with ledger.begin() as connection:
        import_directory(connection, {"members": [{"organization": "acme", "user": "mem", "role": None}]})

    answer = click(gateway, link)
    worker.apply()

    assert answer.status_code == 200
    assert subscribers(ledger) == []


def test_someone_whose_account_is_inactive_is_unsubscribed_too(
    gateway: Gateway, link: str, ledger: Engine, worker: Worker
) -> None:
    with ledger.begin() as connection:
        connection.execute(update(users).where(users.c.id == MEM).values(is_active=False))

    answer = click(gateway, link)
    worker.apply()

    assert answer.status_code == 200
    assert subscribers(ledger) == []


def test_a_link_in_an_old_mail_works_for_400_days(
    gateway: Gateway, acme: Acme, incident: int, subscribed: None, ledger: Engine, worker: Worker
) -> None:
    age = MAX_AGE_SECONDS[TicketKind.UNSUBSCRIBE]
    ids = (MEM, acme.organizations["acme"], incident, 1)
    old = Tickets((SECRET,), clock=lambda: time.time() - age + 600).unsubscribe_ticket(*ids)
    too_old = Tickets((SECRET,), clock=lambda: time.time() - age - 600).unsubscribe_ticket(*ids)

    assert click(gateway, f"/unsubscribe/{too_old}/").status_code == 410
    assert command_count(ledger) == 0
    assert click(gateway, f"/unsubscribe/{old}/").status_code == 200
    worker.apply()
    assert subscribers(ledger) == []


def test_another_kind_of_ticket_unsubscribes_nobody(
    gateway: Gateway, acme: Acme, incident: int, ledger: Engine
) -> None:
    ticket = Tickets((SECRET,)).page_ticket(MEM, acme.organizations["acme"], incident, 1)

    assert click(gateway, f"/unsubscribe/{ticket}/").status_code == 404
    assert command_count(ledger) == 0


def test_a_post_without_the_one_click_body_changes_nothing(gateway: Gateway, link: str, ledger: Engine) -> None:
    with httpx.Client(base_url=gateway.url, verify=False) as client:
        answer = client.post(link, content="a=b", headers=FORM)

    assert answer.status_code == 400
    assert command_count(ledger) == 0


def test_records_of_tickets_that_have_expired_are_deleted(gateway: Gateway, link: str, ledger: Engine) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("INSERT INTO used_tickets (id, expires_at) VALUES ('old', now() - interval '1 s')")

    click(gateway, link)

    with ledger.connect() as connection:
        kept = connection.execute(select(used_tickets)).all()
    assert len(kept) == 1
    assert kept[0].id != "old"
    assert (kept[0].expires_at - kept[0].used_at).days == 400
