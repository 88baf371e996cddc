"""Looks at a broker that hangs: one thread waits for it, and nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import broker_inspector
from gateway.broker_inspector import BrokerInspector


class HangingBroker:
    """A broker whose connections hang until it is released."""

    def __init__(self) -> None:
        self.connections = 0
        self.released = threading.Event()

    def connection_for_write(self) -> Any:
        self.connections += 1
        self.released.wait(60)
        raise ConnectionError("the broker is gone")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingBroker]:
    monkeypatch.setattr(broker_inspector, "BROKER_SECONDS", 0.01)
    hanging = HangingBroker()
    yield hanging
    hanging.released.set()


def test_many_looks_at_a_broker_that_hangs_take_one_thread_and_leave_others_free(broker: HangingBroker) -> None:
    inspector = BrokerInspector(broker)

    async def run() -> tuple[list[object], str]:
        looks = [inspector.look("topology", lambda _: "fine") for _ in range(100)]
        return await asyncio.gather(*looks, return_exceptions=True), await asyncio.to_thread(lambda: "free")

    found, other = asyncio.run(run())
    inspector.close()

    assert {type(each) for each in found} == {TimeoutError}
    assert (broker.connections, other) == (1, "free")


def test_a_look_after_the_last_one_has_ended_is_a_new_one(
    broker: HangingBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_inspector, "BROKER_SECONDS", 60)
    broker.released.set()
    inspector = BrokerInspector(broker)

    async def run() -> None:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await inspector.look("topology", lambda _: "fine")

    asyncio.run(run())
    inspector.close()

    assert broker.connections == 2
