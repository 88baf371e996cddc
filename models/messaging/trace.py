"""The ids that connect a request with its commands, their events and follow-up commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Trace(NamedTuple):
    """The request that a command or an event results from.

    ``request_id`` is the value of the ``X-Request-Id`` header, at most 128 visible ASCII characters. ``traceparent`` is
    the header of W3C Trace Context as the caller sent it. Both are ``None`` for what tocsin does on its own.
    """

    request_id: str | None = None
    traceparent: str | None = None


NO_TRACE = Trace()


def request_ids(ids: Iterable[str | None]) -> list[str]:
    """Return the distinct request ids in order of appearance, for a log line about many commands or events."""
    return list(dict.fromkeys(id_ for id_ in ids if id_ is not None))
