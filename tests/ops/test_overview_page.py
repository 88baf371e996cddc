"""The operators' first page says whether anything is wrong."""

from __future__ import annotations

from models.enums import Lane
from models.messaging.hold import HoldScope
from models.operations.holds import place_hold
from tasks.commands.catalog import CATALOG
from tests.harness import Harness
from tests.http.gateway_server import Gateway
from tests.ops.test_ops_api_login import log_in


def test_without_a_session_the_page_leads_to_the_login(gateway: Gateway) -> None:
    with gateway.client(None) as client:
        response = client.get("/ops/")

    assert (response.status_code, response.headers["location"]) == (303, "/ops/login/")


def test_an_operator_sees_every_queue_and_what_holds_it(gateway: Gateway, harness: Harness) -> None:
    with harness.engine.begin() as connection:
        place_hold(
            connection,
            scope=HoldScope.QUEUE,
            target="bulk",
            reason="<import> floods acme",
            by="otto",
            release_at=None,
            known_types=frozenset(CATALOG),
        )
    with gateway.client(None) as client:
        log_in(client)
        page = client.get("/ops/")

    assert page.status_code == 200
    assert all(f'#{lane.value}">{lane.value}</a></th>' in page.text for lane in Lane)
    assert "by otto: &lt;import&gt; floods acme" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"


def test_a_persons_session_does_not_open_the_page(gateway: Gateway) -> None:
    with gateway.client(None) as client:
        refused = log_in(client, "dev-mem")
        page = client.get("/ops/")

    assert (refused.status_code, page.status_code) == (403, 303)
