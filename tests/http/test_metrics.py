"""Metrics whose values are read from the database."""

from __future__ import annotations

import re

from sqlalchemy import text
from sqlalchemy.engine import Engine

from models.enums import Lane
from models.messaging.canary import insert_due_canaries, mark_canaries_seen
from tests.http.gateway_server import Gateway


def test_metrics_report_the_canary_of_each_queue(gateway: Gateway, ledger: Engine) -> None:
    with ledger.begin() as connection:
        sent = insert_due_canaries(connection, every_seconds=30)
        connection.execute(text("UPDATE canaries SET sent_at = sent_at - interval '20 seconds'"))
        mark_canaries_seen(
            connection, [canary for canary in sent if canary.queue is Lane.COMMANDS], worker="somewhere/1"
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

    assert canary_figures(gateway) == {}
    assert "tocsin_http_seconds" in gateway.get("/metrics", by=None).text


def canary_figures(gateway: Gateway) -> dict[tuple[str, str], float]:
    """Return the canary metrics by name and queue."""
    response = gateway.get("/metrics", by=None)
    assert response.status_code == 200
    found = re.findall(r'^tocsin_canary_(\w+)_seconds{queue="(\w+)"} (\S+)$', response.text, re.MULTILINE)
    return {(figure, queue): float(value) for figure, queue, value in found}
