"""The batcher: requests that arrive while a batch is in flight form the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway import batcher
from gateway.batcher import Batcher
from models.refusals import Unavailable


class FakeLedger:
    """A stand-in for the ledger: doubles the numbers in a batch once released; negative numbers cause an error."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.released = asyncio.Event()

    async def run(self, numbers: list[int]) -> Sequence[int | Exception]:
        self.batches.append(numbers)
        await self.released.wait()
        return [ValueError(number) if number < 0 else 2 * number for number in numbers]

    async def wait_for_batches(self, batches: int) -> None:
        while len(self.batches) < batches:  # noqa: ASYNC110 - a few iterations of the loop
            await asyncio.sleep(0)


def test_the_first_request_runs_at_once_and_later_ones_are_batched() -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        batcher = Batcher(ledger.run, max_size=10, timeout_seconds=5)
        first = asyncio.create_task(batcher.submit(1))
        await ledger.wait_for_batches(1)
        others = [asyncio.create_task(batcher.submit(number)) for number in (2, 3, 4)]
        await asyncio.sleep(0)

        ledger.released.set()

        assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
        assert ledger.batches == [[1], [2, 3, 4]]

    asyncio.run(scenario())


def test_an_error_affects_only_its_own_request() -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        ledger.released.set()
        batcher = Batcher(ledger.run, max_size=10, timeout_seconds=5)

        responses = await asyncio.gather(batcher.submit(1), batcher.submit(-1), return_exceptions=True)

        assert (responses[0], type(responses[1])) == (2, ValueError)

    asyncio.run(scenario())


def test_a_cancelled_request_still_runs_but_an_expired_one_does_not() -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        batcher = Batcher(ledger.run, max_size=10, timeout_seconds=5)
        first = asyncio.create_task(batcher.submit(1))
        await ledger.wait_for_batches(1)
        cancelled = asyncio.create_task(batcher.submit(2))
        late = asyncio.create_task(batcher.submit(3, deadline=asyncio.get_running_loop().time()))
        with pytest.raises(Unavailable):
            await late
        cancelled.cancel()

        ledger.released.set()
        await first
        await batcher.stop()

        assert ledger.batches == [[1], [2]]

    asyncio.run(scenario())


def test_a_batch_that_times_out_is_abandoned_and_the_next_one_runs() -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        batcher = Batcher(ledger.run, max_size=10, timeout_seconds=0.01)
        with pytest.raises(Unavailable):
            await batcher.submit(1)

        ledger.released.set()

        assert await batcher.submit(2) == 4

    asyncio.run(scenario())


def test_requests_are_refused_when_too_many_are_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "MAX_QUEUED", 2)

    async def scenario() -> None:
        ledger = FakeLedger()
        batcher = Batcher(ledger.run, max_size=10, timeout_seconds=5)
        waiting = [asyncio.create_task(batcher.submit(1))]
        await ledger.wait_for_batches(1)
        waiting += [asyncio.create_task(batcher.submit(number)) for number in (2, 3)]
        await asyncio.sleep(0)

        with pytest.raises(Unavailable):
            await batcher.submit(4)

        ledger.released.set()
        assert await asyncio.gather(*waiting) == [2, 4, 6]

    asyncio.run(scenario())
