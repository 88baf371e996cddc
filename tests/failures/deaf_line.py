"""A line to Valkey that can go dead for those who wait on it, without a word to either side."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class DeafLine:
    """A TCP port that passes everything on to a Valkey's socket.

    While it ``is_deaf``, whatever Valkey says to those who have asked to be told of new messages is swallowed.
    """

    socket: str
    port: int = 0
    is_deaf: bool = False
    _waiters: set[asyncio.StreamWriter] = field(default_factory=set)
    _pumps: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def serve(self, begun: threading.Event, end: asyncio.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        begun.set()
        await end.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self.socket)
        for pump in (self._pump(reader, far_writer, caller=writer), self._pump(far_reader, writer)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, caller: asyncio.StreamWriter | None = None
    ) -> None:
        with suppress(OSError):
            while heard := await source.read(65536):
                if caller is not None and b"BRPOP" in heard:
                    self._waiters.add(caller)
                if not (self.is_deaf and sink in self._waiters):
                    sink.write(heard)
                    await sink.drain()
            sink.close()


@contextmanager
def a_deaf_line(socket: str) -> Iterator[DeafLine]:
    """The line, served from a thread of its own."""
    line, begun, loop, end = DeafLine(socket), threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(line.serve(begun, end),))
    thread.start()
    try:
        assert begun.wait(10)
        yield line
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
