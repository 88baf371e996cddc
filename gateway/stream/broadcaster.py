"""The broadcaster of server-sent events. Each poll of the tables serves all open streams in this process.

New events are found in one query, however many streams are open. If none are open, there are no polls. Wake-ups over
Valkey shorten the wait for the next poll, but nothing depends on them. After a failed poll, the database may have lost
what was not on its disk, so every stream ends, and its client resumes from the last event that it received.

The policy that decides who may read an incident also decides who receives an event. For each poll, it uses fresh
project rows, and callers who were authenticated at most ``caller_ttl_seconds`` ago.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.auth import Authenticator, Caller, Credential
from gateway.background import end_task
from gateway.caller_slots import MAX_STREAMS, STREAM_SECONDS, CallerSlots
from gateway.stream.event_feed import EventFeed, FeedItem
from gateway.stream.feed_cursor import FeedCursor
from gateway.stream.subscriber import StreamSubscriber
from models.database.errors import is_transient
from models.policy import ProjectFacts
from models.refusals import Refusal, Unavailable
from tasks.broker import pubsub
from tasks.outage_log import OutageLog

HEARTBEAT_SECONDS: Final = 15.0
"""A stream without an event for this long gets a comment, so that proxies keep it open."""

STOPPING: Final = "the gateway is stopping"
TOO_MANY: Final = "too many events at once; reconnect with Last-Event-ID"
UNAVAILABLE: Final = "the database is unavailable; reconnect with Last-Event-ID"
INTERRUPTED: Final = "the database was interrupted; reconnect with Last-Event-ID"
ACCESS_LOST: Final = "you no longer have access to this stream"

MAX_CONCURRENT_REPLAYS: Final = 4
MAX_CONCURRENT_LOOKUPS: Final = 500
PAUSE_SECONDS: Final = 0.02
"""The pause after each poll, so that a burst of wake-ups causes only a few polls."""

log = structlog.get_logger(__name__)


class EventBroadcaster:
    """Broadcasts new events to open streams. Its intervals and limits are attributes, so that tests can reduce them."""

    def __init__(
        self,
        engine: AsyncEngine,
        authenticator: Authenticator,
        *,
        wake_url: str | None,
        seconds: float,
    ) -> None:
        self.heartbeat_seconds = HEARTBEAT_SECONDS
        self.poll_seconds = 0.5
        self.caller_ttl_seconds = 1.0
        self.max_queued_frames = 1000
        self.max_rows_per_poll = 5000
        self._feed = EventFeed(engine)
        self._authenticator = authenticator
        self._wake_url = wake_url
        self._seconds = seconds
        self._slots = CallerSlots(MAX_STREAMS)
        self._subscribers: set[StreamSubscriber] = set()
        self._cursor: FeedCursor | None = None
        self._poll_lock = asyncio.Lock()
        self._wakeup = asyncio.Event()
        self._replays = asyncio.Semaphore(MAX_CONCURRENT_REPLAYS)
        self._loops: list[asyncio.Task[None]] = []
        self._is_closing = False

    def start(self) -> None:
        """Start listening for wake-ups and polling."""
        channels = [pubsub.EVENTS_CHANNEL, pubsub.INBOX_CHANNEL]
        listening = pubsub.subscribe(
            self._wake_url, channels, lambda *_: self._wakeup.set(), on_listening=self._wakeup.set
        )
        self._loops = [asyncio.create_task(listening), asyncio.create_task(self._poll_forever())]

    async def stop(self) -> None:
        """End every stream, then stop polling."""
        self.close_streams()
        for loop in self._loops:
            await end_task(loop)
        await self._drop_cursor()

    def close_streams(self) -> None:
        """End every stream and accept no new ones, because the process is about to stop."""
        self._is_closing = True
        for subscriber in self._subscribers:
            subscriber.end(STOPPING)

    async def subscribe(
        self,
        credential: Credential,
        caller: Caller,
        *,
        incident: int | None,
        last_id: UUID | None,
        is_resuming: bool,
        base_url: str = "",
    ) -> StreamSubscriber:
        """Open a stream. ``incident`` (a row id) limits it to one incident. Links in it start with ``base_url``.

        If ``is_resuming`` is true, the stream first replays the events after ``last_id`` or, if that id is unknown, the
        events from the last 24 hours.

        :raises Unavailable: if the database is unavailable, or the gateway is stopping.
        :raises TooManyRequests: if the caller has too many open streams.
        :raises Refusal: if the caller has no access to this organization's streams.
        """
        if self._is_closing:
            raise Unavailable
        subscriber = StreamSubscriber(self, credential, caller, incident, base_url=base_url)
        subscriber.last_id, subscriber.is_resuming = last_id, is_resuming
        subscriber.slot = self._slots.take(caller.spender, seconds=STREAM_SECONDS)
        try:
            # A stream must not join during a poll, whose events go only to the subscribers with which it began.
            async with self._exclusive_cursor(), asyncio.timeout(self._seconds):
                await self._join(subscriber)
        except BaseException as error:
            self._slots.free(subscriber.slot)
            if isinstance(error, Exception) and _may_pass(error):
                raise Unavailable from error
            raise
        if self._is_closing:
            subscriber.end(STOPPING)
        self._wakeup.set()
        return subscriber

    async def _join(self, subscriber: StreamSubscriber) -> None:
        cursor = self._cursor
        if cursor is None or not self._subscribers:
            cursor = await self._renew_cursor()
        subscriber.joined_at = cursor.snapshot
        if not subscriber.is_resuming:
            subscriber.last_id = await self._feed.latest_id(cursor, subscriber.organization.id)
        self._subscribers.add(subscriber)

    def unsubscribe(self, subscriber: StreamSubscriber) -> None:
        """Remove a stream, so that it receives no more events."""
        self._subscribers.discard(subscriber)
        if subscriber.slot is not None:
            self._slots.free(subscriber.slot)
        if not self._subscribers:
            self._wakeup.set()

    @property
    def stream_count(self) -> int:
        """The number of open streams."""
        return len(self._subscribers)

    async def replay(self, subscriber: StreamSubscriber) -> AsyncIterator[bytes]:
        """Yield the frames that a resuming subscriber missed before it joined. Later events are in its queue."""
        organization, until = subscriber.organization.id, subscriber.joined_at
        after = None
        try:
            async with self._replays:
                resumption = await self._feed.resumption(
                    subscriber.last_id, organization, subscriber.user_id, until=until
                )
            while subscriber.ended is None:
                async with self._replays:
                    items, after = await self._feed.replay(
                        resumption, after, organization, subscriber.user_id, subscriber.incident, until=until
                    )
                    await self._refresh_callers([subscriber])
                    projects = await self._feed.projects({item.incident for item in items})
                for item in items:
                    if subscriber.ended is None and subscriber.may_receive(item, projects[item.incident]):
                        yield item.frame(subscriber.base_url)
                if after is None:
                    return
        except Exception as error:
            if not _may_pass(error):
                log.exception("stream.replay_failed")
            subscriber.end(UNAVAILABLE)

    async def refresh_callers(self, subscribers: Iterable[StreamSubscriber]) -> None:
        """Authenticate callers again if their last check is too old, and end the streams of those who have lost access.

        While the database is unavailable, all streams stay open, because no events can be sent in the meantime.
        """
        with suppress(Unavailable):
            await self._refresh_callers(subscribers)

    # --- polling -----------------------------------------------------------------------------------------------

    async def _poll_forever(self) -> None:
        outage = OutageLog("stream.poll_failed")
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.poll_seconds if self._subscribers else None):
                    await self._wakeup.wait()
            self._wakeup.clear()
            try:
                async with self._exclusive_cursor():
                    await self._poll()
                outage.end()
            except Exception as error:
                if not _may_pass(error):
                    outage.record_error(error)
                await asyncio.sleep(self.poll_seconds)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _poll(self) -> None:
        if not self._subscribers:
            await self._drop_cursor()
            return
        if self._cursor is None:
            async with asyncio.timeout(self._seconds):
                await self._renew_cursor()
            return
        subscribers = list(self._subscribers)
        async with asyncio.timeout(self._seconds):
            batch = await self._feed.read_since(
                self._cursor,
                {subscriber.organization.id for subscriber in subscribers},
                {subscriber.user_id for subscriber in subscribers if subscriber.user_id is not None},
                limit=self.max_rows_per_poll,
            )
        if batch.is_truncated:
            for subscriber in subscribers:
                subscriber.end(TOO_MANY)
        elif batch.items:
            by_organization = defaultdict(list)
            for subscriber in subscribers:
                by_organization[subscriber.organization.id].append(subscriber)
            for organization in {item.organization for item in batch.items}:
                await self._refresh_callers(by_organization[organization])
            projects = await self._feed.projects({item.incident for item in batch.items})
            await _distribute(batch.items, by_organization, projects)
        self._cursor.snapshot = batch.until

    @asynccontextmanager
    async def _exclusive_cursor(self) -> AsyncIterator[None]:
        """Use the cursor alone, and drop it after any error, because its session may have ended."""
        async with self._poll_lock:
            try:
                yield
            except BaseException:
                await self._drop_cursor()
                raise

    async def _renew_cursor(self) -> FeedCursor:
        """Open a cursor at the current snapshot, and end all streams that joined an earlier one.

        They end only now, when the database is back, because a browser gives up if the gateway responds with 503.
        """
        await self._drop_cursor()
        self._cursor = await self._feed.open_cursor()
        for subscriber in self._subscribers:
            subscriber.end(INTERRUPTED)
        return self._cursor

    async def _drop_cursor(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            await cursor.close()

    async def _refresh_callers(self, subscribers: Iterable[StreamSubscriber]) -> None:
        now = asyncio.get_running_loop().time()
        stale = [each for each in subscribers if now - each.authenticated_at >= self.caller_ttl_seconds]
        credentials = list({subscriber.credential for subscriber in stale})
        callers: dict[Credential, Caller | Refusal] = {}
        for start in range(0, len(credentials), MAX_CONCURRENT_LOOKUPS):
            some = credentials[start : start + MAX_CONCURRENT_LOOKUPS]
            callers |= zip(some, await asyncio.gather(*(self._authenticate(each) for each in some)), strict=True)
        for subscriber in stale:
            caller = callers[subscriber.credential]
            try:
                if isinstance(caller, Refusal):
                    raise caller
                subscriber.update_caller(caller, at=now)
            except Refusal:
                subscriber.end(ACCESS_LOST)

    async def _authenticate(self, credential: Credential) -> Caller | Refusal:
        deadline = asyncio.get_running_loop().time() + self._seconds
        try:
            return await self._authenticator.authenticate(credential, deadline=deadline)
        except Unavailable:
            raise
        except Refusal as refusal:
            return refusal


async def _distribute(
    items: Iterable[FeedItem],
    subscribers: Mapping[int, Collection[StreamSubscriber]],
    projects: Mapping[int, Collection[ProjectFacts]],
) -> None:
    for item in items:
        for subscriber in subscribers[item.organization]:
            if subscriber.may_receive(item, projects[item.incident]):
                subscriber.enqueue(item.frame(subscriber.base_url))
        # With thousands of subscribers, this takes a while, so other requests may run in between.
        await asyncio.sleep(0)


def _may_pass(error: Exception) -> bool:
    return is_transient(error) or isinstance(error, Unavailable)
