"""The notifier's wake-ups."""

from __future__ import annotations

from workers.notify.wakeups import Wakeups
from workers.runtime.polling import POLL_SECONDS


def test_the_bus_does_not_wake_the_notifier_again_for_what_valkey_has_just_announced() -> None:
    wakeups = Wakeups(clock=lambda: 100.0)

    wakeups.wake_from_valkey()
    assert wakeups.wait(0)
    wakeups.wake_from_bus()

    assert not wakeups.wait(0)


def test_the_bus_wakes_the_notifier_while_no_wake_ups_arrive_over_valkey() -> None:
    now = [100.0]
    wakeups = Wakeups(clock=lambda: now[0])

    wakeups.wake_from_bus()
    assert wakeups.wait(0)

    wakeups.wake_from_valkey()
    assert wakeups.wait(0)
    now[0] += 2 * POLL_SECONDS
    wakeups.wake_from_bus()
    assert wakeups.wait(0)


def test_a_wake_up_before_the_wait_is_not_lost() -> None:
    wakeups = Wakeups()

    wakeups.wake_from_valkey()

    assert wakeups.wait(0)
    assert not wakeups.wait(0)
