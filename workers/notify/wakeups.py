"""The notifier's wake-ups, which tell it of the same events twice: over Valkey, and by messages of the event bus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from workers.runtime.polling import POLL_SECONDS

_NEVER: Final = float("-inf")


class Wakeups:
    """Merges wake-ups, so that the notifier looks for events once for each commit and not twice.

    A commit is followed by a wake-up over Valkey, and a little later, after the relay has published its events, by
    messages of the event bus. While wake-ups arrive over Valkey, the bus adds nothing: if one of them is lost, polling
    finds its events, as always.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without a wake-up. ``clock`` returns seconds."""
        self._clock = clock
        self._woken = threading.Event()
        self._from_valkey_at = _NEVER

    def wake_from_valkey(self) -> None:
        """Wake the notifier because of a wake-up over Valkey."""
        self._from_valkey_at = self._clock()
        self._woken.set()

    def wake_from_bus(self) -> None:
        """Wake the notifier because of events on the bus, unless Valkey has just done so."""
        if self._clock() - self._from_valkey_at > POLL_SECONDS:
            self._woken.set()

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for a wake-up, and return whether there was one, even before the call."""
        woken = self._woken.wait(seconds)
        self._woken.clear()
        return woken
