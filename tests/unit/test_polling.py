"""The loop that polls for work between wake-ups."""

from __future__ import annotations

import threading

from workers.runtime.polling import POLL_SECONDS, POLLS_BEFORE_REST, run_polling_loop


def test_a_loop_without_work_waits_longer_once_it_is_at_rest() -> None:
    found = iter([False] * (POLLS_BEFORE_REST + 1) + [True, False])
    stop, waits = threading.Event(), list[float]()

    def poll() -> bool:
        work = next(found, None)
        if work is None:
            stop.set()
        return bool(work)

    run_polling_loop("test", poll, waits.append, stop)

    # After the last result, the loop polls once more and stops.
    assert waits[:-1] == [POLL_SECONDS] * POLLS_BEFORE_REST + [2 * POLL_SECONDS, POLL_SECONDS]
