"""Questions to a server that may not answer, and whose time limits cannot be relied on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Inquiry(Generic[T]):
    """A question that is asked in a thread of its own, because a connection attempt may ignore its time limit."""

    def __init__(self, ask: Callable[[], T], *, name: str) -> None:
        """Ask at once. The thread has this name, and ends with the process."""
        self._ask = ask
        self._answer: T | Exception | None = None
        self._answered = threading.Event()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def wait(self, seconds: float) -> T:
        """Return the answer.

        :raises TimeoutError: there is none after so many seconds. It may still come: wait again.
        :raises Exception: the question failed with this error.
        """
        if not self._answered.wait(seconds):
            raise TimeoutError("it does not answer")
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer  # type: ignore[return-value]  # it has been set

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except Exception as error:
            self._answer = error
        finally:
            self._answered.set()
