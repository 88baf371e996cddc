"""The gateway's shared objects. They are built from its settings, and started and stopped with the application."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from celery import Celery
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.auth import Authenticator
from gateway.broker_inspector import BrokerInspector
from gateway.caller_slots import MAX_READS, MAX_REQUESTS, CallerQueues, CallerSlots
from gateway.chat import UrlKeeper
from gateway.directory_service import DirectoryService
from gateway.http.parsing import BODY_PART_SECONDS
from gateway.http.public_url import PublicUrl
from gateway.ledger.acceptance import CommandAcceptor
from gateway.ledger.cancellation import CommandCanceller
from gateway.ledger.outcomes import OutcomeWaiter
from gateway.ledger.used_tickets import UsedTickets
from gateway.metrics import Metrics
from gateway.operations_service import OperationsService
from gateway.rate_limit import MAX_WRONG_LOGINS, MAX_WRONG_TOKENS, FailureLimit, RateLimiter
from gateway.reads.alert_rules import AlertRuleQueries
from gateway.reads.chat_destinations import ChatDestinationQueries
from gateway.reads.command_outcomes import CommandOutcomes
from gateway.reads.comment_preview import CommentPreview
from gateway.reads.database import QueryRunner
from gateway.reads.incident_list import IncidentList
from gateway.reads.notification_decisions import DecisionQueries
from gateway.reads.observations import ObservationQueries
from gateway.reads.preferences import PreferenceQueries
from gateway.reads.queries import Queries
from gateway.reads.visitors import VisitorQueries
from gateway.reads.webhooks import WebhookQueries
from gateway.settings import GatewaySettings
from gateway.stream.broadcaster import EventBroadcaster
from gateway.stream.operations import OperationsBroadcaster
from gateway.webhooks import SecretKeeper, TargetChecker
from models.database.async_engine import CUSTOM_PLANS, GATEWAY_TIMEOUTS, make_async_engine
from models.database.engine import GENERIC_PLANS
from models.notifications.chat_url import URL_PURPOSE
from models.notifications.network_guard import HostResolver, NetworkGuard
from models.notifications.webhook import SECRET_PURPOSE
from models.secrets import SecretBox
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tasks.log_config import ProcessKind
from tasks.process_reporter import ProcessReporter


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The time limits after which a request is refused with 503.

    ``acceptance_seconds`` limits the time from authentication to the commit, so that callers who submit a command
    get the 503 within 1 s. ``read_seconds`` limits each query of a read, and ``pool_seconds`` the wait for a free
    pooled connection. ``body_part_seconds`` limits the wait for each part of a body (408). ``key_seconds`` limits
    how long a batch waits for an idempotency key that is in use.
    """

    acceptance_seconds: float = 0.8
    read_seconds: float = 5.0
    pool_seconds: float = 0.3
    key_seconds: float = 0.25
    body_part_seconds: float = BODY_PART_SECONDS


class Container:
    """The objects that requests share.

    Reads have their own connection pool, so slow reads do not delay commands. Commands with idempotency keys have
    another one, so waiting for a key does not delay commands without keys.
    """

    def __init__(self, settings: GatewaySettings, timeouts: Timeouts) -> None:
        self.settings = settings
        self.timeouts = timeouts
        self.public_url = PublicUrl(settings.public_url, settings.trusted_networks)
        self.metrics = Metrics()
        self.rate_limiter = RateLimiter(settings.rate)
        self.requests = CallerSlots(MAX_REQUESTS)
        self.reads_in_turn = CallerQueues(MAX_READS)
        self.wrong_tokens = FailureLimit(MAX_WRONG_TOKENS)
        self.broker: Celery = make_app(settings)
        self.hint_publisher = HintPublisher(self.broker)
        self.broker_inspector = BrokerInspector(self.broker)
        self._ledger = _engine(settings, timeouts, "tocsin gateway", pool_size=4)
        self._keyed_ledger = _engine(
            settings, timeouts, "tocsin gateway keys", pool_size=3, lock_timeout=f"{timeouts.key_seconds * 1000:.0f}ms"
        )
        self._reads = _engine(settings, timeouts, "tocsin gateway reads", pool_size=8, plans=CUSTOM_PLANS)
        self.engines = (self._ledger, self._keyed_ledger, self._reads)
        seconds = timeouts.acceptance_seconds
        self.authenticator = Authenticator(self._ledger, timeout_seconds=seconds)
        self.acceptor = CommandAcceptor(self._ledger, self._keyed_ledger, self.hint_publisher, timeout_seconds=seconds)
        self.canceller = CommandCanceller(self._ledger, self.hint_publisher)
        self.outcomes = OutcomeWaiter(self._ledger, wake_url=settings.wake_url, timeout_seconds=seconds)
        self.used_tickets = UsedTickets(self._ledger)
        runner = QueryRunner(self._reads, seconds=timeouts.read_seconds)
        self.queries = Queries(runner)
        self.command_outcomes = CommandOutcomes(runner)
        self.incident_list = IncidentList(runner)
        self.previews = CommentPreview(runner, notify_window=settings.notify_window)
        self.preferences = PreferenceQueries(runner)
        self.decisions = DecisionQueries(runner)
        self.visitors = VisitorQueries(runner)
        self.rules = AlertRuleQueries(runner)
        self.observations = ObservationQueries(runner)
        self.webhooks = WebhookQueries(runner)
        self.chat_destinations = ChatDestinationQueries(runner)
        self._resolver = HostResolver()
        self.target_checker = TargetChecker(NetworkGuard(settings.allowed_networks), self._resolver)
        self.secret_keeper = SecretKeeper(SecretBox(settings.secrets, SECRET_PURPOSE) if settings.secrets else None)
        self.url_keeper = UrlKeeper(SecretBox(settings.secrets, URL_PURPOSE) if settings.secrets else None)
        self.broadcaster = EventBroadcaster(
            self._reads,
            self.authenticator,
            wake_url=settings.wake_url,
            seconds=timeouts.read_seconds,
        )
        self.metrics.track_streams(lambda: self.broadcaster.stream_count)
        self.metrics.track_alarms(lambda: self.hint_publisher.blocked_reason is not None)
        self.directory = DirectoryService(settings.database_url)
        self.operations = OperationsService(self._reads, settings, seconds=timeouts.read_seconds)
        self.operations_stream = OperationsBroadcaster(self.operations.snapshot)
        self.failed_logins = FailureLimit(MAX_WRONG_LOGINS)
        self._reporter = ProcessReporter(settings.database_url, ProcessKind.GATEWAY, lambda: self.metrics.accepted)

    def start(self) -> None:
        """Start publishing hints and listening for outcomes and events, even if the servers are still unavailable."""
        self.hint_publisher.start()
        self.outcomes.start()
        self.broadcaster.start()
        self._reporter.start()

    def release(self) -> None:
        """End all streams and all waits for outcomes, so that the process can stop."""
        self.outcomes.release()
        self.broadcaster.close_streams()
        self.operations_stream.close_streams()
        self._reporter.request_stop()

    async def stop(self) -> None:
        """Finish the work in flight, publish the remaining hints, and close all connections."""
        await self.broadcaster.stop()
        await self.operations_stream.stop()
        await self.authenticator.stop()
        await self.acceptor.stop()
        await self.outcomes.stop()
        await asyncio.to_thread(self.hint_publisher.stop)
        await asyncio.to_thread(self._reporter.stop)
        self.broker_inspector.close()
        self.directory.close()
        self._resolver.close()
        for engine in self.engines:
            await engine.dispose()


def _engine(
    settings: GatewaySettings,
    timeouts: Timeouts,
    name: str,
    *,
    pool_size: int,
    lock_timeout: str = GATEWAY_TIMEOUTS["lock_timeout"],
    plans: dict[str, str] = GENERIC_PLANS,
) -> AsyncEngine:
    return make_async_engine(
        settings.database_url,
        application=name,
        pool_size=pool_size,
        pool_timeout=timeouts.pool_seconds,
        lock_timeout=lock_timeout,
        plans=plans,
    )
