"""A polling loop that survives errors and does not busy-wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from tasks.server_check import explain_refusal

POLL_SECONDS: Final = 0.5
"""How many seconds a loop without work waits for a wake-up before it polls again."""

ERROR_DELAYS_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""How many seconds a loop waits after the 1st, 2nd, … error in a row. The last delay repeats."""

log = structlog.get_logger(__name__)


def run_polling_loop(
    name: str, poll: Callable[[], bool], wait: Callable[[float], object], stop: threading.Event
) -> None:
    """Call ``poll`` until ``stop`` is set, and ``wait`` with ``POLL_SECONDS`` whenever ``poll`` has found no work.

    After an error, ``poll`` is called again after a delay. Only the first error of an outage is logged. Any work that
    was not committed is still waiting in its table.
    """
    errors = 0
    while not stop.is_set():
        try:
            found_work = poll()
        except Exception as error:
            if errors == 0:
                _log_error(name, error)
            stop.wait(ERROR_DELAYS_SECONDS[min(errors, len(ERROR_DELAYS_SECONDS) - 1)])
            errors += 1
            continue
        if errors:
            log.info("loop.recovered", loop=name, errors=errors)
            errors = 0
        if not found_work:
            wait(POLL_SECONDS)


def _log_error(name: str, error: Exception) -> None:
    if refusal := explain_refusal(error):
        log.error("loop.failed", loop=name, error=refusal)
    else:
        log.warning("loop.failed", loop=name, exc_info=error)
