# redis ships type hints for only some of its functions.
# mypy: disable-error-code="no-untyped-call"
"""A broker that answers but takes no message, such as a read-only replica or a full server, is reported."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from gateway.settings import GatewaySettings
from tasks.broker.write_refusal import find_write_refusal
from tasks.broker_status import read_broker_status
from tests.brokers import Broker, ValkeyBroker
from tests.conftest import Database
from tests.http.gateway_server import running_gateway
from tests.journeys.subprocesses import run_tocsin
from tests.waiting import eventually

READ_ONLY = ("REPLICAOF", "127.0.0.1", "1")
FULL = ("CONFIG", "SET", "maxmemory", "1")


@pytest.fixture
def refusing(valkey: ValkeyBroker) -> Iterator[ValkeyBroker]:
    """A Valkey that takes messages again after the test."""
    yield valkey
    valkey.client.execute_command("REPLICAOF", "NO", "ONE")
    valkey.client.execute_command("CONFIG", "SET", "maxmemory", "0")


@pytest.mark.parametrize(
    ("command", "reason", "fix"),
    [
        (READ_ONLY, "the server is a read-only replica", "let BROKER_URL name the primary"),
        (FULL, "the server's memory is full", "raise its maxmemory"),
    ],
)
def test_a_server_that_refuses_writes_is_named_with_its_fix(
    refusing: ValkeyBroker, command: tuple[str, ...], reason: str, fix: str
) -> None:
    refusing.client.execute_command(*command)

    with refusing.connection() as connection:
        refusal = find_write_refusal(connection)
    status = read_broker_status(refusing.settings, seconds=20)

    assert refusal is not None
    assert refusal.reason == reason
    assert refusal.fix.startswith(fix)
    assert (status.is_reachable, reason in status.detail) == (False, True)


def test_a_broker_that_takes_messages_refuses_nothing(broker: Broker) -> None:
    with broker.connection() as connection:
        assert find_write_refusal(connection) is None


def test_the_gateway_and_the_doctor_report_a_read_only_broker(database: Database, refusing: ValkeyBroker) -> None:
    known = {"DATABASE_URL": database.url, "BROKER_URL": refusing.url, "REDIS_URL": refusing.server.redis_url}
    settings = GatewaySettings(_env_file=None, **known)  # type: ignore[call-arg, arg-type]
    with running_gateway(settings) as gateway:

        def shown() -> tuple[str, str]:
            check = gateway.get("/readyz?verbose", by=None).json()["checks"]["broker"]
            return check["status"], check["detail"]

        eventually(lambda: shown() == ("ok", "responds"))
        refusing.client.execute_command(*READ_ONLY)
        eventually(lambda: shown()[0] == "degraded" and "read-only replica" in shown()[1])

        checks = json.loads(run_tocsin("doctor", "--json", **known).stdout)["checks"]

    [broker] = [check for check in checks if check["check"] == "broker"]
    assert (broker["good"], str(broker["says"]).partition(",")[0]) == (False, "the server is a read-only replica")
