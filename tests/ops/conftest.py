"""Fixtures for tests of operations over HTTP: a gateway with operators of every role."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.settings import GatewaySettings
from models.directory.importer import import_directory
from tests.brokers import UNREACHABLE_BROKER
from tests.conftest import Database
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.http.gateway_server import SECRET, Gateway, running_gateway
from tests.ops.accessibility import Axe
from workers.stack.servers import EmbeddedServers

OPERATORS: dict[str, Any] = {
    "tokens": [
        {"token": "dev-viewer", "name": "vera", "kind": "ops", "role": "viewer"},
        {"token": "dev-operator", "name": "otto", "kind": "ops", "role": "operator"},
        {"token": "dev-ops", "name": "ada", "kind": "ops", "role": "admin"},
    ]
}


@pytest.fixture
def operators(harness: Harness, acme: Acme) -> Acme:
    """The organization acme, and a token for each role of operators."""
    with harness.engine.begin() as connection:
        import_directory(connection, copy.deepcopy(OPERATORS))
    return acme


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
def gateway(operators: Acme, settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """A running gateway."""
    with running_gateway(settings()) as running:
        yield running


@pytest.fixture
def lonely_gateway(operators: Acme, settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """A running gateway without a broker and without Valkey."""
    away = {"BROKER_URL": UNREACHABLE_BROKER, "REDIS_URL": UNREACHABLE_BROKER}
    with running_gateway(settings(**away)) as running:
        yield running


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> Axe:
    """What finds the accessibility faults of a page."""
    if shutil.which("npm") is None:
        if "CI" in os.environ:
            pytest.fail("npm is not installed here: install it, as .ci/run does")
        pytest.skip("npm is not installed here")
    return Axe(tmp_path_factory.mktemp("axe"))
