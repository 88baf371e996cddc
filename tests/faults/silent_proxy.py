"""A line to a broker that can go dead for those who wait on it, without a word to either side."""

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
"""How a client says that it waits for messages from now on: to Valkey, and to RabbitMQ (60, 20: basic.consume)."""


@dataclass
class SilentProxy:
    """A TCP port that passes everything on to a broker.

    While it ``is_deaf``, whatever the broker says to those who have said ``waits`` is swallowed. ``address`` is its
    URL but for the port.
    """

    connect: Connect
    consume_marker: bytes
    url_template: str
    port: int = 0
    is_silent: bool = False
    _waiters: set[asyncio.StreamWriter] = field(default_factory=set)
    _pumps: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return self.url_template.format(port=self.port)

    async def serve(self, begun: threading.Event, end: asyncio.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        begun.set()
        await end.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await self.connect()
        except OSError:
            writer.close()
            return
        for pump in (self._pump(reader, far_writer, caller=writer), self._pump(far_reader, writer)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, caller: asyncio.StreamWriter | None = None
    ) -> None:
        with suppress(OSError):
            while heard := await source.read(65536):
                if caller is not None and self.consume_marker in heard:
                    self._waiters.add(caller)
                if not (self.is_silent and sink in self._waiters):
                    sink.write(heard)
                    await sink.drain()
            sink.close()


@contextmanager
def running_proxy(line: SilentProxy) -> Iterator[SilentProxy]:
    """The line, served from a thread of its own."""
    begun, loop, end = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(line.serve(begun, end),))
    thread.start()
    try:
        assert begun.wait(10)
        yield line
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


def silent_proxy_to(broker: Broker) -> SilentProxy:
    """A line to this broker, not served yet."""
    there = urlsplit(broker.url)
    if there.scheme == "amqp":
        address = broker.url.replace(f":{there.port}/", ":{port}/")
        return SilentProxy(lambda: asyncio.open_connection(there.hostname, there.port), BASIC_CONSUME, address)
    return SilentProxy(lambda: asyncio.open_unix_connection(there.path), BRPOP, "redis://127.0.0.1:{port}/0")
