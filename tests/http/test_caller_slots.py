"""The limit on how many requests or streams a caller may have open at the same time."""

from __future__ import annotations

import pytest

from gateway.caller_slots import CallerSlots
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
