"""What every request leans on: built from settings, started and stopped with the application."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from celery import Celery
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.auth import Authenticator
from gateway.directory_service import DirectoryService
from gateway.ledger.acceptance import CommandAcceptor
from gateway.ledger.outcomes import Outcomes
from gateway.metrics import Metrics
from gateway.rate_limit import RateLimiter
from gateway.reads.alert_rules import AlertRuleQueries
from gateway.reads.comment_preview import CommentPreview
from gateway.reads.database import QueryRunner
from gateway.reads.incident_list import IncidentList
from gateway.reads.observations import ObservationQueries
from gateway.reads.queries import Queries
from gateway.settings import GatewaySettings
from gateway.stream.broadcaster import EventBroadcaster
from models.database.async_engine import make_async_engine
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that work may take before the answer is "unavailable", which must arrive within 1 s.

    ``accepting`` is from the credential to the commit, ``reading`` is one read, ``connecting`` a place in the pool.
    """

    acceptance_seconds: float = 0.8
    read_seconds: float = 5.0
    pool_seconds: float = 0.3


class Container:
    """The gateway's engines and batchers. Reads have a pool of their own: slow ones hold up no command."""

    def __init__(self, settings: GatewaySettings, patience: Timeouts) -> None:
        self.settings = settings
        self.patience = patience
        self.metrics = Metrics()
        self.rate_limiter = RateLimiter(settings.rate)
        self.broker: Celery = make_app(settings)
        self._hinter = HintPublisher(self.broker)
        self._ledger = _engine(settings, patience, "tocsin gateway", pool_size=4)
        self._reads = _engine(settings, patience, "tocsin gateway reads", pool_size=8, plans_anew=True)
        self.authenticator = Authenticator(self._ledger, seconds=patience.acceptance_seconds)
        self.acceptance = CommandAcceptor(self._ledger, self._hinter, seconds=patience.acceptance_seconds)
        self.outcomes = Outcomes(self._ledger, wake_url=settings.wake_url, seconds=patience.acceptance_seconds)
        reader = QueryRunner(self._reads, seconds=patience.read_seconds)
        self.queries = Queries(reader)
        self.incident_list = IncidentList(reader)
        self.previews = CommentPreview(reader)
        self.rules = AlertRuleQueries(reader)
        self.observations = ObservationQueries(reader)
        self.broadcaster = EventBroadcaster(
            self._reads, self.authenticator, wake_url=settings.wake_url, seconds=patience.read_seconds
        )
        self.metrics.track_streams(lambda: self.broadcaster.stream_count)
        self.directory = DirectoryService(settings.database_url)

    def start(self) -> None:
        """Start listening for outcomes and events, and publishing hints; nothing of it needs its server to be there."""
        self._hinter.start()
        self.outcomes.start()
        self.broadcaster.start()

    def release(self) -> None:
        """Nobody is to wait or to read any longer: the process is about to end."""
        self.outcomes.release()
        self.broadcaster.close_streams()

    async def stop(self) -> None:
        """End what is in flight, publish the hints that wait, give the connections back."""
        await self.broadcaster.stop()
        await self.authenticator.stop()
        await self.acceptance.stop()
        await self.outcomes.stop()
        await asyncio.to_thread(self._hinter.stop)
        self.directory.close()
        await self._ledger.dispose()
        await self._reads.dispose()


def _engine(
    settings: GatewaySettings, patience: Timeouts, name: str, *, pool_size: int, plans_anew: bool = False
) -> AsyncEngine:
    return make_async_engine(
        settings.database_url,
        application=name,
        pool_size=pool_size,
        pool_timeout=patience.pool_seconds,
        custom_plans=plans_anew,
    )
