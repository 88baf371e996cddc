"""Metrics whose values are read from the database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families
from sqlalchemy import text
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from models.enums import Lane
from models.messaging.canary import insert_due_canaries, mark_canaries_seen
from tests.handlers.acme import Acme
from tests.http.gateway_server import Gateway, running_gateway
from tests.waiting import eventually


def test_metrics_report_the_canary_of_each_queue(gateway: Gateway, ledger: Engine) -> None:
    with ledger.begin() as connection:
        sent = insert_due_canaries(connection, every_seconds=30)
        connection.execute(text("UPDATE canaries SET sent_at = sent_at - interval '20 seconds'"))
        mark_canaries_seen(
            connection, [canary for canary in sent if canary.queue == Lane.COMMANDS], worker="somewhere/1"
        )

    figures = canary_figures(gateway)

    assert figures["age", "commands"] < figures["age", "bulk"]
    assert figures["age", "bulk"] >= 20
    assert figures["way", "commands"] >= 20
    assert ("way", "bulk") not in figures


def test_metrics_that_cannot_be_read_are_omitted_and_the_others_remain(gateway: Gateway, ledger: Engine) -> None:
    with ledger.begin() as connection:
        insert_due_canaries(connection, every_seconds=30)
    assert canary_figures(gateway)

    with ledger.begin() as connection:
        connection.execute(text("ALTER TABLE canaries RENAME TO elsewhere"))

    def without_gauges() -> bool:
        # The numbers are read again after two seconds.
        return canary_figures(gateway) == {}

    eventually(without_gauges)
    shown = gateway.get("/metrics", by=None).text
    assert "tocsin_http_seconds" in shown
    assert "tocsin_commands_waiting" not in shown
    assert 'tocsin_server_up{server="postgresql"} 0.0' in shown
    assert 'tocsin_server_up{server="broker"} 1.0' in shown
    assert 'tocsin_server_up{server="wake_ups"} 1.0' in shown


def test_servers_that_are_away_are_named(acme: Acme, settings: Callable[..., GatewaySettings]) -> None:
    away = {"BROKER_URL": "redis://127.0.0.1:1/0", "REDIS_URL": "redis://127.0.0.1:1/0"}
    with running_gateway(settings(**away)) as gateway:
        shown = gateway.get("/metrics", by=None).text

    assert 'tocsin_server_up{server="postgresql"} 1.0' in shown
    assert 'tocsin_server_up{server="broker"} 0.0' in shown
    assert 'tocsin_server_up{server="wake_ups"} 0.0' in shown


OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
"""As Prometheus asks."""


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8", openmetrics_families),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8", text_families),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", text_families),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(
    gateway: Gateway, accept: str, content_type: str, parse: Callable[[str], Iterable[Metric]]
) -> None:
    gateway.get("/version", by=None)

    response = gateway.get("/metrics", by=None, Accept=accept)

    assert response.headers["content-type"].startswith(content_type)
    samples = [sample.name for family in parse(response.text) for sample in family.samples]
    assert "tocsin_commands_waiting" in samples
    assert [name for name in samples if name.endswith("_created")] == []


def canary_figures(gateway: Gateway) -> dict[tuple[str, str], float]:
    """Return the canary metrics by name and queue."""
    response = gateway.get("/metrics", by=None)
    assert response.status_code == 200
    found = re.findall(r'^tocsin_canary_(\w+)_seconds{queue="(\w+)"} (\S+)$', response.text, re.MULTILINE)
    return {(figure, queue): float(value) for figure, queue, value in found}
