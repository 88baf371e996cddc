"""A receiver of webhooks on the loopback interface, and helpers that send deliveries to it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from models.base import new_id
from models.notifications.network_guard import HostResolver, NetworkGuard, Resolve, parse_networks
from models.notifications.webhook import new_secret
from workers.deliver.channel import AttemptResult, ClaimedDelivery, Outgoing
from workers.deliver.channels.webhook import WebhookAddress, WebhookChannel
from workers.deliver.http_sender import TOTAL_SECONDS, HttpSender

LOOPBACK: Final = "127.0.0.0/8, ::1/128"
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

Stream = asyncio.StreamWriter
Answer = Callable[[Stream], Any]


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as it arrived. The names of ``headers`` are in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A server that records what it receives. ``connections`` counts every accepted connection."""

    answer: bytes | Answer
    port: int = 0
    connections: int = 0
    requests: list[ReceivedRequest] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def serve(self, reader: asyncio.StreamReader, writer: Stream) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append(ReceivedRequest(line, headers, body))
            if callable(self.answer):
                await self.answer(writer)
            else:
                writer.write(self.answer)
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def receiving(
    answer: bytes | Answer = OK, *, tls: ssl.SSLContext | None = None, hosts: Sequence[str] = ("127.0.0.1",)
) -> Iterator[Receiver]:
    """Run a receiver, in a thread of its own, that gives every request this answer."""
    receiver = Receiver(answer)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(receiver.serve, hosts[0], 0, ssl=tls), loop).result()
    servers = [server]
    receiver.port = server.sockets[0].getsockname()[1]
    for host in hosts[1:]:
        with contextlib.suppress(OSError):
            starting = asyncio.start_server(receiver.serve, host, receiver.port, ssl=tls)
            servers.append(asyncio.run_coroutine_threadsafe(starting, loop).result())
    try:
        yield receiver
    finally:
        asyncio.run_coroutine_threadsafe(_stop(servers), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(servers: Sequence[asyncio.Server]) -> None:
    for server in servers:
        server.close()
    connections = asyncio.all_tasks() - {asyncio.current_task()}
    for task in connections:
        task.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


def answering(status: int, *headers: str, body: bytes = b"") -> bytes:
    """Return an answer with this status."""
    lines = [f"HTTP/1.1 {status} Something", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def resolving_to(*addresses: str) -> Resolve:
    """Return a resolver by which every name has these addresses."""

    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


def a_channel(
    *, allow: str = LOOPBACK, resolve: Resolve | None = None, total_seconds: float = TOTAL_SECONDS, box: Any = None
) -> WebhookChannel:
    guard = NetworkGuard(parse_networks(allow))
    return WebhookChannel(box, HttpSender(guard, resolve or HostResolver(), total_seconds=total_seconds))


def a_claimed_delivery(**facts: Any) -> ClaimedDelivery:
    values: dict[str, Any] = {
        "id": new_id(),
        "organization_id": 1,
        "incident_id": None,
        "activity_id": None,
        "event_id": new_id(),
        "event_type": "incident.comment_posted",
        "rule_id": None,
        "action_id": None,
        "project_id": None,
        "channel": "webhook",
        "user_id": None,
        "target": None,
        "method": None,
        "status": None,
        "reason": None,
        "destination_id": 1,
        "target_key": "webhook:1:1",
        "is_merged": False,
        "merged_into": None,
        "attempts": 0,
        "body": b"{}",
        "date_created": datetime(2026, 11, 23, tzinfo=UTC),
    }
    return ClaimedDelivery(**values | facts)


def send(
    url: str,
    *,
    body: bytes = b'{"specversion": "1.0"}',
    secrets: Sequence[str] = (),
    id: UUID | None = None,  # noqa: A002
    channel: WebhookChannel | None = None,
    **options: Any,
) -> AttemptResult:
    """Send one message through a channel, by default one that may reach the loopback interface."""

    async def run() -> AttemptResult:
        used = channel or a_channel(**options)
        delivery = a_claimed_delivery(**({} if id is None else {"id": id}))
        message = Outgoing(body, WebhookAddress(url, tuple(secrets) or (new_secret(),)))
        try:
            return await used.send(delivery, message)
        finally:
            await used.close()

    return asyncio.run(run())
