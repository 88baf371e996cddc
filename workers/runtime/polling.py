"""A polling loop that survives errors and does not busy-wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from tasks.outage_log import OutageLog

POLL_SECONDS: Final = 0.5
"""How many seconds a loop without work waits for a wake-up before it polls again."""

ERROR_DELAYS_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""How many seconds a loop waits after the 1st, 2nd, … error in a row. The last delay repeats."""

log = structlog.get_logger(__name__)


def run_polling_loop(
    name: str, poll: Callable[[], bool], wait: Callable[[float], object], stop: threading.Event
) -> None:
    """Call ``poll`` until ``stop`` is set, and ``wait`` with ``POLL_SECONDS`` whenever ``poll`` has found no work.

    After an error, ``poll`` is called again after a delay. An outage is logged once (:class:`OutageLog`). Any work that
    was not committed is still waiting in its table.
    """
    outage = OutageLog("loop.failed", loop=name)
    while not stop.is_set():
        try:
            found_work = poll()
        except Exception as error:
            outage.record_error(error)
            stop.wait(ERROR_DELAYS_SECONDS[min(outage.errors, len(ERROR_DELAYS_SECONDS)) - 1])
            continue
        if errors := outage.end():
            log.info("loop.recovered", loop=name, errors=errors)
        if not found_work:
            wait(POLL_SECONDS)
