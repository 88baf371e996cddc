from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tasks.broker.pubsub import EVENTS_CHANNEL, OUTCOMES_CHANNEL, WakeupListener, WakeupPublisher, subscribe
from tests.brokers import ValkeyBroker
from tests.waiting import eventually

SOON = 30


@pytest.fixture
def listener(valkey: ValkeyBroker) -> Iterator[WakeupListener]:
    listener = WakeupListener(valkey.url, [EVENTS_CHANNEL])
    listener.start()
    assert listener.wait_until_subscribed(SOON)
    assert listener.wait(SOON)
    yield listener
    listener.stop()


def test_a_wake_up_ends_the_wait(valkey: ValkeyBroker, listener: WakeupListener) -> None:
    WakeupPublisher(valkey.url).publish(EVENTS_CHANNEL)

    assert listener.wait(SOON)


def test_several_wake_ups_come_as_one(valkey: ValkeyBroker, listener: WakeupListener) -> None:
    waker = WakeupPublisher(valkey.url)
    for _ in range(5):
        waker.publish(EVENTS_CHANNEL)
    eventually(lambda: listener.wait(0))
    WakeupPublisher(valkey.url).publish(OUTCOMES_CHANNEL)

    eventually(lambda: not listener.wait(0))


def test_a_listener_hears_again_after_valkey_was_away(valkey: ValkeyBroker, listener: WakeupListener) -> None:
    valkey.stop()
    valkey.start()
    waker = WakeupPublisher(valkey.url)

    def heard() -> bool:
        waker.publish(EVENTS_CHANNEL)
        return listener.wait(0.1)

    eventually(heard)


def test_waking_nobody_over_a_valkey_that_is_away_is_no_error(valkey: ValkeyBroker) -> None:
    waker = WakeupPublisher(valkey.url)
    valkey.stop()

    waker.publish(EVENTS_CHANNEL)
    waker.publish(EVENTS_CHANNEL)


def test_without_a_url_one_polls() -> None:
    listener = WakeupListener(None, [EVENTS_CHANNEL])
    listener.start()
    WakeupPublisher(None).publish(EVENTS_CHANNEL)

    assert not listener.wait(0.01)

    listener.stop()


def test_stopping_ends_the_wait(listener: WakeupListener) -> None:
    listener.stop()

    assert listener.wait(SOON)


def test_the_gateway_hears_outcomes_also_after_valkey_was_away(valkey: ValkeyBroker) -> None:
    async def hear() -> list[tuple[str, str]]:
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        connected = asyncio.Event()
        listening = asyncio.create_task(
            subscribe(
                valkey.url,
                [OUTCOMES_CHANNEL],
                lambda channel, payload: heard.put_nowait((channel, payload)),
                on_listening=connected.set,
            )
        )
        said = []
        for payload in ("7 8", "9"):
            await asyncio.wait_for(connected.wait(), SOON)
            connected.clear()
            await asyncio.to_thread(WakeupPublisher(valkey.url).publish, OUTCOMES_CHANNEL, payload)
            said.append(await asyncio.wait_for(heard.get(), SOON))
            await asyncio.to_thread(valkey.stop)
            await asyncio.to_thread(valkey.start)
        listening.cancel()
        return said

    assert asyncio.run(hear()) == [(OUTCOMES_CHANNEL, "7 8"), (OUTCOMES_CHANNEL, "9")]
