"""Pub/sub wake-ups over Valkey, before and after outages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tasks.broker.pubsub import EVENTS_CHANNEL, OUTCOMES_CHANNEL, WakeupListener, WakeupPublisher, subscribe
from tests.brokers import ValkeyBroker
from tests.waiting import eventually

WITHIN_SECONDS = 30


@pytest.fixture
def listener(valkey: ValkeyBroker) -> Iterator[WakeupListener]:
    listener = WakeupListener(valkey.url, [EVENTS_CHANNEL])
    listener.start()
    assert listener.wait_until_subscribed(WITHIN_SECONDS)
    assert listener.wait(WITHIN_SECONDS)
    yield listener
    listener.stop()


def test_a_wake_up_message_wakes_a_waiting_listener(valkey: ValkeyBroker, listener: WakeupListener) -> None:
    WakeupPublisher(valkey.url).publish(EVENTS_CHANNEL)

    assert listener.wait(WITHIN_SECONDS)


def test_several_wake_ups_are_merged_into_one(valkey: ValkeyBroker, listener: WakeupListener) -> None:
    publisher = WakeupPublisher(valkey.url)
    for _ in range(5):
        publisher.publish(EVENTS_CHANNEL)
    eventually(lambda: listener.wait(0))
    WakeupPublisher(valkey.url).publish(OUTCOMES_CHANNEL)

    eventually(lambda: not listener.wait(0))


def test_a_listener_reconnects_after_a_valkey_outage(valkey: ValkeyBroker, listener: WakeupListener) -> None:
    valkey.stop()
    valkey.start()
    publisher = WakeupPublisher(valkey.url)

    def received() -> bool:
        publisher.publish(EVENTS_CHANNEL)
        return listener.wait(0.1)

    eventually(received)


def test_publishing_during_a_valkey_outage_is_not_an_error(valkey: ValkeyBroker) -> None:
    publisher = WakeupPublisher(valkey.url)
    valkey.stop()

    publisher.publish(EVENTS_CHANNEL)
    publisher.publish(EVENTS_CHANNEL)


def test_a_listener_without_a_url_waits_until_the_timeout() -> None:
    listener = WakeupListener(None, [EVENTS_CHANNEL])
    listener.start()
    WakeupPublisher(None).publish(EVENTS_CHANNEL)

    assert not listener.wait(0.01)

    listener.stop()


def test_stopping_a_listener_ends_its_wait(listener: WakeupListener) -> None:
    listener.stop()

    assert listener.wait(WITHIN_SECONDS)


def test_the_gateway_receives_outcomes_again_after_a_valkey_outage(valkey: ValkeyBroker) -> None:
    async def receive_twice() -> list[tuple[str, str]]:
        received: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        connected = asyncio.Event()
        listening = asyncio.create_task(
            subscribe(
                valkey.url,
                [OUTCOMES_CHANNEL],
                lambda channel, payload: received.put_nowait((channel, payload)),
                on_listening=connected.set,
            )
        )
        results = []
        for payload in ("7 8", "9"):
            await asyncio.wait_for(connected.wait(), WITHIN_SECONDS)
            connected.clear()
            await asyncio.to_thread(WakeupPublisher(valkey.url).publish, OUTCOMES_CHANNEL, payload)
            results.append(await asyncio.wait_for(received.get(), WITHIN_SECONDS))
            await asyncio.to_thread(valkey.stop)
            await asyncio.to_thread(valkey.start)
        listening.cancel()
        return results

    assert asyncio.run(receive_twice()) == [(OUTCOMES_CHANNEL, "7 8"), (OUTCOMES_CHANNEL, "9")]
