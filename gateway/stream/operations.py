"""The live stream for operators: the overview and the queues, read once for all open streams, at most every second.

Each event replaces the one before it, so a client that reads slowly skips events instead of delaying others. While no
stream is open, nothing is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Final

import orjson

from gateway.background import end_task
from gateway.operations_service import Snapshot
from models.refusals import Refusal, TooManyRequests, Unavailable
from models.types import JSON
from tasks.outage_log import OutageLog

POLL_SECONDS: Final = 1.0
HEARTBEAT_SECONDS: Final = 15.0
RECHECK_SECONDS: Final = 5.0
"""How long a stream goes on after its token has been revoked."""

MAX_STREAMS_PER_CALLER: Final = 50

RETRY: Final = b"retry: 2000\n\n"
HEARTBEAT: Final = b": heartbeat\n\n"

Recheck = Callable[[], Awaitable[object]]
"""Authenticates the caller of a stream again. It raises a refusal if the caller has lost access."""


class OperationsBroadcaster:
    """Polls while streams are open. Its intervals are attributes, so that tests can reduce them."""

    def __init__(self, read: Callable[[], Awaitable[Snapshot]]) -> None:
        self.poll_seconds = POLL_SECONDS
        self.heartbeat_seconds = HEARTBEAT_SECONDS
        self.recheck_seconds = RECHECK_SECONDS
        self.polls = 0
        self._read = read
        self._streams: set[OperationsStream] = set()
        self._task: asyncio.Task[None] | None = None
        self._latest: bytes | None = None
        self._is_closing = False

    def open(self, caller: str, recheck: Recheck) -> OperationsStream:
        """Open a stream for a caller.

        :raises TooManyRequests: if the caller has too many open streams.
        :raises Unavailable: if the gateway is stopping.
        """
        if self._is_closing:
            raise Unavailable
        if sum(stream.caller == caller for stream in self._streams) >= MAX_STREAMS_PER_CALLER:
            raise TooManyRequests(1)
        stream = OperationsStream(self, caller, recheck)
        self._streams.add(stream)
        if self._task is None or self._task.done():
            self._latest = None
            self._task = asyncio.create_task(self._poll_while_needed())
        elif self._latest is not None:
            stream.show(self._latest)
        return stream

    def remove(self, stream: OperationsStream) -> None:
        """Forget a stream that has ended."""
        self._streams.discard(stream)

    def close_streams(self) -> None:
        """End every stream and accept no new ones, because the process is about to stop."""
        self._is_closing = True
        for stream in list(self._streams):
            stream.end()

    async def stop(self) -> None:
        """End every stream, and the poll."""
        self.close_streams()
        if self._task is not None:
            await end_task(self._task)

    async def _poll_while_needed(self) -> None:
        outage = OutageLog("operations_stream.poll_failed")
        while self._streams:
            try:
                self.polls += 1
                snapshot = await self._read()
                outage.end()
                self._latest = _event("overview", snapshot.overview) + _event("queues", snapshot.queues)
            except Unavailable:
                self._latest = b": the database is unavailable\n\n"
            except Exception as error:
                outage.record_error(error)
                self._latest = b": the state cannot be read\n\n"
            for stream in self._streams:
                stream.show(self._latest)
            await asyncio.sleep(self.poll_seconds)


class OperationsStream:
    """An open stream. It holds only the newest event that its client has not received."""

    def __init__(self, broadcaster: OperationsBroadcaster, caller: str, recheck: Recheck) -> None:
        self.caller = caller
        self._broadcaster = broadcaster
        self._recheck = recheck
        self._pending: bytes | None = None
        self._changed = asyncio.Event()
        self._has_ended = False

    def show(self, frames: bytes) -> None:
        """Replace what is to be sent next."""
        self._pending = frames
        self._changed.set()

    def end(self) -> None:
        """End the stream."""
        self._has_ended = True
        self._changed.set()

    def close(self) -> None:
        """Forget the stream, whose client has disconnected."""
        self._broadcaster.remove(self)

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes to send, until the stream ends."""
        yield RETRY
        clock = asyncio.get_running_loop().time
        checked_at = clock()
        while not self._has_ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._broadcaster.heartbeat_seconds):
                    await self._changed.wait()
            self._changed.clear()
            if clock() - checked_at >= self._broadcaster.recheck_seconds:
                if not await self._is_still_allowed():
                    return
                checked_at = clock()
            frames, self._pending = self._pending, None
            yield HEARTBEAT if frames is None else frames

    async def _is_still_allowed(self) -> bool:
        try:
            await self._recheck()
        except Unavailable:
            # Nothing is shown in the meantime.
            return True
        except Refusal:
            return False
        return True


def _event(name: str, body: JSON) -> bytes:
    return f"event: {name}\ndata: ".encode() + orjson.dumps(body) + b"\n\n"
