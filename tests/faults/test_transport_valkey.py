"""Malformed messages on Valkey are parked, and the worker survives them and outages."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as BrokerGone

from tasks.app import make_app
from tasks.broker.envelope import rejection_reason, validate_envelope
from tasks.broker.transport import MAX_PARKED, PARKED
from tests.brokers import ValkeyBroker
from tests.faults.conftest import HintWorker, running_worker
from tests.faults.envelopes import FORGED, FORGED_CALL, MALFORMED, QUEUE, an_envelope, raw
from tests.waiting import eventually


@pytest.fixture
def broker(valkey: ValkeyBroker) -> ValkeyBroker:
    """The worker's broker."""
    return valkey


def test_a_well_formed_envelope_is_accepted() -> None:
    assert rejection_reason(raw(an_envelope("org:1")), queue=QUEUE) is None


@pytest.mark.parametrize("envelope", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_envelope_is_rejected(envelope: bytes) -> None:
    assert rejection_reason(envelope, queue=QUEUE) is not None


def test_unknown_headers_are_dropped_and_the_hint_is_accepted() -> None:
    envelope = an_envelope("org:1", callbacks=[FORGED_CALL], from_the_future=1)

    admitted = validate_envelope(raw(envelope), queue=QUEUE)

    assert {"callbacks", "from_the_future"}.isdisjoint(admitted["headers"])


@pytest.mark.parks
def test_no_malformed_envelope_stops_a_worker_or_runs_a_forged_task(valkey: ValkeyBroker, worker: HintWorker) -> None:
    child = worker.child
    for envelope in MALFORMED.values():
        valkey.client.lpush(QUEUE, envelope)
    valkey.client.lpush(QUEUE, raw(an_envelope("org:1")))

    worker.wait_handled("org:1")

    assert worker.handled == ["org:1"]
    assert worker.child == child
    assert valkey.client.llen(PARKED) == len(MALFORMED)
    assert valkey.client.llen(QUEUE) == 0
    eventually(lambda: valkey.client.hlen("unacked") == 0)


@pytest.mark.parks
def test_a_malformed_message_is_parked_with_its_original_bytes_and_the_reason(
    valkey: ValkeyBroker, worker: HintWorker
) -> None:
    valkey.client.lpush(QUEUE, b"hello")

    eventually(lambda: valkey.client.llen(PARKED) == 1)

    [entry] = valkey.client.lrange(PARKED, 0, -1)
    record = json.loads(entry)
    assert record["queue"] == QUEUE
    assert record["reason"] == "envelope: not JSON"
    assert record["raw"] == "aGVsbG8="
    assert "transport.parked" in worker.log


@pytest.mark.parks
def test_the_list_of_parked_messages_is_bounded(valkey: ValkeyBroker, worker: HintWorker) -> None:
    valkey.client.lpush(QUEUE, *([b"hello"] * (MAX_PARKED + 5)))
    valkey.client.lpush(QUEUE, raw(an_envelope("org:1")))

    worker.wait_handled("org:1")

    assert valkey.client.llen(PARKED) == MAX_PARKED


def test_a_task_call_in_the_callbacks_header_is_not_executed(valkey: ValkeyBroker, worker: HintWorker) -> None:
    valkey.client.lpush(QUEUE, raw(an_envelope("org:1", body=[_hint("org:1"), {}, {}], callbacks=[FORGED_CALL])))
    valkey.client.lpush(QUEUE, raw(an_envelope("org:2")))

    worker.wait_handled("org:2")

    assert FORGED not in worker.handled


def test_a_forged_unacknowledged_entry_is_removed(valkey: ValkeyBroker, worker: HintWorker) -> None:
    valkey.client.hset("unacked", "forged", b"hello")
    valkey.client.zadd("unacked_index", {"forged": 1})

    eventually(lambda: valkey.client.zcard("unacked_index") == 0)

    valkey.client.lpush(QUEUE, raw(an_envelope("org:1")))
    worker.wait_handled("org:1")


def test_a_worker_survives_a_queue_key_that_is_not_a_list(valkey: ValkeyBroker, worker: HintWorker) -> None:
    valkey.client.set(QUEUE, "hello")
    eventually(lambda: "Connection to broker lost" in worker.log)

    valkey.client.delete(QUEUE)
    valkey.client.lpush(QUEUE, raw(an_envelope("org:1")))

    worker.wait_handled("org:1")


def test_a_worker_whose_acknowledgement_failed_continues_once_valkey_is_back(
    valkey: ValkeyBroker, worker: HintWorker
) -> None:
    valkey.client.lpush(QUEUE, raw(an_envelope("wait:go")))
    worker.wait_handled("wait:go")
    valkey.stop()

    (worker.folder / "go").touch()
    eventually(lambda: "Couldn't ack" in worker.log)
    valkey.start()
    valkey.client.lpush(QUEUE, raw(an_envelope("org:1")))

    worker.wait_handled("org:1")


def test_a_worker_survives_a_valkey_outage_while_it_handles_a_message(valkey: ValkeyBroker, tmp_path: Path) -> None:
    # With more than one prefetch slot, the worker keeps polling and so notices the outage at once.
    with running_worker(valkey.url, tmp_path, prefetch=2) as worker:
        valkey.client.lpush(QUEUE, raw(an_envelope("wait:go")))
        worker.wait_handled("wait:go")
        valkey.stop()
        eventually(lambda: not worker.is_alive or "Connection to broker lost" in worker.log)

        (worker.folder / "go").touch()
        valkey.start()
        valkey.client.lpush(QUEUE, raw(an_envelope("org:1")))

        worker.wait_handled("org:1")


def test_acknowledging_on_a_closed_connection_raises_a_connection_error(
    valkey: ValkeyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    connection = make_app(valkey.settings).connection_for_read()
    channel = connection.channel()
    assert channel.client.ping()
    connection.collect()

    with pytest.raises(BrokerGone):
        channel._connparams()


def _hint(subject: str) -> list[dict[str, object]]:
    return [{"version": 1, "subjects": [subject]}]
