"""Fixtures for HTTP tests: a small organization behind a gateway that listens on a port."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from models.alert_rules.alert_rule import Action, Trigger
from models.alert_rules.enums import ActionType, TargetType
from models.base import new_id
from models.directory.importer import import_directory
from models.incidents.incident import incidents
from tests.builders import NOW, a_chat_destination, a_webhook, a_webhook_delivery, an_alert_rule, an_incident
from tests.conftest import BackgroundTasks, Database
from tests.handlers.acme import Acme
from tests.http.gateway_server import CHAT_DELIVERY, DELIVERY, DESTINATION, RULES, SECRET, WEBHOOK, Gateway, Worker
from tests.http.incident_list_requests import OpenIncident
from tests.http.streams import incident_of
from workers.stack.servers import EmbeddedServers

MORE_TOKENS = {
    "users": [{"id": 16, "username": "gone", "name": "Gone", "email": "gone@x.test", "is_active": False}],
    "members": [{"organization": "acme", "user": "gone", "role": "member", "teams": ["t1"]}],
    "tokens": [
        {"token": "dev-gone", "user": "gone"},
        {"token": "dev-mem-read", "user": "mem", "scopes": ["org:read"]},
        {"token": "dev-mem-alerts", "user": "mem", "scopes": ["alerts:read", "alerts:write"]},
        {
            "token": "dev-plain-bot",
            "organization": "acme",
            "name": "mute",
            "kind": "service",
            "scopes": ["project:write"],
        },
        {
            "token": "dev-reader",
            "organization": "acme",
            "name": "reader",
            "kind": "service",
            "scopes": ["org:read", "project:read", "alerts:write"],
        },
        {"token": "dev-ops", "name": "ops", "kind": "ops", "role": "admin"},
        {"token": "dev-viewer", "name": "viewer", "kind": "ops", "role": "viewer"},
    ],
}


@pytest.fixture
def acme(database: Database) -> Acme:
    """Organizations with people, projects and tokens, each with an incident numbered 1."""
    known = Acme(database.engine)
    with database.engine.begin() as connection:
        import_directory(connection, copy.deepcopy(MORE_TOKENS))
    return known


@pytest.fixture
def rules(database: Database, acme: Acme) -> None:
    """Rules 1 to 8 on project p1: rule n has trigger n001 with action n002, and incident 1 belongs to rule 1."""
    with database.engine.begin() as connection:
        for number in RULES:
            action = Action(
                id=number * 1000 + 2, type=ActionType.EMAIL, target_type=TargetType.USER, target="12", date_added=NOW
            )
            trigger = Trigger(
                id=number * 1000 + 1, label="critical", threshold=100.0, date_added=NOW, actions=(action,)
            )
            inserted = an_alert_rule(
                connection,
                acme.organizations["acme"],
                projects=[acme.projects["acme", "p1"]],
                triggers=[trigger],
                created_by=11,
            )
            assert inserted == number
        connection.exec_driver_sql(
            "UPDATE incidents SET alert_rule_id = 1, alert_rule_generation = 1 WHERE organization_id = %s",
            (acme.organizations["acme"],),
        )


@pytest.fixture
def webhook_deliveries(database: Database, acme: Acme) -> None:
    """Webhooks 5001 to 5003, each with a finished delivery, whose id is :data:`DELIVERY` for the first one.

    Chat destinations 6001 to 6003 likewise, with :data:`CHAT_DELIVERY`.
    """
    with database.engine.begin() as connection:
        for number in range(3):
            webhook = a_webhook(connection, acme.organizations["acme"], id=WEBHOOK + number)
            delivery = DELIVERY if number == 0 else new_id()
            a_webhook_delivery(connection, webhook, id=delivery, state="delivered")
            destination = a_chat_destination(connection, acme.organizations["acme"], id=DESTINATION + number)
            posted = CHAT_DELIVERY if number == 0 else new_id()
            chat = {"channel": "chat", "destination_id": destination, "body": None}
            a_webhook_delivery(connection, webhook, id=posted, state="delivered", **chat)


@pytest.fixture
def ledger(database: Database) -> Engine:
    """The engine for the test's database, to read the accepted commands."""
    return database.engine


@pytest.fixture
def opened(acme: Acme, ledger: Engine) -> OpenIncident:
    """A function that inserts an incident of acme that started ``minutes`` after incident 1."""

    def insert(title: str, *slugs: str, minutes: float = 0, **facts: Any) -> int:
        with ledger.begin() as connection:
            return an_incident(
                connection,
                acme.organizations["acme"],
                projects=[acme.projects["acme", slug] for slug in slugs or ("p1",)],
                title=title,
                date_started=NOW + timedelta(minutes=minutes),
                **facts,
            )

    return insert


@pytest.fixture
def named_first(acme: Acme, ledger: Engine) -> None:
    """Give incident 1 on p1 the title ``first``."""
    with ledger.begin() as connection:
        connection.execute(update(incidents).values(title="first"))


@pytest.fixture
def settings(servers: EmbeddedServers, database: Database) -> Callable[..., GatewaySettings]:
    """A function that builds settings for the gateway; its keyword arguments override fields."""

    def build(**facts: object) -> GatewaySettings:
        known = {
            "DATABASE_URL": database.url,
            "BROKER_URL": servers.broker_url,
            "REDIS_URL": servers.redis_url,
            "secret": SECRET,
        }
        return GatewaySettings(_env_file=None, **known | facts)  # type: ignore[call-arg, arg-type]

    return build


@pytest.fixture
def gateway(acme: Acme, settings: Callable[..., GatewaySettings], background: BackgroundTasks) -> Iterator[Gateway]:
    """A running gateway."""
    yield from _stopped_afterwards(Gateway(settings()), background)


@pytest.fixture
def unlimited_gateway(
    acme: Acme, settings: Callable[..., GatewaySettings], background: BackgroundTasks
) -> Iterator[Gateway]:
    """A running gateway without a rate limit."""
    yield from _stopped_afterwards(Gateway(settings(rate=1_000_000)), background)


def _stopped_afterwards(gateway: Gateway, background: BackgroundTasks) -> Iterator[Gateway]:
    gateway.start()
    yield gateway
    gateway.request_stop()
    background.submit(gateway.stop)


@pytest.fixture
def worker(servers: EmbeddedServers, database: Database) -> Iterator[Worker]:
    """A worker that applies commands only when the test calls ``apply``."""
    applying = Worker(database.url, servers.redis_url)
    yield applying
    applying.stop()


@pytest.fixture
def busy_worker(worker: Worker) -> Worker:
    """A worker that applies commands continuously."""
    worker.start()
    return worker


@pytest.fixture
def incident(acme: Acme, ledger: Engine) -> int:
    return incident_of(ledger, acme.organizations["acme"])


@pytest.fixture
def other_incident(acme: Acme, ledger: Engine) -> int:
    with ledger.begin() as connection:
        return an_incident(connection, acme.organizations["acme"], projects=[acme.projects["acme", "p2"]], identifier=2)
