"""Outages of PostgreSQL and the broker: responses during an outage, and recovery afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest
from sqlalchemy.engine import Engine

from gateway.container import Timeouts
from gateway.settings import GatewaySettings
from tests.handlers.acme import Acme
from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway, Worker, running_gateway
from tests.waiting import eventually
from workers.stack.servers import EmbeddedServers


@pytest.fixture
def gateway(acme: Acme, settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """A gateway with the timeouts used in production."""
    with running_gateway(settings(), Timeouts()) as running:
        yield running


@pytest.fixture
def without_postgres(quiet_servers: EmbeddedServers, ledger: Engine) -> Iterator[Callable[[], None]]:
    """A function that kills PostgreSQL, which is restarted after the test."""

    def kill() -> None:
        sessions = psutil.Process(quiet_servers.postgres.pid).children()
        quiet_servers.kill_postgres()
        # A session may finish its statement before it notices that the server is gone.
        psutil.wait_procs(sessions, timeout=20)

    yield kill
    ledger.dispose()
    if not quiet_servers.postgres.is_running():
        quiet_servers.start_postgres()


def test_commands_are_refused_without_the_database_and_accepted_again_afterwards(
    gateway: Gateway, servers: EmbeddedServers, without_postgres: Callable[[], None]
) -> None:
    assert gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async").status_code == 202

    without_postgres()
    away = [gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one"), gateway.get(f"{ACME}/")]
    anonymous = gateway.post(COMMENTS, A_COMMENT, by=None)
    servers.start_postgres()
    back = eventually(
        lambda: if_accepted(gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one", Prefer="respond-async"))
    )

    assert [response.status_code for response in away] == [503, 503]
    assert all(response.headers["retry-after"] == "1" for response in away)
    assert anonymous.status_code == 401
    assert back is not None
    assert back.headers["command-id"]


def test_broken_pool_connections_are_replaced(
    gateway: Gateway, servers: EmbeddedServers, without_postgres: Callable[[], None]
) -> None:
    gateway.concurrently(8, lambda: gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async"))

    without_postgres()
    servers.start_postgres()

    assert gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async").status_code == 202
    assert gateway.get(f"{ACME}/").status_code == 200


def test_a_database_outage_after_acceptance_returns_202_and_not_503(
    gateway: Gateway, ledger: Engine, without_postgres: Callable[[], None]
) -> None:
    responses: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: responses.append(gateway.post(COMMENTS, A_COMMENT, Prefer="wait=3")))
    waiting.start()
    with ledger.connect() as connection:
        eventually(lambda: connection.exec_driver_sql("SELECT count(*) FROM commands").scalar_one())

    without_postgres()
    waiting.join()

    assert responses[0].status_code == 202


def test_the_gateway_is_not_ready_without_the_database(gateway: Gateway, without_postgres: Callable[[], None]) -> None:
    before = gateway.get("/readyz?verbose", by=None)
    without_postgres()
    after = gateway.get("/readyz?verbose", by=None)

    assert (before.status_code, {check["status"] for check in before.json()["checks"].values()}) == (200, {"ok"})
    assert (after.status_code, after.json()["checks"]["database"]["status"]) == (503, "failed")
    assert gateway.get("/livez", by=None).status_code == 200


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:9/0", "amqp://127.0.0.1:9//"])
def test_without_the_broker_commands_are_accepted_and_their_outcomes_returned(
    acme: Acme, settings: Callable[..., GatewaySettings], busy_worker: Worker, broker: str
) -> None:
    with running_gateway(settings(BROKER_URL=broker, REDIS_URL="redis://127.0.0.1:9/0"), Timeouts()) as gateway:
        response = gateway.post(COMMENTS, A_COMMENT)
        ready = gateway.get("/readyz?verbose", by=None)

    assert response.status_code == 201
    assert (ready.status_code, ready.json()["checks"]["broker"]["status"]) == (200, "degraded")


def test_a_gateway_is_ready_with_a_newer_schema_but_not_without_a_schema(gateway: Gateway, ledger: Engine) -> None:
    def at(revision: str) -> httpx.Response:
        with ledger.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = %(to)s", {"to": revision})
        return gateway.get("/readyz", by=None)

    assert at("9999").status_code == 200
    with ledger.begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
    assert gateway.get("/readyz", by=None).status_code == 503


def if_accepted(response: httpx.Response) -> httpx.Response | None:
    return response if response.status_code == 202 else None
