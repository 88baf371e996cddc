"""The HTTP/1.1 protocol of uvicorn, with limits on the size of a request's head and on the time that it may take.

httptools has neither limit: a client could fill the memory with one endless header, or hold a connection for ever.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, ClassVar, Final

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.http.responses import encode_json

HEAD_LIMIT_BYTES: Final = 64 * 1024
"""The maximum size of a request's line and headers together."""

HEAD_SECONDS: Final = 10.0
"""How long a request's line and headers may take, from their first byte to their last one."""

TOO_LARGE: Final = f"The request line and the headers may not exceed {HEAD_LIMIT_BYTES} bytes."
TOO_SLOW: Final = f"The request line and the headers must arrive within {HEAD_SECONDS:.0f} seconds."


class BoundedProtocol(HttpToolsProtocol):
    """Answers 431 to a head that is too large and 408 to one that is too slow, and closes the connection.

    A connection on which nothing is sent is closed after the time for which idle connections are kept.
    """

    head_seconds: ClassVar[float] = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._is_in_body = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """End all waits."""
        self._stop_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data, unless it makes a head too large."""
        if not self._is_in_body:
            self._head_bytes += len(data)
            self._start_timer()
        super().data_received(data)
        if not self._is_in_body and self._head_bytes > HEAD_LIMIT_BYTES and self._may_refuse():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin to read a request, whose first bytes may have arrived together with the request before it."""
        super().on_message_begin()
        self._start_timer()

    def on_headers_complete(self) -> None:
        """Begin to handle a request, or refuse it if its head is too large."""
        self._is_in_body = True
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size <= HEAD_LIMIT_BYTES:
            super().on_headers_complete()
            return
        app, self.app = self.app, _refuse_head
        try:
            super().on_headers_complete()
        finally:
            self.app = app

    def on_message_complete(self) -> None:
        """Begin to count the bytes of the next request's head."""
        super().on_message_complete()
        self._is_in_body = False
        self._head_bytes = 0

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self._may_refuse():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, TOO_SLOW)

    def _may_refuse(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        # Earlier requests on this connection may still be unanswered. Then there is no place for this answer.
        if self.cycle is None or self.cycle.response_complete:
            body = encode_json({"detail": detail})
            self.transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
                + body
            )
        self.transport.close()


async def _refuse_head(_scope: Scope, _receive: Receive, send: Send) -> None:
    body = encode_json({"detail": TOO_LARGE})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE.value
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
