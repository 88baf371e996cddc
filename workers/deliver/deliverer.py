"""The deliverer: it claims due deliveries, sends each through its channel, and records every attempt.

It runs in a thread of its own with an event loop, so that a hundred messages can be under way at the same time.
A target that hangs holds only its own share of the slots (:mod:`workers.deliver.retry`), and a channel that fails in
an unexpected way costs one attempt of one delivery.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from models.database.async_engine import make_async_engine
from models.database.errors import is_transient
from models.messaging.outbox import events
from models.notifications.delivery import DeliveryState
from models.timestamps import iso_or_none
from tasks.outage_log import OutageLog
from tasks.tracing import is_tracing, record_delivery_span
from workers.deliver.batcher import Batcher
from workers.deliver.channel import (
    AttemptResult,
    Channel,
    ClaimedDelivery,
    Outgoing,
    Postponed,
    Verdict,
    Withheld,
)
from workers.deliver.claim import LEASE_SECONDS, claim_due, next_due_seconds, take_over
from workers.deliver.prepare import prepare
from workers.deliver.presence import Presence
from workers.deliver.record import Attempt, Update, record
from workers.deliver.retry import CircuitBreaker, retry_delay_seconds
from workers.runtime.polling import ERROR_DELAYS_SECONDS

SLOTS: Final = 128
"""How many messages may be under way at the same time."""

IDLE_SECONDS: Final = 5.0
"""How long the deliverer waits at most before it looks for due deliveries without having been woken."""

GATHER_SECONDS: Final = 0.1
"""How long the deliverer waits at most, before it claims, until half of the messages under way have been sent."""

RECORD_SECONDS: Final = 0.02
"""How long attempts are collected before they are recorded in one transaction."""

TAKE_OVER_SECONDS: Final = 10.0
"""How many seconds pass between two searches for the claims of dead processes."""

RECORD_DELAYS_SECONDS: Final = (*ERROR_DELAYS_SECONDS, *[ERROR_DELAYS_SECONDS[-1]] * 12)
"""The pauses between attempts to record what became of a message while the database is away."""

STOP_SECONDS: Final = 5.0
"""How long messages that are under way may still take when the process stops."""

log = structlog.get_logger(__name__)

Prepared = Outgoing | Withheld | Postponed


class _Sent(NamedTuple):
    """An attempt to record, with the updates of all deliveries in the message."""

    process: UUID
    channel: Channel
    updates: list[Update]
    attempt: Attempt


class Deliverer:
    """Sends deliveries in the background, from :meth:`start` to :meth:`stop`. Any number of deliverers may run."""

    def __init__(
        self,
        database_url: str,
        channels: Sequence[Channel],
        *,
        slots: int = SLOTS,
        lease_seconds: float = LEASE_SECONDS,
        on_attempt: Callable[[str, str, float], object] | None = None,
    ) -> None:
        """Set up the deliverer, without connecting to anything.

        ``on_attempt`` is called after each attempt with the channel, the verdict and how many seconds it took.
        """
        self._url = database_url
        self._channels = {channel.name: channel for channel in channels}
        self._slots = slots
        self._lease_seconds = lease_seconds
        self._on_attempt = on_attempt
        self._is_renewing = False
        self._in_flight: Counter[str] = Counter()
        self._breakers: dict[str, CircuitBreaker] = defaultdict(CircuitBreaker)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run_thread, name="deliverer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._stopping = threading.Event()
        self._take_over_at = 0.0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look for due deliveries now. May be called from any thread."""
        if self._loop is not None and not self._stopping.is_set():
            self._loop.call_soon_threadsafe(self._woken.set)

    def stop(self) -> None:
        """Claim nothing more, wait a few seconds for messages under way, and end the thread.

        What is still under way then stays claimed, and is taken over as after a crash.
        """
        self._stopping.set()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._woken.set)
        self._thread.join(STOP_SECONDS + 2)

    def _run_thread(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            runner.run(self._run())
            self._loop = None

    async def _run(self) -> None:
        engine = make_async_engine(self._url, application="tocsin-deliverer", pool_size=4, pool_timeout=5.0)
        presence = Presence(engine)
        self._recorder = Batcher(partial(_record_sent, engine), pause_seconds=RECORD_SECONDS)
        outage = OutageLog("deliverer.failed")
        try:
            while not self._stopping.is_set():
                try:
                    pause = await self._deliver_due(engine, presence)
                except Exception as error:
                    outage.record_error(error)
                    # What was claimed and is not being sent is taken over.
                    self._is_renewing = True
                    pause = ERROR_DELAYS_SECONDS[min(outage.errors, len(ERROR_DELAYS_SECONDS)) - 1]
                else:
                    outage.end()
                await self._wait(pause)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for channel in self._channels.values():
                await channel.close()
            await self._recorder.close()
            await presence.close()
            await engine.dispose()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
        if self._in_flight:
            await self._gather()
        self._woken.clear()

    async def _gather(self) -> None:
        """Wait until slots have become free. Claiming and preparing costs the same for one delivery as for many."""
        enough = self._in_flight.total() / 2
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                while self._in_flight.total() > enough and not self._stopping.is_set():
                    self._woken.clear()
                    await self._woken.wait()

    async def _deliver_due(self, engine: AsyncEngine, presence: Presence) -> float:
        """Start sending what is due and has a free slot. Return after how many seconds to look again."""
        if self._is_renewing:
            self._is_renewing = False
            await presence.close()
        await presence.ensure()
        await self._take_over(engine, presence.name)
        free = self._slots - self._in_flight.total()
        if free <= 0 or not self._channels:
            # A finished message wakes the loop.
            return IDLE_SECONDS
        async with engine.begin() as connection:
            claimed = await claim_due(
                connection,
                presence.name,
                channels={name: channel.concurrency_per_target for name, channel in self._channels.items()},
                limits=self._limits(),
                most=free,
            )
            due_in = None if claimed else await next_due_seconds(connection, list(self._channels))
        if not claimed:
            return self._idle_seconds(due_in)
        for delivery in claimed:
            self._in_flight[delivery.target_key] += 1
        by_channel: dict[str, list[ClaimedDelivery]] = defaultdict(list)
        for delivery in claimed:
            by_channel[delivery.channel].append(delivery)
        for name, deliveries in by_channel.items():
            self._spawn(self._deliver_all(engine, presence.name, self._channels[name], deliveries))
        return 0.0

    def _idle_seconds(self, due_in: float | None) -> float:
        if due_in is None:
            return IDLE_SECONDS
        # Something that is due already belongs to a target that is busy or left alone.
        return min(IDLE_SECONDS, due_in) if due_in > 0 else 0.5

    def _limits(self) -> dict[str, int]:
        """Return the limits of the targets that are busy or whose circuit breaker is open."""
        now = time.monotonic()
        limits = {}
        for key in self._in_flight.keys() | self._breakers.keys():
            channel = self._channels.get(key.partition(":")[0])
            concurrency = channel.concurrency_per_target if channel else 0
            limits[key] = max(0, self._breakers[key].limit(now, concurrency) - self._in_flight[key])
        return limits

    async def _take_over(self, engine: AsyncEngine, process: UUID) -> None:
        if time.monotonic() < self._take_over_at:
            return
        self._take_over_at = time.monotonic() + TAKE_OVER_SECONDS
        async with engine.begin() as connection:
            if taken := await take_over(connection, process, lease_seconds=self._lease_seconds):
                log.warning("deliverer.took_over", deliveries=len(taken))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver_all(
        self, engine: AsyncEngine, process: UUID, channel: Channel, claimed: Sequence[ClaimedDelivery]
    ) -> None:
        """Prepare the deliveries together, record those that are withheld, and send the others at the same time."""
        unsent = {delivery.id: delivery for delivery in claimed}
        try:
            prepared = await self._prepare(engine, process, channel, claimed)
            if withheld := [update for each in claimed for update in _withhold(each, prepared)]:
                async with engine.begin() as connection:
                    await record(connection, process, withheld)
            traces = await _read_traces(engine, claimed) if is_tracing() else {}
            sending = []
            for delivery in claimed:
                for each in delivery.merged:
                    if isinstance(message := prepared.get(each.id), Outgoing):
                        del unsent[delivery.id]
                        sent = tuple(other for other in delivery.merged if not _is_withheld(prepared.get(other.id)))
                        traced = partial(_record_span, each, traces.get(each.event_id))
                        whole = each._replace(merged=sent)
                        sending.append(self._deliver(engine, process, channel, whole, message, traced))
            await asyncio.gather(*sending)
        except Exception:
            # Their claims are given up with this process's name, and are taken over.
            log.exception("deliverer.batch_failed", channel=channel.name, deliveries=len(unsent))
            self._is_renewing = True
        finally:
            for delivery in unsent.values():
                self._free(delivery)

    async def _prepare(
        self, engine: AsyncEngine, process: UUID, channel: Channel, claimed: Sequence[ClaimedDelivery]
    ) -> Mapping[UUID, Prepared]:
        """Prepare the deliveries together. If that fails, prepare each half alone, until those that fail are isolated.

        Those that fail alone count an attempt, lest they are tried for ever.

        :raises Exception: if the database is away or busy. No delivery is at fault.
        """
        try:
            # Without a transaction: it would be two round trips more, and idle while messages are rendered.
            async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                return await prepare(connection, channel, claimed)
        except Exception as error:
            if is_transient(error):
                raise
            if len(claimed) == 1:
                log.exception("deliverer.prepare_failed", delivery=str(claimed[0].id))
                await self._record_fault(engine, process, claimed[0])
                return {}
            middle = len(claimed) // 2
            first = await self._prepare(engine, process, channel, claimed[:middle])
            return {**first, **await self._prepare(engine, process, channel, claimed[middle:])}

    async def _record_fault(self, engine: AsyncEngine, process: UUID, delivery: ClaimedDelivery) -> None:
        fault = AttemptResult(Verdict.PASSING, error="the message could not be prepared; the log says why")
        attempt = Attempt(delivery, datetime.now(UTC), 0, fault)
        async with engine.begin() as connection:
            await record(connection, process, self._updates_after(attempt, body=None), [attempt])

    async def _deliver(
        self,
        engine: AsyncEngine,
        process: UUID,
        channel: Channel,
        delivery: ClaimedDelivery,
        message: Outgoing,
        record_span: Callable[[AttemptResult, float], None],
    ) -> None:
        started, at = time.perf_counter(), datetime.now(UTC)
        try:
            result = await _send(channel, delivery, message)
            seconds = time.perf_counter() - started
            record_span(result, seconds)
            if self._on_attempt is not None:
                self._on_attempt(delivery.channel, result.verdict.value, seconds)
            duration_ms = round(seconds * 1000)
            self._note(delivery, result)
            await self._record_attempt(engine, process, channel, message, Attempt(delivery, at, duration_ms, result))
        finally:
            self._free(delivery)

    async def _record_attempt(
        self, engine: AsyncEngine, process: UUID, channel: Channel, message: Outgoing, attempt: Attempt
    ) -> None:
        """Record the attempt, together with those that end at the same time.

        If that fails, record it alone. If the database is away, keep trying for a while: the message may have been
        delivered.
        """
        updates = self._updates_after(attempt, body=message.body)
        try:
            await self._recorder.submit(_Sent(process, channel, updates, attempt))
        except Exception as error:
            log.warning("deliverer.batch_not_recorded", delivery=str(attempt.delivery.id), error=str(error))
        else:
            _log_attempt(attempt)
            return
        for delay in RECORD_DELAYS_SECONDS:
            try:
                async with engine.begin() as connection:
                    await record(connection, process, updates, [attempt])
                    await channel.record(connection, attempt.delivery, attempt.result)
            except Exception as error:
                log.warning("deliverer.record_failed", delivery=str(attempt.delivery.id), error=str(error))
                await asyncio.sleep(delay)
            else:
                _log_attempt(attempt)
                return
        self._is_renewing = True

    def _updates_after(self, attempt: Attempt, *, body: bytes | None) -> list[Update]:
        """Return the updates of all deliveries in the message. ``body`` is kept if there is to be another attempt."""
        delivery, result = attempt.delivery, attempt.result
        attempts = delivery.attempts + 1
        state, due_at = _STATES[result.verdict], None
        if state is DeliveryState.PENDING:
            delay = retry_delay_seconds(
                attempts,
                self._channels[delivery.channel].retry_delays_seconds,
                retry_after_seconds=result.retry_after_seconds,
            )
            if delay is None:
                state = DeliveryState.DEAD
            else:
                due_at = attempt.at + timedelta(seconds=delay)
        is_kept = state is DeliveryState.PENDING and delivery.body is None
        return [
            Update(
                id=each.id,
                state=state,
                attempts=attempts,
                due_at=due_at,
                is_merged=each.is_merged,
                merged_into=delivery.id if each.is_merged else None,
                body=body if is_kept and each.id == delivery.id else None,
                rule=None,
                detail=result.error or "",
            )
            for each in delivery.merged
        ]

    def _note(self, delivery: ClaimedDelivery, result: AttemptResult) -> None:
        breaker = self._breakers[delivery.target_key]
        if result.is_target_fault:
            breaker.record_fault(time.monotonic())
        else:
            breaker.record_success()

    def _free(self, delivery: ClaimedDelivery) -> None:
        self._in_flight[delivery.target_key] -= 1
        if self._in_flight[delivery.target_key] <= 0:
            del self._in_flight[delivery.target_key]
            if not self._breakers[delivery.target_key].faults:
                del self._breakers[delivery.target_key]
        self._woken.set()


async def _record_sent(engine: AsyncEngine, batch: Sequence[_Sent]) -> None:
    """Record attempts in one transaction."""
    by_process: dict[UUID, list[_Sent]] = defaultdict(list)
    for each in batch:
        by_process[each.process].append(each)
    async with engine.begin() as connection:
        for process, sent in by_process.items():
            updates = [update for each in sent for update in each.updates]
            await record(connection, process, updates, [each.attempt for each in sent])
        # Always in the same order, so that two processes do not wait for each other.
        for each in sorted(batch, key=lambda sent: (sent.channel.name, sent.attempt.delivery.destination_id or 0)):
            await each.channel.record(connection, each.attempt.delivery, each.attempt.result)


async def _read_traces(engine: AsyncEngine, claimed: Sequence[ClaimedDelivery]) -> Mapping[UUID | None, str]:
    """Return the ``traceparent`` of the deliveries' events, by event id, as far as they have one."""
    ids = {each.event_id for delivery in claimed for each in delivery.merged if each.event_id is not None}
    found = select(events.c.id, events.c.traceparent).where(events.c.id.in_(ids), events.c.traceparent.is_not(None))
    async with engine.connect() as connection:
        return {row.id: row.traceparent for row in await connection.execute(found)}


def _record_span(delivery: ClaimedDelivery, traceparent: str | None, result: AttemptResult, seconds: float) -> None:
    if traceparent is not None:
        error = None if result.verdict is Verdict.DELIVERED else result.verdict.value
        record_delivery_span(delivery.channel, traceparent, seconds=seconds, error=error, delivery=delivery.id)


async def _send(channel: Channel, delivery: ClaimedDelivery, message: Outgoing) -> AttemptResult:
    """Send the message within the channel's deadline. Any fault of the channel is a failed attempt."""
    try:
        async with asyncio.timeout(channel.deadline_seconds):
            return await channel.send(delivery, message)
    except TimeoutError:
        return AttemptResult(
            Verdict.PASSING,
            error=f"no answer within {channel.deadline_seconds:g} s, so it may have arrived",
            is_target_fault=True,
        )
    except Exception as error:
        log.exception("deliverer.channel_failed", channel=channel.name, delivery=str(delivery.id))
        return AttemptResult(Verdict.PASSING, error=f"unexpected {type(error).__name__}; the log says more")


def _is_withheld(prepared: Prepared | None) -> bool:
    return isinstance(prepared, (Withheld, Postponed))


def _withhold(delivery: ClaimedDelivery, prepared: Mapping[UUID, Outgoing | Withheld | Postponed]) -> list[Update]:
    """Return the updates of those deliveries in the message that are not sent now.

    A delivery that the channel does not mention is sent with the message of its group.
    """
    updates = []
    for each in delivery.merged:
        decision = prepared.get(each.id)
        if isinstance(decision, Withheld):
            state, due_at, merged, detail = decision.state, None, each.is_merged, decision.detail
        elif isinstance(decision, Postponed):
            state, due_at, merged, detail = DeliveryState.PENDING, decision.due_at, decision.is_merged, _until(decision)
        else:
            continue
        updates.append(
            Update(each.id, state, each.attempts, due_at, merged, each.merged_into, None, decision.rule, detail)
        )
    return updates


def _until(decision: Postponed) -> str:
    return f"until {iso_or_none(decision.due_at)}"


def _log_attempt(attempt: Attempt) -> None:
    delivery, result = attempt.delivery, attempt.result
    log.info(
        "delivery.attempted",
        delivery=str(delivery.id),
        channel=delivery.channel,
        organization=delivery.organization_id,
        verdict=result.verdict.value,
        status=result.status,
        error=result.error,
        attempt=delivery.attempts + 1,
        ms=attempt.duration_ms,
    )


_STATES: Final = {
    Verdict.DELIVERED: DeliveryState.DELIVERED,
    Verdict.PASSING: DeliveryState.PENDING,
    Verdict.PERMANENT: DeliveryState.FAILED,
}
