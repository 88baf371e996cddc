"""A server that stands for every chat service: it records what is posted, and answers as the test tells it.

The channel resolves every host to it. It serves TLS with a certificate for all of them, from an authority of its own.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

HOSTS = (
    "hooks.slack.com", "slack.com", "discord.com", "mm.example.org", "api.telegram.org",
    "prod-12.westus.logic.azure.com", "ntfy.example.org", "matrix.example.org", "gotify.example.org",
    "rocket.example.org", "chat.googleapis.com", "acme.zulipchat.com", "events.pagerduty.com",
)  # fmt: skip

MATRIX_ANSWERS = {
    "/_matrix/client/v3/account/whoami": {"user_id": "@tocsin:example.org", "device_id": "D"},
    "/_matrix/client/v3/join/": {"room_id": "!room:example.org"},
}


@dataclass(frozen=True)
class Posted:
    """A request that the server got."""

    method: str
    host: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ChatServer:
    """The server. ``answers`` holds the status, the headers and the body of the next answers; then it answers 200."""

    port: int
    ca_file: Path
    requests: list[Posted] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    address: str = "127.0.0.1"
    hangs: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def resolve(self, host: str, port: int) -> list[Any]:
        self.resolved.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.address, self.port))]

    def messages(self) -> list[Posted]:
        """Return the requests that post a message: all, except those by which Matrix finds its room."""
        return [each for each in self.requests if each.method != "GET" and "/join/" not in each.path]

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"{}") -> None:
        self.answers.append((status, headers or {}, body))


@contextmanager
def chat_server(folder: Path, *, tls: bool = True) -> Iterator[ChatServer]:
    authority = trustme.CA()
    ca_file = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    listener.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*HOSTS).configure_cert(context)
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
    server = ChatServer(listener.server_address[1], ca_file)
    listener.chat = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def _handle(self) -> None:
        server: ChatServer = self.server.chat  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        server.requests.append(Posted(self.command, headers.get("host", ""), self.path, headers, body))
        if server.hangs.is_set():
            server.released.wait()
            return
        status, extra, answer = server.answers.pop(0) if server.answers else _answer_to(self.path)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _handle  # noqa: N815 - names of http.server

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def _answer_to(path: str) -> tuple[int, dict[str, str], bytes]:
    if path.startswith("/.well-known/"):
        return 404, {}, b"{}"
    if path.startswith("/services/"):
        return 200, {}, b"ok"
    for beginning, answer in MATRIX_ANSWERS.items():
        if path.startswith(beginning):
            return 200, {}, json.dumps(answer).encode()
    return 200, {}, json.dumps({"ok": True, "result": {}, "event_id": "$1", "channel": "C", "ts": "1"}).encode()
