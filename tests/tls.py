"""A proxy that terminates TLS for servers built without it, like a load balancer or a sidecar."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]

_SSL_REQUEST = (80877103).to_bytes(4, "big")


@contextlib.contextmanager
def tls_proxy(connect: Connect, context: ssl.SSLContext, *, postgres: bool = False) -> Iterator[int]:
    """Yield a port of 127.0.0.1 that terminates TLS and forwards to `connect`.

    :param postgres: Negotiate TLS as PostgreSQL does, with an SSLRequest before the handshake.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, ssl.SSLError):
            if postgres:
                while (await reader.readexactly(8))[4:] != _SSL_REQUEST:
                    writer.write(b"N")
                writer.write(b"S")
                await writer.start_tls(context)
            upstream_reader, upstream_writer = await connect()
            with contextlib.closing(upstream_writer):
                await asyncio.gather(_pump(reader, upstream_writer), _pump(upstream_reader, writer))
        writer.close()

    starting = asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if postgres else context)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.get_loop().call_soon_threadsafe(server.close)
        asyncio.run_coroutine_threadsafe(_cancel_open_connections(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_open_connections() -> None:
    """Cancel the tasks of connections that clients have left open."""
    connections = asyncio.all_tasks() - {asyncio.current_task()}
    for task in connections:
        task.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(1 << 16):
        sink.write(data)
        await sink.drain()
    sink.close()
