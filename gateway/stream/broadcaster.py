"""Following: one look at the tables for all open streams of this process, then to each reader what is theirs.

A look is one query, however many read; without readers there is none. Wake-ups over Valkey save a wait, and nothing
but time depends on them. Who may see what is decided by the policy of the reads, from rows that are read for each
look; who the readers are, from facts that are at most ``facts_seconds`` old.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.auth import Authenticator, Caller, Credential
from gateway.stream.event_feed import EventFeed, Item, Snapshot, beginning_id
from models.database.engine import is_transient
from models.policy import (
    INBOX,
    INCIDENT,
    Permission,
    ProjectFacts,
    may_read,
    require_organization_access,
    require_token_scope,
)
from models.refusals import NotFound, Refusal, Unavailable
from tasks.broker import pubsub

HEARTBEAT: Final = b":\n\n"
RETRY: Final = "retry: 1000\n\n"

STOPPING: Final = "the gateway stops"
TOO_SLOW: Final = "you read too slowly; come back with Last-Event-ID"
TOO_MUCH: Final = "too much happened at once; come back with Last-Event-ID"
UNAVAILABLE: Final = "the database is away; come back with Last-Event-ID"
NOT_ALLOWED: Final = "your right to read this has ended"

PART_BYTES: Final = 64 * 1024
"""How much is handed to a connection at a time: what waits longer is shared by all readers, this is not."""

REPLAYS_AT_ONCE: Final = 4
ASKED_AT_ONCE: Final = 500
PAUSE_SECONDS: Final = 0.02
"""Between two looks, so that a burst of wake-ups is answered by few of them."""

log = structlog.get_logger(__name__)


class Reader:
    """One open stream: who reads, what waits to be sent, and why it ended if it has."""

    def __init__(self, following: EventBroadcaster, question: Credential, caller: Caller, incident: int | None) -> None:
        self.question = question
        self.incident = incident
        self.ended: str | None = None
        self.last_id: UUID | None = None
        self.is_resuming = False
        self.since = Snapshot("")
        self._following = following
        self._waiting: deque[bytes] = deque()
        self._news = asyncio.Event()
        self.learn(caller, at=asyncio.get_running_loop().time())

    def learn(self, caller: Caller, *, at: float) -> None:
        """Who the reader is, as of now.

        :raises Refusal: they may not read streams of this organization any more.
        """
        if caller.organization is None:
            raise NotFound
        _require(caller, INBOX)
        self.caller, self.organization, self.known_at = caller, caller.organization, at
        self._reads_incidents = _may(caller, INCIDENT)

    @property
    def person(self) -> int | None:
        """Whose inbox they read."""
        return self.caller.actor.user_id

    def sees(self, item: Item, projects: Collection[ProjectFacts]) -> bool:
        """Whether this is for them: of an incident that they may read, and not of somebody else's inbox."""
        if self.incident not in (None, item.incident):
            return False
        is_theirs = self._reads_incidents if item.person is None else item.person == self.person
        return is_theirs and may_read(self.caller.actor, self.organization, projects)

    def offer(self, frame: bytes) -> None:
        """Something for them; who lets too much wait is sent away."""
        if len(self._waiting) >= self._following.max_queued_frames:
            self.end(TOO_SLOW)
        elif self.ended is None:
            self._waiting.append(frame)
            self._news.set()

    def end(self, why: str) -> None:
        """Tell them no more. What was not sent yet they get when they come back."""
        self._waiting.clear()
        self.ended = self.ended or why
        self._news.set()

    def close(self) -> None:
        """They have gone."""
        self._following.leave(self)

    def _next_part(self) -> bytes:
        part = bytearray()
        while self._waiting and len(part) < PART_BYTES:
            part += self._waiting.popleft()
        return bytes(part)

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """What to send, until the end."""
        # Who has heard nothing when the stream breaks comes back to where it began.
        beginning = "" if self.is_resuming else f"id: {beginning_id(self.since)}\n"
        yield f"{beginning}{RETRY}".encode()
        if self.is_resuming:
            async for frame in self._following.owed(self):
                yield frame
        while self.ended is None:
            if self._waiting:
                yield self._next_part()
                continue
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._following.heartbeat_seconds):
                    await self._news.wait()
                continue
            await self._following.look_again_at([self])
            yield HEARTBEAT
        yield f": {self.ended}\n\n".encode()


class EventBroadcaster:
    """Hands what happens to whoever reads. Its figures may be changed: a test need not wait for a heartbeat."""

    def __init__(self, engine: AsyncEngine, identity: Authenticator, *, wake_url: str | None, seconds: float) -> None:
        self.heartbeat_seconds = 15.0
        self.poll_seconds = 0.5
        self.caller_ttl_seconds = 1.0
        self.max_queued_frames = 1000
        self.max_rows_per_poll = 5000
        self._feed = EventFeed(engine)
        self._identity = identity
        self._wake_url = wake_url
        self._seconds = seconds
        self._readers: set[Reader] = set()
        self._seen = Snapshot("")
        self._turn = asyncio.Lock()
        self._woken = asyncio.Event()
        self._replays = asyncio.Semaphore(REPLAYS_AT_ONCE)
        self._loops: list[asyncio.Task[None]] = []
        self._is_closing = False

    def start(self) -> None:
        """Listen, and look."""
        channels = [pubsub.EVENTS_CHANNEL, pubsub.INBOX_CHANNEL]
        listening = pubsub.subscribe(
            self._wake_url, channels, lambda *_: self._woken.set(), on_listening=self._woken.set
        )
        self._loops = [asyncio.create_task(listening), asyncio.create_task(self._look_for_ever())]

    async def stop(self) -> None:
        """End every stream, and looking."""
        self.close_streams()
        for loop in self._loops:
            loop.cancel()
            with suppress(asyncio.CancelledError):
                await loop

    def close_streams(self) -> None:
        """End every stream: the process is about to end."""
        self._is_closing = True
        for reader in self._readers:
            reader.end(STOPPING)

    async def subscribe(
        self, question: Credential, caller: Caller, *, incident: int | None, last_id: UUID | None, is_resuming: bool
    ) -> Reader:
        """A new reader; ``incident`` (the row's id) narrows. Who resumes gets what came after ``last_id`` first.

        :raises Unavailable: the database cannot be asked.
        :raises Refusal: they may not read here.
        """
        if self._is_closing:
            raise Unavailable
        reader = Reader(self, question, caller, incident)
        reader.last_id, reader.is_resuming = last_id, is_resuming
        # Not during a look: what it finds it hands only to those who were there when it began.
        async with self._turn:
            if not self._readers:
                try:
                    async with asyncio.timeout(self._seconds):
                        self._seen = await self._feed.now()
                except Exception as fault:
                    if _is_passing(fault):
                        raise Unavailable from fault
                    raise
            reader.since = self._seen
            self._readers.add(reader)
        if self._is_closing:
            reader.end(STOPPING)
        self._woken.set()
        return reader

    def leave(self, reader: Reader) -> None:
        """This one reads no more."""
        self._readers.discard(reader)

    @property
    def stream_count(self) -> int:
        """How many read."""
        return len(self._readers)

    async def owed(self, reader: Reader) -> AsyncIterator[bytes]:
        """What a reader who resumes has missed until they joined; later things come as to everyone."""
        organization, until = reader.organization.id, reader.since
        after = None
        try:
            async with self._replays:
                resumption = await self._feed.resumption(reader.last_id, organization, reader.person, until=until)
            while reader.ended is None:
                async with self._replays:
                    items, after = await self._feed.owed(
                        resumption, after, organization, reader.person, reader.incident, until=until
                    )
                    await self._recognize([reader])
                    projects = await self._feed.projects({item.incident for item in items})
                for item in items:
                    if reader.ended is None and reader.sees(item, projects[item.incident]):
                        yield item.frame
                if after is None:
                    return
        except Exception as fault:
            if not _is_passing(fault):
                log.exception("following.replay_failed")
            reader.end(UNAVAILABLE)

    async def look_again_at(self, readers: Iterable[Reader]) -> None:
        """Read anew who these are, where it was read too long ago; whose right has ended, their stream ends.

        A database that cannot be asked ends nothing: nothing is told in the meantime either.
        """
        with suppress(Unavailable):
            await self._recognize(readers)

    # --- looking -----------------------------------------------------------------------------------------------

    async def _look_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.poll_seconds if self._readers else None):
                    await self._woken.wait()
            self._woken.clear()
            if self._readers:
                try:
                    async with self._turn:
                        await self._look()
                except Exception as fault:
                    # Nothing is lost: the next look begins at the same snapshot.
                    if not _is_passing(fault):
                        log.exception("following.look_failed")
                    await asyncio.sleep(self.poll_seconds)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _look(self) -> None:
        readers = list(self._readers)
        async with asyncio.timeout(self._seconds):
            news = await self._feed.read_since(
                self._seen,
                {reader.organization.id for reader in readers},
                {reader.person for reader in readers if reader.person is not None},
                most=self.max_rows_per_poll,
            )
        if news.is_too_much:
            for reader in readers:
                reader.end(TOO_MUCH)
        elif news.items:
            concerned = defaultdict(list)
            for reader in readers:
                concerned[reader.organization.id].append(reader)
            for organization in {item.organization for item in news.items}:
                await self._recognize(concerned[organization])
            projects = await self._feed.projects({item.incident for item in news.items})
            await _hand_out(news.items, concerned, projects)
        self._seen = news.until

    async def _recognize(self, readers: Iterable[Reader]) -> None:
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        old = [reader for reader in readers if asked_at - reader.known_at >= self.caller_ttl_seconds]
        questions = list({reader.question for reader in old})
        answers: dict[Credential, Caller | Refusal] = {}
        for start in range(0, len(questions), ASKED_AT_ONCE):
            some = questions[start : start + ASKED_AT_ONCE]
            answers |= zip(some, await asyncio.gather(*(self._who(question) for question in some)), strict=True)
        for reader in old:
            known = answers[reader.question]
            try:
                if isinstance(known, Refusal):
                    raise known
                reader.learn(known, at=asked_at)
            except Refusal:
                reader.end(NOT_ALLOWED)

    async def _who(self, question: Credential) -> Caller | Refusal:
        try:
            return await self._identity.authenticate(
                question, deadline=asyncio.get_running_loop().time() + self._seconds
            )
        except Unavailable:
            raise
        except Refusal as refusal:
            return refusal


async def _hand_out(
    items: Iterable[Item], readers: Mapping[int, Collection[Reader]], projects: Mapping[int, Collection[ProjectFacts]]
) -> None:
    for item in items:
        for reader in readers[item.organization]:
            if reader.sees(item, projects[item.incident]):
                reader.offer(item.frame)
        # Thousands of readers take a while; the others are not to wait for all of it.
        await asyncio.sleep(0)


def _is_passing(fault: Exception) -> bool:
    return is_transient(fault) or isinstance(fault, Unavailable)


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
