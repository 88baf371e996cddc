"""A road to a server that breaks when it is told to."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

CUT = "cut in mid-answer"
BUSY = "503"
SLOW_DOWN = "429"
GONE = "cut before anything is sent"

_TOLD = {
    BUSY: b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
    SLOW_DOWN: b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
}


class Road:
    """Takes connections to a server, each as the next of ``troubles`` says; without any it lets everything pass."""

    def __init__(self, url: str, troubles: Iterable[str]) -> None:
        self._troubles = iter(troubles)
        self.leads_to(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._near: set[socket.socket] = set()
        self.taken: list[str | None] = []
        threading.Thread(target=self._take, daemon=True).start()

    def leads_to(self, url: str) -> None:
        """From now on it leads to another server."""
        self._target = (str(urlsplit(url).hostname), urlsplit(url).port or 80)

    def breaks(self) -> None:
        """Whoever is on it is cut off."""
        for near in self._near.copy():
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                trouble = next(self._troubles, None)
                self.taken.append(trouble)
                self._near.add(near)
                threading.Thread(target=self._carry, args=(near, trouble), daemon=True).start()

    def _carry(self, near: socket.socket, trouble: str | None) -> None:
        with near, contextlib.suppress(OSError):
            if trouble == GONE:
                return
            request = _whole_request(near)
            if trouble in _TOLD:
                near.sendall(_TOLD[trouble])
                return
            with socket.create_connection(self._target) as far:
                far.sendall(request)
                if trouble == CUT:
                    near.sendall(far.recv(1 << 20)[:20])
                    return
                back = threading.Thread(target=_pour, args=(far, near), daemon=True)
                back.start()
                _pour(near, far)
                back.join()


def _whole_request(near: socket.socket) -> bytes:
    request = near.recv(1 << 16)
    while b"\r\n\r\n" not in request:
        request += near.recv(1 << 16)
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
    missing = int(length[1]) - len(body) if length else 0
    while missing > 0:
        chunk = near.recv(min(missing, 1 << 16))
        request, missing = request + chunk, missing - len(chunk)
    return request


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(1 << 16):
            sink.sendall(chunk)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def a_road(url: str, *troubles: str) -> Iterator[Road]:
    """A road for as long as the block lasts."""
    road = Road(url, troubles)
    try:
        yield road
    finally:
        road.close()
