"""The ids that connect a request with the commands, events and follow-up commands that result from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Trace(NamedTuple):
    """The ids of the request that led to a command or an event.

    ``request_id`` is the value of the ``X-Request-Id`` header, at most 128 visible ASCII characters. ``traceparent`` is
    the W3C Trace Context header as the caller sent it. Both are ``None`` if tocsin acted on its own.
    """

    request_id: str | None = None
    traceparent: str | None = None


NO_TRACE = Trace()


class Traced(Protocol):
    """A command or an event that keeps the trace ids of its request."""

    @property
    def request_id(self) -> str | None:
        """The request's id."""

    @property
    def traceparent(self) -> str | None:
        """The request's ``traceparent`` header."""


def log_ids(traced: Iterable[Traced]) -> dict[str, list[str]]:
    """Return the distinct request ids and trace ids in order of appearance, for a log line about many rows.

    The gateway binds a request's ids in the log context. A batch has the ids of many requests, and each line is about
    other rows of it, so workers, relay and notifier pass the ids of those rows to each line.

    The trace id is the second field of ``traceparent``.
    """
    rows = list(traced)
    return {
        "request_ids": list(dict.fromkeys(row.request_id for row in rows if row.request_id is not None)),
        "trace_ids": list(dict.fromkeys(row.traceparent.split("-")[1] for row in rows if row.traceparent is not None)),
    }
