"""Logging of errors that repeat: once per outage, and as a sentence where an operator must act."""

from __future__ import annotations

from typing import Any

import structlog

from tasks.server_check import explain_refusal

log = structlog.get_logger(__name__)


class OutageLog:
    """Logs the first error of an outage, and any later error that has another explanation.

    A refused login, an unknown database or a missing schema is logged as a sentence, any other error with a traceback.
    """

    def __init__(self, event: str, **facts: Any) -> None:
        """Log under this event, with these facts."""
        self._event = event
        self._facts = facts
        self._explanations: set[str | None] = set()
        self.errors = 0

    def record_error(self, error: Exception) -> None:
        """Count an error, and log it if it is new in this outage."""
        self.errors += 1
        explanation = explain_refusal(error)
        if explanation in self._explanations:
            return
        self._explanations.add(explanation)
        if explanation is None:
            log.warning(self._event, **self._facts, exc_info=error)
        else:
            log.error(self._event, **self._facts, error=explanation)

    def end(self) -> int:
        """End the outage, if there is one. Return how many errors occurred during it."""
        errors, self.errors = self.errors, 0
        self._explanations.clear()
        return errors
