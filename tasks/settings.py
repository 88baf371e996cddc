"""Settings for the broker, for logging, and for all long-running processes."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple

from pydantic import Field, field_validator

from models.notifications.network_guard import Network, parse_networks
from models.secrets import parse_secrets
from models.settings import DatabaseSettings, Settings
from tasks.service_queues import ServiceQueue, parse_service_queues

DEFAULT_NOTIFY_WINDOW: Final = 10.0
"""How many seconds messages to people wait, in case of an edit or a deletion, without ``TOCSIN_NOTIFY_WINDOW``."""


class LogLevel(StrEnum):
    """The lowest severity that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogSettings(Settings):
    """The setting for the log level."""

    log_level: LogLevel = LogLevel.INFO


class BrokerSettings(Settings):
    """Settings for the broker: its URL, the URL for wake-ups over Valkey, and whether workers send Celery events.

    ``service_queues`` lists the queues of other services that the relay binds to the events exchange, in the format of
    :func:`tasks.service_queues.parse_service_queues`.
    """

    broker_url: str = Field(validation_alias="BROKER_URL")
    redis_url: str | None = Field(default=None, validation_alias="REDIS_URL")
    celery_events: bool = False
    service_queues: str = ""

    @field_validator("broker_url")
    @classmethod
    def _check_scheme(cls, url: str) -> str:
        if url.startswith(("redis://", "rediss://", "redis+socket://", "amqp://", "amqps://")):
            return url
        raise ValueError("it must start with redis://, rediss://, amqp:// or amqps://")

    @field_validator("service_queues")
    @classmethod
    def _check_service_queues(cls, text: str) -> str:
        parse_service_queues(text)
        return text

    @property
    def parsed_service_queues(self) -> tuple[ServiceQueue, ...]:
        """The queues of other services, with their routing keys."""
        return parse_service_queues(self.service_queues)

    @property
    def on_redis(self) -> bool:
        """Whether the broker is Valkey or Redis; otherwise it is RabbitMQ."""
        return self.broker_url.startswith("redis")

    @property
    def wake_url(self) -> str | None:
        """The URL of the Valkey or Redis server that carries wake-ups. If ``None``, waiting processes only poll."""
        return self.redis_url or (self.broker_url if self.on_redis else None)


class SecretSettings(Settings):
    """Settings for processes that handle stored secrets and the addresses that tenants choose.

    ``secret`` holds one or more secrets (:func:`models.secrets.parse_secrets`). Without it, nothing is stored or sent
    that is encrypted or signed with it. ``webhook_allow`` is a comma-separated list of CIDRs.
    """

    secret: str | None = None
    webhook_allow: str = ""

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, setting: str | None) -> str | None:
        if setting is not None:
            parse_secrets(setting)
        return setting

    @field_validator("webhook_allow")
    @classmethod
    def _check_networks(cls, setting: str) -> str:
        parse_networks(setting)
        return setting

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets in ``secret``, the current one first; empty if the setting is not set."""
        return parse_secrets(self.secret) if self.secret else ()

    @property
    def allowed_networks(self) -> tuple[Network, ...]:
        """The networks in ``webhook_allow``."""
        return parse_networks(self.webhook_allow)


class MetricsAddress(NamedTuple):
    """Where a process serves its metrics: on the first port in a range that is free."""

    host: str
    first_port: int
    last_port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        last = f"-{self.last_port}" if self.last_port > self.first_port else ""
        return f"{host}:{self.first_port}{last}"


class MetricsSettings(Settings):
    """The setting for where metrics are served. An empty ``metrics`` turns that off."""

    metrics: str = ""

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, text: str) -> str:
        if text:
            parse_metrics_address(text)
        return text

    @property
    def metrics_address(self) -> MetricsAddress | None:
        """The address in ``metrics``; ``None`` if the setting is not set."""
        return parse_metrics_address(self.metrics) if self.metrics else None


_METRICS_ADDRESS: Final = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


def parse_metrics_address(text: str) -> MetricsAddress:
    """Return an address given as ``HOST:PORT`` or ``HOST:FIRST-LAST``.

    :raises ValueError: if it is not such an address.

    >>> parse_metrics_address("127.0.0.1:9464-9473")
    MetricsAddress(host='127.0.0.1', first_port=9464, last_port=9473)
    >>> parse_metrics_address("[::1]:9464")
    MetricsAddress(host='::1', first_port=9464, last_port=9464)
    """
    found = _METRICS_ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError("it must look like 127.0.0.1:9464 or 127.0.0.1:9464-9473")
    first, last = int(found[3]), int(found[4] or found[3])
    if not 0 < first <= last < 65_536:
        raise ValueError("its ports must be between 1 and 65535, and the first not above the last")
    return MetricsAddress(found[1] or found[2], first, last)


class ProcessSettings(DatabaseSettings, BrokerSettings, LogSettings):
    """The settings that the gateway, the worker, the relay and the notifier have in common."""
