"""Ending tasks that run in the background."""

from __future__ import annotations

import asyncio

import pytest

from gateway.background import end_task


def test_a_task_that_takes_its_cancellation_for_an_outage_ends_nevertheless() -> None:
    cancellations = 0

    async def reconnect_for_ever() -> None:
        nonlocal cancellations
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancellations += 1
                if cancellations > 1:
                    raise

    async def run() -> None:
        task = asyncio.create_task(reconnect_for_ever())
        await asyncio.sleep(0)
        await end_task(task)

    asyncio.run(run())

    assert cancellations == 2


def test_the_error_of_a_task_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    async def run() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await end_task(task)

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(run())
