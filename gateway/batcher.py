"""Batching without a timer: requests that arrive while a batch is in flight form the next batch.

A single request therefore never waits for others to arrive.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from models.refusals import Unavailable

MAX_QUEUED = 2000
"""The maximum number of requests that may wait for the next batch. Further requests are refused."""

Request = TypeVar("Request")
Result = TypeVar("Result")


class Batcher(Generic[Request, Result]):
    """Collects requests and runs them in batches.

    ``run`` returns a result or an exception for each request, in the order of the requests. At most ``max_in_flight``
    batches of at most ``max_size`` requests run at once. A batch that takes longer than ``timeout_seconds`` is
    cancelled. Cancelling a caller does not cancel its batch.
    """

    def __init__(
        self,
        run: Callable[[list[Request]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_size: int,
        timeout_seconds: float,
        max_in_flight: int = 1,
    ) -> None:
        self._run = run
        self._max_size = max_size
        self._timeout_seconds = timeout_seconds
        self._free = max_in_flight
        self._waiting: deque[tuple[Request, asyncio.Future[Result]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, request: Request, *, deadline: float | None = None) -> Result:
        """Run a request in the next batch and return its result. ``deadline`` is in event-loop time.

        :raises Unavailable: if too many requests are waiting, the batch times out, or the deadline passes. The request
            may still have taken effect.
        """
        if len(self._waiting) >= MAX_QUEUED:
            raise Unavailable
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((request, future))
        if self._free:
            self._start()
        if deadline is None:
            return await future
        timer = loop.call_at(deadline, _expire, future)
        try:
            return await future
        finally:
            timer.cancel()

    async def stop(self) -> None:
        """Wait until the batches in flight have finished."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self) -> None:
        self._free -= 1
        # A batch belongs to many requests: it must not log under the id of the one that started it.
        task = asyncio.get_running_loop().create_task(self._run_batches(), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_batches(self) -> None:
        try:
            while batch := self._next_batch():
                await self._run_batch(batch)
        finally:
            self._free += 1

    def _next_batch(self) -> list[tuple[Request, asyncio.Future[Result]]]:
        batch: list[tuple[Request, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_size:
            request, future = self._waiting.popleft()
            # A request that was refused at its deadline must not take effect afterwards. A cancelled one may.
            if future.cancelled() or not future.done():
                batch.append((request, future))
        return batch

    async def _run_batch(self, batch: list[tuple[Request, asyncio.Future[Result]]]) -> None:
        results: Sequence[Result | Exception]
        try:
            results = await _within(self._timeout_seconds, self._run([request for request, _ in batch]))
        except Exception as error:
            # Every request in the batch fails with the batch's error.
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


async def _within(seconds: float, work: Awaitable[Sequence[Result | Exception]]) -> Sequence[Result | Exception]:
    # Not `wait_for`: it waits until the task has ended, and a database driver may be slow to react to cancellation.
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=seconds)
    if task.done():
        return task.result()
    task.cancel()
    task.add_done_callback(_consume_exception)
    raise Unavailable


def _consume_exception(task: asyncio.Future[Sequence[Result | Exception]]) -> None:
    if not task.cancelled():
        task.exception()


def _expire(future: asyncio.Future[Result]) -> None:
    if not future.done():
        future.set_exception(Unavailable())
