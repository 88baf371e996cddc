"""Every process that publishes hints, run as in production, publishes hints that a worker accepts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sqlalchemy import text

from models.enums import Lane
from tasks.broker.hint_publisher import HintPublisher
from tests.brokers import Broker
from tests.builders import a_comment, a_subscription, a_user, an_incident
from tests.faults.conftest import HintWorker
from tests.faults.ledger import a_comment_command, states
from tests.faults.test_sweeper import insert_stale_command
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.http.gateway_server import COMMENTS
from tests.journeys.subprocesses import running_process
from tests.rabbitmq import free_ports
from tests.waiting import eventually
from workers.apply.applier import DRAIN_SECONDS
from workers.apply.limits import COMMANDS_PER_SUBJECT


def test_a_worker_accepts_the_hint_that_a_gateway_publishes(
    harness: Harness, acme: Acme, broker: Broker, worker: HintWorker, tmp_path: Path
) -> None:
    [port] = free_ports(1)
    with publishing("gateway", "--port", str(port), harness=harness, broker=broker, folder=tmp_path):
        eventually(lambda: is_ready(port))
        response = httpx.post(
            f"http://127.0.0.1:{port}{COMMENTS}",
            json={"comment": "Anyone?"},
            headers={"Authorization": "Bearer dev-mem", "Prefer": "respond-async"},
        )

        assert response.status_code == 202
        worker.wait_handled(f"incident:{acme.organizations['acme']}:1")

    assert broker.parked_count() == 0


def test_a_worker_accepts_the_hints_that_a_relay_publishes(
    harness: Harness, broker: Broker, worker: HintWorker, tmp_path: Path
) -> None:
    with harness.engine.begin() as connection:
        insert_stale_command(connection, "incident:1:7")

    with publishing("relay", harness=harness, broker=broker, folder=tmp_path):
        worker.wait_handled("canary:1")
        worker.wait_handled("incident:1:7")

    assert broker.parked_count() == 0


def test_a_worker_accepts_the_hint_that_a_notifier_publishes(
    harness: Harness, acme: Acme, broker: Broker, worker: HintWorker, tmp_path: Path
) -> None:
    organization = acme.organizations["acme"]
    with harness.engine.begin() as connection:
        incident = an_incident(connection, organization, projects=[acme.projects["acme", "p1"]], identifier=7)
        # A subscriber without access is unsubscribed by a command, for which the notifier publishes a hint.
        a_subscription(connection, incident, a_user(connection))
        a_comment(connection, incident, by=acme.users["mem"])

    with publishing("notifier", harness=harness, broker=broker, folder=tmp_path):
        worker.wait_handled(f"incident:{organization}:7")

    assert broker.parked_count() == 0


def test_a_worker_accepts_the_hints_with_which_its_child_requests_another_task(
    harness: Harness, acme: Acme, broker: Broker, publisher: HintPublisher, tmp_path: Path
) -> None:
    with harness.engine.begin() as connection:
        # One batch takes all the time that a task may spend on its batches.
        connection.execute(
            text(
                "CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS "
                f"'BEGIN PERFORM pg_sleep({DRAIN_SECONDS}); RETURN NULL; END'"
            )
        )
        connection.execute(text("CREATE TRIGGER slow AFTER INSERT ON incident_activities EXECUTE FUNCTION be_slow()"))
    ids = harness.accept_all([a_comment_command()] * (2 * COMMANDS_PER_SUBJECT + 1), **acme.by("mem"))

    # No relay is running, so the later batches depend on the hints that the worker sends itself.
    with publishing("worker", "--lanes", "commands", harness=harness, broker=broker, folder=tmp_path):
        publisher.publish(Lane.COMMANDS, [harness.ledger_row(ids[0])["subject"]])
        eventually(lambda: set(states(harness, ids)) == {"applied"})

    assert broker.parked_count() == 0


@contextmanager
def publishing(*words: str, harness: Harness, broker: Broker, folder: Path) -> Iterator[None]:
    """Run a tocsin process on the test's database and broker for the duration of the block."""
    environment = {"DATABASE_URL": harness.url, "BROKER_URL": broker.url}
    with running_process(*words, environment=environment, log=folder / f"{words[0]}.log"):
        yield


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").is_success
    except httpx.TransportError:
        return False
