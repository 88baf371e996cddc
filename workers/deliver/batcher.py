"""Writing what several tasks have to write in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

MOST: Final = 200
"""How many items are written together at most."""

T = TypeVar("T")


class Batcher(Generic[T]):
    """Writes items in batches. What arrives while a batch is being written belongs to the next one."""

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[None]], *, pause_seconds: float = 0.0) -> None:
        """Set up the batcher. ``write`` writes a batch, for which items are collected for ``pause_seconds``."""
        self._write = write
        self._pause_seconds = pause_seconds
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> None:
        """Return once the item has been written.

        :raises Exception: if its batch could not be written, because of this item or another one.
        """
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        self._waiting.append((item, written))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        await written

    async def close(self) -> None:
        """Stop writing. What waits is not written."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            if len(self._waiting) < MOST:
                await asyncio.sleep(self._pause_seconds)
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            error: Exception | None = None
            try:
                await self._write([item for item, _ in batch])
            except Exception as raised:
                error = raised
            for _, written in batch:
                # Whoever waited for it may have been cancelled.
                if written.done():
                    continue
                if error is None:
                    written.set_result(None)
                else:
                    written.set_exception(error)
