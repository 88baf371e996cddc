"""A TCP proxy to RabbitMQ that can cut all connections, and block publishers as RabbitMQ does during an alarm."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from struct import pack, unpack
from typing import Final
from urllib.parse import urlsplit

from tasks.settings import BrokerSettings
from tests.brokers import RabbitBroker, broker_settings

REASON: Final = "low on memory"

_BLOCKED: Final = pack(">HHB", 10, 60, len(REASON)) + REASON.encode()
_UNBLOCKED: Final = pack(">HH", 10, 61)
"""The methods connection.blocked, with its reason, and connection.unblocked."""

_ACK: Final = pack(">HH", 60, 80)
"""The method basic.ack, with which RabbitMQ confirms messages."""

_FRAME_HEADER_BYTES: Final = 7


def _method_frame(payload: bytes) -> bytes:
    return pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"


class OutageProxy:
    """A TCP port that forwards to a virtual host of RabbitMQ.

    ``url`` is its BROKER_URL. If ``block_on`` is set, the proxy blocks publishers as soon as one of them has sent these
    bytes and the broker has confirmed an earlier message. It forwards neither the bytes nor anything after them until
    :meth:`unblock` is called. It announces this ``silence_seconds`` after it has stopped reading.
    """

    def __init__(self, broker: RabbitBroker) -> None:
        self._broker = broker
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._may_forward = asyncio.Event()
        self._may_forward.set()
        self._is_cut = False
        self._confirms = 0
        self._confirmed_twice = asyncio.Event()
        self.block_on: bytes | None = None
        self.silence_seconds = 0.0
        self.connections = 0
        self.url = ""

    @property
    def settings(self) -> BrokerSettings:
        return broker_settings(self.url)

    @property
    def is_blocking(self) -> bool:
        return not self._may_forward.is_set()

    def cut(self) -> None:
        """Close all connections, and refuse new ones until :meth:`restore` is called."""
        self._call(self._cut)

    def restore(self) -> None:
        self._is_cut = False

    def block(self) -> None:
        """Tell all clients that they are blocked, and forward nothing that they send until :meth:`unblock`."""
        self._call(self._block)

    def unblock(self) -> None:
        self._call(self._unblock)

    @contextmanager
    def running(self) -> Iterator[OutageProxy]:
        """Run the proxy in its own thread for the duration of the block."""
        started, stopped = threading.Event(), asyncio.Event()
        thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(started, stopped),))
        thread.start()
        try:
            assert started.wait(10)
            yield self
        finally:
            self._loop.call_soon_threadsafe(stopped.set)
            thread.join()
            self._loop.close()

    def _call(self, change: Callable[[], None]) -> None:
        done = threading.Event()

        def call() -> None:
            change()
            done.set()

        self._loop.call_soon_threadsafe(call)
        assert done.wait(10)

    def _cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._clients.clear()

    def _block(self) -> None:
        self._may_forward.clear()
        for client in self._clients:
            client.write(_method_frame(_BLOCKED))

    def _unblock(self) -> None:
        self.block_on = None
        self._may_forward.set()
        for client in self._clients:
            client.write(_method_frame(_UNBLOCKED))

    async def _serve(self, started: threading.Event, stopped: asyncio.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        target = urlsplit(self._broker.url)
        self.url = self._broker.url.replace(f":{target.port}/", f":{server.sockets[0].getsockname()[1]}/")
        started.set()
        await stopped.wait()
        server.close()
        self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        target = urlsplit(self._broker.url)
        broker_reader, broker_writer = await asyncio.open_connection(target.hostname, target.port)
        self._writers |= {writer, broker_writer}
        self.connections += 1
        for pump in (self._pump_to_broker(reader, broker_writer), self._pump_frames(broker_reader, writer)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump_to_broker(self, client: asyncio.StreamReader, broker: asyncio.StreamWriter) -> None:
        forwarded = b""
        with suppress(OSError):
            while data := await client.read(65536):
                # The bytes may have been split between two reads.
                if (at := self._find_block(forwarded, data)) is not None:
                    before, data = data[:at], data[at:]
                    broker.write(before)
                    await broker.drain()
                    # The broker has then confirmed the client's probe and at least one of its messages.
                    await self._confirmed_twice.wait()
                    await asyncio.sleep(self.silence_seconds)
                    self._block()
                await self._may_forward.wait()
                broker.write(data)
                await broker.drain()
                forwarded = data
            broker.close()

    def _find_block(self, forwarded: bytes, data: bytes) -> int | None:
        """Return the position in ``data`` at which to block, or ``None``."""
        if self.block_on is None or self.is_blocking:
            return None
        kept = forwarded[-len(self.block_on) + 1 :]
        at = (kept + data).find(self.block_on)
        return None if at < 0 else max(0, at - len(kept))

    async def _pump_frames(self, broker: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        # Whole frames, so that another one can be inserted between any two of them.
        with suppress(OSError, asyncio.IncompleteReadError):
            while header := await broker.readexactly(_FRAME_HEADER_BYTES):
                size = unpack(">BHI", header)[2]
                frame = header + await broker.readexactly(size + 1)
                client.write(frame)
                self._confirms += frame[_FRAME_HEADER_BYTES:].startswith(_ACK)
                if self._confirms >= 2:
                    self._confirmed_twice.set()
                self._clients.add(client)
                await client.drain()
        self._clients.discard(client)
        client.close()
