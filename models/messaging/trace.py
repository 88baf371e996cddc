"""The ids that connect a request with the commands, events and follow-up commands that result from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Trace(NamedTuple):
    """The ids of the request that led to a command or an event.

    ``request_id`` is the value of the ``X-Request-Id`` header, at most 128 visible ASCII characters. ``traceparent`` is
    the W3C Trace Context header as the caller sent it. Both are ``None`` if tocsin acted on its own.
    """

    request_id: str | None = None
    traceparent: str | None = None


NO_TRACE = Trace()


def request_ids(ids: Iterable[str | None]) -> list[str]:
    """Return the distinct request ids in order of first appearance, for a log line about many commands or events."""
    return list(dict.fromkeys(id_ for id_ in ids if id_ is not None))
