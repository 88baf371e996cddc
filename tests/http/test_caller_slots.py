"""The limits on how many requests or streams a caller may have open, and how many reads it may run, at once."""

from __future__ import annotations

import asyncio

import pytest

from gateway.caller_slots import CallerQueues, CallerSlots
from models.refusals import TooManyRequests


def test_a_caller_may_have_only_so_many_slots_at_once() -> None:
    slots = CallerSlots(2)
    first = slots.take("a", seconds=1)
    slots.take("a", seconds=1)

    with pytest.raises(TooManyRequests):
        slots.take("a", seconds=1)

    slots.take("b", seconds=1)
    slots.free(first)
    slots.free(first)
    slots.take("a", seconds=1)
    with pytest.raises(TooManyRequests):
        slots.take("a", seconds=1)


def test_a_refusal_says_when_the_first_slot_will_be_free() -> None:
    now = 0.0
    slots = CallerSlots(2, clock=lambda: now)
    slots.take("a", seconds=9)
    slots.extend(slots.take("a", seconds=1), seconds=5)
    now = 0.5

    with pytest.raises(TooManyRequests) as refused:
        slots.take("a", seconds=1)

    assert refused.value.retry_after == 5


def test_work_of_one_caller_waits_for_its_turn_without_delaying_others() -> None:
    async def run() -> list[str]:
        queues = CallerQueues(2)
        done: list[str] = []
        may_end = asyncio.Event()

        async def work(caller: str, name: str) -> None:
            async with queues.turn(caller):
                done.append(f"{name} begins")
                await may_end.wait()

        tasks = [asyncio.create_task(work("loud", name)) for name in "abc"]
        tasks.append(asyncio.create_task(work("quiet", "d")))
        await asyncio.sleep(0)
        done.append("now")
        may_end.set()
        await asyncio.gather(*tasks)
        assert not queues._queues
        return done

    assert asyncio.run(run()) == ["a begins", "b begins", "d begins", "now", "c begins"]
