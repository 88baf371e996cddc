"""Ending the tasks that run in the background for as long as the gateway runs."""

from __future__ import annotations

import asyncio
from typing import Any, Final

CANCEL_AGAIN_SECONDS: Final = 0.5


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait until it has ended.

    Cancelling it once may not be enough: a library that is just connecting may turn the cancellation into an error of
    its own, which the task takes for an outage, so that it tries again.

    :raises Exception: the error with which the task ended.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_SECONDS)
    if not task.cancelled():
        task.result()
