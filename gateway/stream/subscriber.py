"""An open stream of server-sent events: who reads it, what is queued for it, and why it ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from contextlib import suppress
from typing import Final, Protocol
from uuid import UUID

from gateway.auth import Caller, Credential
from gateway.caller_slots import Slot
from gateway.stream.event_feed import FeedItem
from gateway.stream.feed_cursor import Snapshot
from models.permissions import INBOX, INCIDENT, Permission
from models.policy import ProjectFacts, may_read, require_organization_access, require_token_scope
from models.refusals import NotFound, Refusal

HEARTBEAT: Final = b":\n\n"
RETRY: Final = "retry: 1000\n\n"
TOO_SLOW: Final = "the client reads too slowly; reconnect with Last-Event-ID"

CHUNK_BYTES: Final = 64 * 1024
"""Queued frames are joined into a chunk until it reaches this size. Subscribers share queued frames, but not chunks."""


class Broadcaster(Protocol):
    """What a stream needs of :class:`~gateway.stream.broadcaster.EventBroadcaster`."""

    heartbeat_seconds: float
    max_queued_frames: int

    def unsubscribe(self, subscriber: StreamSubscriber) -> None:
        """Remove the stream."""

    def replay(self, subscriber: StreamSubscriber) -> AsyncIterator[bytes]:
        """Yield the frames that a resuming stream missed."""

    async def refresh_callers(self, subscribers: Iterable[StreamSubscriber]) -> None:
        """End the streams of callers who have lost access."""


class StreamSubscriber:
    """An open stream, with its caller, its queued frames and, once the stream has ended, the reason.

    ``incident`` (a row id) limits the stream to one incident. Links start with ``base_url``. ``joined_at`` is the
    snapshot after which the stream receives live events. If ``is_resuming`` is true, the stream first receives the
    events that became visible between ``last_id`` and that snapshot. Otherwise ``last_id`` is the id of the last
    event before the stream. ``slot`` is what the stream takes up of its caller's limit.
    """

    def __init__(
        self,
        broadcaster: Broadcaster,
        credential: Credential,
        caller: Caller,
        incident: int | None,
        *,
        base_url: str = "",
    ) -> None:
        self.credential = credential
        self.base_url = base_url
        self.incident = incident
        self.slot: Slot | None = None
        self.ended: str | None = None
        self.last_id: UUID | None = None
        self.is_resuming = False
        self.joined_at = Snapshot("")
        self._broadcaster = broadcaster
        self._queue: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self.update_caller(caller, at=asyncio.get_running_loop().time())

    def update_caller(self, caller: Caller, *, at: float) -> None:
        """Replace the caller with one authenticated at ``at`` (event-loop time).

        :raises Refusal: if the caller no longer has access to this organization's streams.
        """
        if caller.organization is None:
            raise NotFound
        _require(caller, INBOX)
        self.caller, self.organization, self.authenticated_at = caller, caller.organization, at
        self._reads_incidents = _may(caller, INCIDENT)

    @property
    def user_id(self) -> int | None:
        """The id of the person whose inbox items are streamed, or ``None`` if the caller does not act for a person."""
        return self.caller.actor.user_id

    def may_receive(self, item: FeedItem, projects: Collection[ProjectFacts]) -> bool:
        """Return whether the stream covers the item and the caller may read it. An inbox item is only for its owner."""
        if self.incident not in (None, item.incident):
            return False
        may_read_kind = self._reads_incidents if item.user_id is None else item.user_id == self.user_id
        return may_read_kind and may_read(self.caller.actor, self.organization, projects)

    def enqueue(self, frame: bytes) -> None:
        """Queue a frame, or end the stream if its queue is full."""
        if len(self._queue) >= self._broadcaster.max_queued_frames:
            self.end(TOO_SLOW)
        elif self.ended is None:
            self._queue.append(frame)
            self._changed.set()

    def end(self, reason: str) -> None:
        """End the stream and drop its queued frames. The client receives their events when it reconnects."""
        self._queue.clear()
        self.ended = self.ended or reason
        self._changed.set()

    def close(self) -> None:
        """Unsubscribe after the client has disconnected."""
        self._broadcaster.unsubscribe(self)

    def _next_chunk(self) -> bytes:
        chunk = bytearray()
        while self._queue and len(chunk) < CHUNK_BYTES:
            chunk += self._queue.popleft()
        return bytes(chunk)

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes to send, until the stream ends."""
        # A client that received no event before it was disconnected resumes from the start of its stream.
        start = "" if self.is_resuming else f"id: {self.last_id}\n"
        yield f"{start}{RETRY}".encode()
        if self.is_resuming:
            async for frame in self._broadcaster.replay(self):
                yield frame
        while self.ended is None:
            if self._queue:
                yield self._next_chunk()
                continue
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._broadcaster.heartbeat_seconds):
                    await self._changed.wait()
                continue
            await self._broadcaster.refresh_callers([self])
            yield HEARTBEAT
        yield f": {self.ended}\n\n".encode()


def _require(caller: Caller, permission: Permission) -> None:
    if caller.organization is None:
        raise NotFound
    require_token_scope(caller.actor, permission, "GET")
    require_organization_access(caller.actor, caller.organization, permission, "GET")


def _may(caller: Caller, permission: Permission) -> bool:
    try:
        _require(caller, permission)
    except Refusal:
        return False
    return True
