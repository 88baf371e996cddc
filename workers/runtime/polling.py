"""A polling loop that survives errors and does not busy-wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from tasks.outage_log import OutageLog

POLL_SECONDS: Final = 0.5
"""How many seconds a loop without work waits for a wake-up before it polls again."""

POLLS_BEFORE_REST: Final = 20
"""After how many polls in a row without work a loop is at rest. It then waits twice as long before each poll."""

ERROR_DELAYS_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""How many seconds a loop waits after the 1st, 2nd, … error in a row. The last delay repeats."""

log = structlog.get_logger(__name__)


def run_polling_loop(
    name: str, poll: Callable[[], bool], wait: Callable[[float], object], stop: threading.Event
) -> None:
    """Call ``poll`` until ``stop`` is set, and ``wait`` with ``POLL_SECONDS`` whenever ``poll`` has found no work.

    A loop that has found no work for a while waits with twice that. A wake-up ends each wait, so only work whose
    wake-up was lost is found later.

    After an error, ``poll`` is called again after a delay. An outage is logged once (:class:`OutageLog`). Any work that
    was not committed is still waiting in its table.
    """
    outage = OutageLog("loop.failed", loop=name)
    without_work = 0
    while not stop.is_set():
        try:
            found_work = poll()
        except Exception as error:
            outage.record_error(error)
            stop.wait(ERROR_DELAYS_SECONDS[min(outage.errors, len(ERROR_DELAYS_SECONDS)) - 1])
            continue
        if errors := outage.end():
            log.info("loop.recovered", loop=name, errors=errors)
        without_work = 0 if found_work else without_work + 1
        if not found_work:
            wait(POLL_SECONDS if without_work <= POLLS_BEFORE_REST else 2 * POLL_SECONDS)
