"""The loop of a process that works in rounds: it never ends by a fault, and never turns on the spot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

POLL_SECONDS: Final = 0.5
"""How long a loop with nothing to do waits for a wake-up before it looks anyway."""

ERROR_DELAYS_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""How long a loop waits after the 1st, 2nd, … fault in a row; then always the last."""

log = structlog.get_logger(__name__)


def run_polling_loop(
    name: str, one_round: Callable[[], bool], rest: Callable[[float], object], stop: threading.Event
) -> None:
    """Repeat ``one_round`` until ``stop`` is set; it says whether it found work, and if not the loop rests.

    Whatever a round raises is logged, once per outage, and the round is tried again after a pause: what it did not
    commit still waits in its table.
    """
    faults = 0
    while not stop.is_set():
        try:
            found_work = one_round()
        except Exception as fault:
            if faults == 0:
                log.warning("rounds.fault", loop=name, exc_info=fault)
            stop.wait(ERROR_DELAYS_SECONDS[min(faults, len(ERROR_DELAYS_SECONDS) - 1)])
            faults += 1
            continue
        if faults:
            log.info("rounds.well_again", loop=name, faults=faults)
            faults = 0
        if not found_work:
            rest(POLL_SECONDS)
