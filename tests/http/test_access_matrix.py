"""Who may do what: every caller × every request of an organization, against the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.engine import Engine

from gateway.main import ENDPOINTS
from gateway.rate_limit import FailureLimit
from gateway.settings import GatewaySettings
from tests.http.access_matrix import CALLERS, READS, WRITES, build_world, mismatches
from tests.http.gateway_server import Gateway, Worker, running_gateway


@pytest.fixture
def gateway(settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """A running gateway without limits on a database without an organization."""
    with running_gateway(settings(rate=1_000_000)) as gateway:
        gateway.app.state.container.wrong_tokens = FailureLimit(1_000_000)
        yield gateway


def test_the_matrix_has_every_operation_outside_the_operators_interface() -> None:
    operations = {
        (method, endpoint.path)
        for endpoint in ENDPOINTS
        for method in endpoint.operations
        if not endpoint.path.startswith("/ops/api/")
    }
    names = {"warning": "trigger", "no_webhook": "webhook"}
    tested = set()
    for request in (*READS, *WRITES):
        path = request.path
        for name, meant in names.items():
            path = path.replace(f"{{{name}}}", f"{{{meant}}}")
        tested.add((request.method, path))

    chat = "/api/0/organizations/{organization}/chat-destinations/{webhook}/"
    assert {(m, chat.replace("webhook", "destination") if p == chat else p) for m, p in tested} == operations


# 4,500 requests take ten seconds, but minutes on a machine with much other work.
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_caller_gets_what_the_contract_says(gateway: Gateway, worker: Worker, ledger: Engine) -> None:
    world = build_world(ledger)

    found = list(mismatches(gateway, worker, ledger, world))

    assert found == [], f"{len(found)} of {len(CALLERS) * (len(READS) + len(WRITES))} cells"
