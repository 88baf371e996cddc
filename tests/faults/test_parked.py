# kombu is marked as typed but only partly annotated.
# mypy: disable-error-code="no-untyped-call"
"""Messages that the transport has rejected are counted in the gateway's metrics and reported by `tocsin doctor`."""

from __future__ import annotations

import json
import re

import pytest

from gateway.settings import GatewaySettings
from tasks.broker.topology import declare
from tests.brokers import UNREACHABLE_BROKER, Broker
from tests.conftest import Database
from tests.faults.conftest import HintWorker
from tests.faults.envelopes import QUEUE
from tests.http.gateway_server import Gateway, running_gateway
from tests.journeys.subprocesses import run_tocsin
from tests.waiting import eventually
from workers.stack.servers import EmbeddedServers


def settings(database: Database, servers: EmbeddedServers, broker_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database.url, "BROKER_URL": broker_url, "REDIS_URL": servers.redis_url}


def parked_metric(gateway: Gateway) -> list[float]:
    """Return the value of the metric, or an empty list if it is missing."""
    text = gateway.get("/metrics", by=None).text
    return [float(value) for value in re.findall(r"^tocsin_parked_messages{\S+} (\S+)$", text, re.MULTILINE)]


def publish_hello(broker: Broker) -> None:
    """Publish a message that is not a hint to a lane's queue."""
    with broker.connection() as connection:
        declare(connection)
        with connection.Producer() as producer:
            producer.publish("hello", exchange="tocsin.lanes", routing_key=QUEUE, serializer="json")


@pytest.mark.parks
def test_parked_messages_are_counted_in_the_metrics(
    database: Database, servers: EmbeddedServers, broker: Broker, worker: HintWorker
) -> None:
    known = settings(database, servers, broker.url)
    with running_gateway(GatewaySettings(_env_file=None, **known)) as gateway:  # type: ignore[call-arg, arg-type]
        assert eventually(lambda: parked_metric(gateway)) == [0]

        publish_hello(broker)

        eventually(lambda: parked_metric(gateway) == [1])


def test_the_metric_is_missing_while_the_broker_is_unreachable(database: Database, servers: EmbeddedServers) -> None:
    known = settings(database, servers, UNREACHABLE_BROKER)
    with running_gateway(GatewaySettings(_env_file=None, **known)) as gateway:  # type: ignore[call-arg, arg-type]
        assert parked_metric(gateway) == []


@pytest.mark.parks
def test_the_doctor_reports_parked_messages_and_their_queue(
    database: Database, servers: EmbeddedServers, broker: Broker, worker: HintWorker
) -> None:
    def run_doctor() -> dict[str, object]:
        done = run_tocsin("doctor", "--json", **settings(database, servers, broker.url))
        [found] = [check for check in json.loads(done.stdout)["checks"] if check["check"] == "parked"]
        return {"good": found["good"], "says": found["says"]}

    before = run_doctor()
    publish_hello(broker)
    eventually(lambda: broker.parked_count() == 1)
    after = run_doctor()

    assert before == {"good": True, "says": "no message was rejected"}
    assert after["good"] is False
    assert re.match(r"1 message that workers rejected in tocsin\.(parked|dead)\b", str(after["says"]))
