"""With a server away: what is answered, and that work goes on when it is back."""

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
from tests.http.doorway import A_COMMENT, ACME, COMMENTS, Gateway, Worker, running_gateway
from tests.waiting import eventually
from workers.stack.servers import EmbeddedServers


@pytest.fixture
def gateway(acme: Acme, settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """One that keeps nobody waiting, as outside of tests."""
    with running_gateway(settings(), Timeouts()) as running:
        yield running


@pytest.fixture
def without_postgres(quiet_servers: EmbeddedServers, ledger: Engine) -> Iterator[Callable[[], None]]:
    """Kills PostgreSQL; it is back when the test is over."""

    def kill() -> None:
        sessions = psutil.Process(quiet_servers.postgres.pid).children()
        quiet_servers.kill_postgres()
        # A session may finish what it is at before it notices that it has lost its server.
        psutil.wait_procs(sessions, timeout=20)

    yield kill
    ledger.dispose()
    if not quiet_servers.postgres.is_running():
        quiet_servers.start_postgres()


def test_without_the_database_nothing_is_accepted_and_then_everything_again(
    gateway: Gateway, servers: EmbeddedServers, without_postgres: Callable[[], None]
) -> None:
    assert gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async").status_code == 202

    without_postgres()
    away = [gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one"), gateway.get(f"{ACME}/")]
    anonymous = gateway.post(COMMENTS, A_COMMENT, by=None)
    servers.start_postgres()
    back = eventually(
        lambda: accepted(gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one", Prefer="respond-async"))
    )

    assert [answer.status_code for answer in away] == [503, 503]
    assert all(answer.headers["retry-after"] == "1" for answer in away)
    assert anonymous.status_code == 401
    assert back.headers["command-id"]


def test_connections_that_broke_in_the_pool_are_replaced(
    gateway: Gateway, servers: EmbeddedServers, without_postgres: Callable[[], None]
) -> None:
    gateway.concurrently(8, lambda: gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async"))

    without_postgres()
    servers.start_postgres()

    assert gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async").status_code == 202
    assert gateway.get(f"{ACME}/").status_code == 200


def test_an_accepted_command_is_never_unavailable_afterwards(
    gateway: Gateway, ledger: Engine, without_postgres: Callable[[], None]
) -> None:
    told: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: told.append(gateway.post(COMMENTS, A_COMMENT, Prefer="wait=3")))
    waiting.start()
    with ledger.connect() as connection:
        eventually(lambda: connection.exec_driver_sql("SELECT count(*) FROM commands").scalar_one())

    without_postgres()
    waiting.join()

    assert told[0].status_code == 202


def test_the_gateway_says_that_it_is_not_ready(gateway: Gateway, without_postgres: Callable[[], None]) -> None:
    well = gateway.get("/readyz?verbose", by=None)
    without_postgres()
    ill = gateway.get("/readyz?verbose", by=None)

    assert (well.status_code, {check["status"] for check in well.json()["checks"].values()}) == (200, {"ok"})
    assert (ill.status_code, ill.json()["checks"]["database"]["status"]) == (503, "failed")
    assert gateway.get("/livez", by=None).status_code == 200


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:9/0", "amqp://127.0.0.1:9//"])
def test_without_the_broker_commands_are_accepted_and_waited_for(
    acme: Acme, settings: Callable[..., GatewaySettings], busy_worker: Worker, broker: str
) -> None:
    with running_gateway(settings(BROKER_URL=broker, REDIS_URL="redis://127.0.0.1:9/0"), Timeouts()) as gateway:
        answer = gateway.post(COMMENTS, A_COMMENT)
        ready = gateway.get("/readyz?verbose", by=None)

    assert answer.status_code == 201
    assert (ready.status_code, ready.json()["checks"]["broker"]["status"]) == (200, "degraded")


def test_a_schema_that_is_behind_is_not_ready_and_one_that_is_ahead_is(gateway: Gateway, ledger: Engine) -> None:
    def at(revision: str) -> httpx.Response:
        with ledger.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = %(to)s", {"to": revision})
        return gateway.get("/readyz", by=None)

    assert at("9999").status_code == 200
    with ledger.begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
    assert gateway.get("/readyz", by=None).status_code == 503


def accepted(answer: httpx.Response) -> httpx.Response | None:
    return answer if answer.status_code == 202 else None
