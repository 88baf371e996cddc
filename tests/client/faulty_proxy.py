"""A TCP proxy that fails on purpose."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

CUT_OFF = "connection closed within the response"
DROPPED = "connection closed before the request is read"
UNAVAILABLE = "503"
RATE_LIMITED = "429"

_RESPONSES = {
    UNAVAILABLE: b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
    RATE_LIMITED: b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
}


class FaultyProxy:
    """A proxy that applies one of ``faults`` to each connection, in order, and forwards all later connections."""

    def __init__(self, url: str, faults: Iterable[str]) -> None:
        self._faults = iter(faults)
        self.forward_to(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._clients: set[socket.socket] = set()
        self.connections: list[str | None] = []
        """The fault applied to each connection so far; ``None`` if the connection was forwarded."""
        threading.Thread(target=self._accept, daemon=True).start()

    def forward_to(self, url: str) -> None:
        """Forward new connections to another server."""
        self._server = (str(urlsplit(url).hostname), urlsplit(url).port or 80)

    def disconnect_all(self) -> None:
        """Close every open connection."""
        for client in self._clients.copy():
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                fault = next(self._faults, None)
                self.connections.append(fault)
                self._clients.add(client)
                threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str | None) -> None:
        with client, contextlib.suppress(OSError):
            if fault == DROPPED:
                return
            request = _receive_request(client)
            if fault in _RESPONSES:
                client.sendall(_RESPONSES[fault])
                return
            with socket.create_connection(self._server) as server:
                server.sendall(request)
                if fault == CUT_OFF:
                    client.sendall(server.recv(1 << 20)[:20])
                    return
                responses = threading.Thread(target=_copy, args=(server, client), daemon=True)
                responses.start()
                _copy(client, server)
                responses.join()


def _receive_request(client: socket.socket) -> bytes:
    request = client.recv(1 << 16)
    while b"\r\n\r\n" not in request:
        request += client.recv(1 << 16)
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
    missing = int(length[1]) - len(body) if length else 0
    while missing > 0:
        chunk = client.recv(min(missing, 1 << 16))
        request, missing = request + chunk, missing - len(chunk)
    return request


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(1 << 16):
            sink.sendall(chunk)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def faulty_proxy(url: str, *faults: str) -> Iterator[FaultyProxy]:
    """Run a proxy for the duration of the block."""
    proxy = FaultyProxy(url, faults)
    try:
        yield proxy
    finally:
        proxy.close()
