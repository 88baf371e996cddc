"""The position in the event stream, without I/O: where to resume, and which events have been received."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Final
from urllib.parse import quote

from tocsin_client._protocol import RETRYABLE_STATUSES, HttpProtocol, Request, Response, checked_body, log
from tocsin_client.results import Event

STREAM_TIMEOUT_SECONDS: Final = 45.0
"""Three heartbeat intervals. An event stream that sends no data for this long is considered broken."""

MAX_REMEMBERED_EVENTS: Final = 10_000

_UNKNOWN_ID: Final = "00000000-0000-0000-0000-000000000000"
"""An id that no event has. To resume after it, the server replays all events that it keeps for the stream."""


class EventCursor:
    """A client's position in the event stream."""

    def __init__(
        self, protocol: HttpProtocol, *, incident: int | str | None, last_id: str | None, from_start: bool
    ) -> None:
        if from_start and last_id is not None:
            raise ValueError("follow takes last_id or from_start, not both")
        self._protocol = protocol
        self._incident = incident
        self._last_id = _UNKNOWN_ID if from_start else last_id
        self._seen_ids: OrderedDict[str, None] = OrderedDict()
        self._attempt = 0

    def request(self) -> Request:
        """Return the request that opens the stream after the last event."""
        headers = self._protocol.headers() | {"Accept": "text/event-stream"}
        if self._last_id is not None:
            headers["Last-Event-ID"] = self._last_id
        query = "" if self._incident is None else f"?incident={quote(str(self._incident), safe='')}"
        return Request("GET", self._protocol.path("events/") + query, headers, STREAM_TIMEOUT_SECONDS)

    def opens(self, response: Response) -> bool:
        """Return whether the response is an event stream. If not, the request should be retried.

        :raises Refused: if the caller may not follow these events.
        """
        if response.status in RETRYABLE_STATUSES or response.status >= 500:
            return False
        checked_body(response)
        if self._attempt:
            log.info("following events again, after the event %s", self._last_id)
        self._attempt = 0
        return True

    def advance(self, id_: str, data: str) -> Event | None:
        """Move past a message in the stream and return its event.

        Return ``None`` if the message has no event, or one that was received before.
        """
        self._last_id = id_ or self._last_id
        if not data or id_ in self._seen_ids:
            return None
        self._seen_ids[id_] = None
        if len(self._seen_ids) > MAX_REMEMBERED_EVENTS:
            self._seen_ids.popitem(last=False)
        return Event.from_json(json.loads(data))

    def backoff(self, reason: str) -> float:
        """Return the delay in seconds before the stream is opened again. ``reason`` says why it ended, for the log."""
        seconds = self._protocol.backoff(self._attempt)
        self._attempt += 1
        log.warning("the event stream was interrupted, reconnecting in %.1f s: %s", seconds, reason)
        return seconds
