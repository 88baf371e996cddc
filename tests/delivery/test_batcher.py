"""What several tasks write at the same time is written together, and a failure reaches everyone whose item it was."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from workers.deliver.batcher import MOST, Batcher

pytestmark = pytest.mark.unit


def test_what_arrives_while_a_batch_is_written_is_the_next_batch() -> None:
    batches: list[list[int]] = []
    started = asyncio.Event()

    async def write(batch: Sequence[int]) -> None:
        batches.append(list(batch))
        started.set()
        await asyncio.sleep(0)

    async def run() -> None:
        batcher = Batcher(write)
        first = asyncio.create_task(batcher.submit(1))
        await started.wait()
        await asyncio.gather(first, batcher.submit(2), batcher.submit(3))
        await batcher.submit(4)

    asyncio.run(run())

    assert batches == [[1], [2, 3], [4]]


def test_items_are_collected_for_a_pause() -> None:
    batches: list[list[int]] = []

    async def write(batch: Sequence[int]) -> None:
        batches.append(list(batch))

    async def later(batcher: Batcher[int], item: int) -> None:
        await asyncio.sleep(0)
        await batcher.submit(item)

    async def run() -> None:
        batcher = Batcher(write, pause_seconds=0.1)
        await asyncio.gather(batcher.submit(1), later(batcher, 2), batcher.submit(3))

    asyncio.run(run())

    assert batches == [[1, 3, 2]]


def test_a_batch_is_not_larger_than_the_limit() -> None:
    sizes: list[int] = []

    async def write(batch: Sequence[int]) -> None:
        sizes.append(len(batch))

    async def run() -> None:
        batcher = Batcher(write)
        await asyncio.gather(*(batcher.submit(number) for number in range(MOST + 1)))

    asyncio.run(run())

    assert sizes == [MOST, 1]


def test_a_failure_is_raised_for_every_item_of_its_batch_and_no_other() -> None:
    async def write(batch: Sequence[int]) -> None:
        if 2 in batch:
            raise ValueError("two")
        await asyncio.sleep(0)

    async def run() -> list[BaseException | None]:
        batcher = Batcher(write)
        failed = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
        return [*failed, *await asyncio.gather(batcher.submit(3), return_exceptions=True)]

    first, second, third = asyncio.run(run())

    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert third is None


def test_a_cancelled_task_does_not_keep_the_others_from_being_written() -> None:
    written: list[int] = []

    async def write(batch: Sequence[int]) -> None:
        await asyncio.sleep(0)
        written.extend(batch)

    async def run() -> None:
        batcher = Batcher(write)
        cancelled, other = (asyncio.create_task(batcher.submit(number)) for number in (1, 2))
        await asyncio.sleep(0)
        cancelled.cancel()
        await other

    asyncio.run(run())

    assert 2 in written
