"""Guarded HTTP for Apprise: every connection goes to an address that was judged, within a time limit, once.

Apprise's plugins call the functions of the library ``requests``, which make a session for each call.
:func:`install` replaces that session for the whole process with one that

* resolves a name once, has every address judged (:mod:`models.notifications.network_guard`), and connects to an address
  that was judged;
* follows no redirects, and uses no proxies and no passwords from the environment;
* reads a bounded answer, and is cut off when the time of the message is over;
* ends a message at the answer 429, to which some plugins react by waiting and trying again;
* notes the status of each answer, which Apprise does not report.

Outside :func:`sending`, requests fail: nothing is sent unguarded. See docs/decisions/0034-chat.md.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import requests.api
from apprise.utils.http import ConnectionTracker, HTTPPolicy, HTTPPolicySession, track_connections

from models.notifications.network_guard import ForbiddenTarget, NetworkGuard
from workers.deliver.http_sender import parse_retry_after

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 10.0
TOTAL_SECONDS: Final = 15.0
MAX_ANSWER_BYTES: Final = 64 * 1024

_TOO_MANY_REQUESTS: Final = 429
_CHUNK_BYTES: Final = 8192

Resolve = Callable[[str, int], Sequence[Any]]
"""A function that resolves a host and a port, with the result of :func:`socket.getaddrinfo`."""


@dataclass(slots=True)
class Sending:
    """The requests of one message.

    ``statuses`` holds the status of each answer. ``forbidden`` says why a connection was refused, ``is_timeout`` tells
    that an answer was awaited in vain, so that the message may have arrived, and ``is_unreachable`` that there was no
    connection.
    """

    policy: _GuardedPolicy
    ca_file: str | None
    tracker: ConnectionTracker = field(default_factory=ConnectionTracker)
    requests: int = 0
    statuses: list[int] = field(default_factory=list)
    retry_after_seconds: float | None = None
    is_timeout: bool = False
    is_unreachable: bool = False

    @property
    def forbidden(self) -> str | None:
        """A sentence that says why a connection was refused, if one was."""
        return self.policy.forbidden

    @property
    def is_cut_off(self) -> bool:
        """Whether the time was over before the answer was complete."""
        return self.is_timeout or self.tracker.expired


class _GuardedPolicy(HTTPPolicy):
    """Judges the URLs and the addresses of one message. Its requests follow one another."""

    def __init__(self, guard: NetworkGuard, resolve: Resolve | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._guard = guard
        self._resolve = resolve
        self._scheme = "https"
        self.forbidden: str | None = None

    def validate_url(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            self._scheme = self._guard.check_url(f"{parts.scheme}://{parts.netloc}/").scheme
        except ForbiddenTarget as error:
            self.forbidden = str(error)
            raise requests.exceptions.InvalidURL("refused by tocsin") from None

    def resolve(self, host: str, port: int) -> Sequence[Any]:
        found = self._resolve(host, port) if self._resolve else super().resolve(host, port)  # type: ignore[no-untyped-call]
        try:
            self._guard.check_addresses(self._scheme, [each[4][0] for each in found])
        except ForbiddenTarget as error:
            self.forbidden = str(error)
            raise socket.gaierror(socket.EAI_NONAME, "refused by tocsin") from None
        return found


class _GuardedSession(HTTPPolicySession):
    """The session of one request, within a message."""

    def __init__(self) -> None:
        sending = _current.get()
        if sending is None:
            raise requests.exceptions.ConnectionError("tocsin is not sending a message")
        super().__init__(sending.policy)  # type: ignore[no-untyped-call]
        self._sending = sending

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        sending = self._sending
        if _TOO_MANY_REQUESTS in sending.statuses:
            raise requests.exceptions.ConnectionError("the service asked for a pause")
        is_streamed = options.get("stream", False)
        options |= {"allow_redirects": False, "stream": True, "timeout": (CONNECT_SECONDS, READ_SECONDS)}
        options |= {"verify": sending.ca_file or True, "proxies": {}}
        sending.requests += 1
        try:
            response: requests.Response = super().send(request, **options)  # type: ignore[no-untyped-call]
            sending.statuses.append(response.status_code)
            if not is_streamed:
                _read(response)
        except requests.exceptions.ConnectTimeout:
            sending.is_unreachable = True
            raise
        except requests.exceptions.Timeout:
            sending.is_timeout = True
            raise
        except requests.exceptions.ConnectionError:
            sending.is_unreachable = True
            raise
        if response.status_code == _TOO_MANY_REQUESTS:
            sending.retry_after_seconds = parse_retry_after(response.headers.get("Retry-After"))
            response.close()
            raise requests.exceptions.ConnectionError("the service asked for a pause")
        return response


_current: ContextVar[Sending | None] = ContextVar("chat_sending", default=None)


def install() -> None:
    """Replace the session of ``requests``' functions. It may be called any number of times."""
    vars(requests.api)["sessions"] = SimpleNamespace(Session=_GuardedSession)


@contextmanager
def sending(
    guard: NetworkGuard, *, resolve: Resolve | None = None, ca_file: str | None = None, seconds: float = TOTAL_SECONDS
) -> Iterator[Sending]:
    """Guard the requests that the ``with`` block makes, and cut them off after some seconds."""
    if getattr(vars(requests.api)["sessions"], "Session", None) is not _GuardedSession:
        raise RuntimeError("install() has not been called, or something else has replaced the session")
    message = Sending(_GuardedPolicy(guard, resolve), ca_file)
    token = _current.set(message)
    try:
        with track_connections(message.tracker, time.monotonic() + seconds):
            yield message
    finally:
        _current.reset(token)


def _read(response: requests.Response) -> None:
    """Read a bounded part of the answer, and close the connection."""
    content = bytearray()
    try:
        for chunk in response.iter_content(_CHUNK_BYTES):
            content += chunk
            if len(content) > MAX_ANSWER_BYTES:
                break
    except requests.exceptions.RequestException:
        # The status counts. A server that never ends its answer has got the message.
        if not response.ok:
            raise
    response._content = bytes(content[:MAX_ANSWER_BYTES])
    response._content_consumed = True
    response.close()
