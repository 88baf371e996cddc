"""Natural batching: what arrives while a batch is in flight goes together as the next one.

There is no timer: one request alone never waits for company.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from models.refusals import Unavailable

MAX_WAITING = 2000
"""How many may wait for the next batch; whoever comes then is told to come back."""

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")


class Batcher(Generic[Ask, Answer]):
    """Collects requests and runs them together; ``run`` gives each its answer, or the error that is its own.

    At most ``in_flight`` batches of at most ``most`` requests run at once. A batch that takes longer than ``seconds``
    is given up. A caller that hangs up cancels nothing.
    """

    def __init__(
        self,
        run: Callable[[list[Ask]], Awaitable[Sequence[Answer | Exception]]],
        *,
        max_size: int,
        timeout_seconds: float,
        max_in_flight: int = 1,
    ) -> None:
        self._run = run
        self._most = max_size
        self._seconds = timeout_seconds
        self._free = max_in_flight
        self._waiting: deque[tuple[Ask, asyncio.Future[Answer]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, request: Ask, *, deadline: float | None = None) -> Answer:
        """Go with the next batch. ``deadline`` is a time of the event loop's clock.

        :raises Unavailable: too many wait, or the deadline passed; the batch may have done its work nevertheless.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((request, future))
        if self._free:
            self._start()
        if deadline is None:
            return await future
        alarm = loop.call_at(deadline, _expire, future)
        try:
            return await future
        finally:
            alarm.cancel()

    async def stop(self) -> None:
        """Let the batches in flight end."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self) -> None:
        self._free -= 1
        task = asyncio.get_running_loop().create_task(self._work_off())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work_off(self) -> None:
        try:
            while batch := self._next_batch():
                await self._answer(batch)
        finally:
            self._free += 1

    def _next_batch(self) -> list[tuple[Ask, asyncio.Future[Answer]]]:
        batch: list[tuple[Ask, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._most:
            request, future = self._waiting.popleft()
            # Whoever was told "unavailable" while waiting is not served behind their back; whoever hung up is.
            if future.cancelled() or not future.done():
                batch.append((request, future))
        return batch

    async def _answer(self, batch: list[tuple[Ask, asyncio.Future[Answer]]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = await _within(self._seconds, self._run([request for request, _ in batch]))
        except Exception as fault:
            # Handed to everyone who waits for this batch: they turn it into an answer.
            answers = [fault] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


async def _within(seconds: float, work: Awaitable[Sequence[Answer | Exception]]) -> Sequence[Answer | Exception]:
    # Not `wait_for`: a database driver may need long to notice that it was cancelled, and nobody waits for that.
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=seconds)
    if task.done():
        return task.result()
    task.cancel()
    task.add_done_callback(_forget)
    raise Unavailable


def _forget(task: asyncio.Future[Sequence[Answer | Exception]]) -> None:
    if not task.cancelled():
        task.exception()


def _expire(future: asyncio.Future[Answer]) -> None:
    if not future.done():
        future.set_exception(Unavailable())
