"""A TCP proxy to a broker that can silently drop everything sent to consumers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from tests.brokers import Broker
from tests.tls import Connect

BRPOP: Final = b"BRPOP"
BASIC_CONSUME: Final = b"\x00\x3c\x00\x14"
"""The bytes by which a client starts consuming: a Valkey command, and RabbitMQ's method basic.consume (60, 20)."""


@dataclass
class SilentProxy:
    """A TCP port that forwards to a broker.

    While it ``is_silent``, it drops what the broker sends to clients that have sent ``consume_marker``.
    ``url_template`` is the proxy's URL with a placeholder for the port.
    """

    connect: Connect
    consume_marker: bytes
    url_template: str
    port: int = 0
    is_silent: bool = False
    _consumers: set[asyncio.StreamWriter] = field(default_factory=set)
    _pumps: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return self.url_template.format(port=self.port)

    async def serve(self, started: threading.Event, stopped: asyncio.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await stopped.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            broker_reader, broker_writer = await self.connect()
        except OSError:
            writer.close()
            return
        for pump in (self._pump(reader, broker_writer, client=writer), self._pump(broker_reader, writer)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, client: asyncio.StreamWriter | None = None
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if client is not None and self.consume_marker in data:
                    self._consumers.add(client)
                if not (self.is_silent and sink in self._consumers):
                    sink.write(data)
                    await sink.drain()
            sink.close()


@contextmanager
def running_proxy(proxy: SilentProxy) -> Iterator[SilentProxy]:
    """Run the proxy in its own thread for the duration of the block."""
    started, loop, stopped = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(started, stopped),))
    thread.start()
    try:
        assert started.wait(10)
        yield proxy
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


def silent_proxy_to(broker: Broker) -> SilentProxy:
    """Return a proxy for this broker that is not running yet."""
    url = urlsplit(broker.url)
    if url.scheme == "amqp":
        template = broker.url.replace(f":{url.port}/", ":{port}/")
        return SilentProxy(lambda: asyncio.open_connection(url.hostname, url.port), BASIC_CONSUME, template)
    return SilentProxy(lambda: asyncio.open_unix_connection(url.path), BRPOP, "redis://127.0.0.1:{port}/0")
