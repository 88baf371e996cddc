"""The gateway's watchdog ends a gateway that no longer responds."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator

import httpx
import pytest

from gateway.settings import GatewaySettings
from gateway.watchdog import is_unresponsive
from tasks.startup import free_port
from tasks.watchdog import EXIT_STUCK
from tests.conftest import Database
from tests.http.gateway_server import running_gateway
from tests.journeys.subprocesses import Program, running_module
from tests.waiting import eventually
from workers.stack.servers import EmbeddedServers

WITHIN_SECONDS = 5.0


@pytest.fixture
def serving(database: Database, servers: EmbeddedServers) -> Iterator[tuple[Program, int]]:
    """A responding gateway in its own process, and its port."""
    port = free_port("127.0.0.1", 0)
    environment = {"DATABASE_URL": database.url, "BROKER_URL": servers.broker_url, "REDIS_URL": servers.redis_url}
    with running_module("tests.faults.faulty_gateway", str(port), json.dumps(environment)) as gateway:
        eventually(lambda: not is_unresponsive("127.0.0.1", port, within_seconds=WITHIN_SECONDS))
        yield gateway, port


def test_a_gateway_that_lost_its_socket_exits(serving: tuple[Program, int]) -> None:
    gateway, port = serving
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        # An open connection survives the loss of the listening socket.
        assert client.get("/livez").is_success
        gateway.process.send_signal(signal.SIGUSR1)
        assert client.get("/livez").is_success

    assert gateway.wait() == EXIT_STUCK
    assert "watchdog.stuck" in gateway.lines[-1]


def test_a_gateway_that_hangs_exits(serving: tuple[Program, int]) -> None:
    gateway, _ = serving
    gateway.process.send_signal(signal.SIGUSR2)

    assert gateway.wait() == EXIT_STUCK
    assert "watchdog.stuck" in gateway.lines[-1]


def test_a_gateway_stopped_by_sigterm_does_not_exit_as_stuck(serving: tuple[Program, int]) -> None:
    gateway, _ = serving

    assert gateway.stop(signal.SIGTERM) == -signal.SIGTERM


def test_a_gateway_that_responds_is_not_considered_stuck(database: Database, servers: EmbeddedServers) -> None:
    urls = {"DATABASE_URL": database.url, "BROKER_URL": servers.broker_url, "REDIS_URL": servers.redis_url}
    settings = GatewaySettings.model_validate(urls)
    with running_gateway(settings) as gateway:
        assert not is_unresponsive("127.0.0.1", httpx.URL(gateway.url).port or 0, within_seconds=WITHIN_SECONDS)


def test_a_gateway_that_accepts_connections_but_never_responds_is_considered_stuck() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert is_unresponsive("127.0.0.1", silent.getsockname()[1], within_seconds=0.1)
