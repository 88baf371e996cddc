"""What the queues read from the environment."""

from __future__ import annotations

from pydantic import Field, field_validator

from models.settings import Settings


class BrokerSettings(Settings):
    """Where the broker is, and where wake-ups travel."""

    broker_url: str = Field(validation_alias="BROKER_URL")
    redis_url: str | None = Field(default=None, validation_alias="REDIS_URL")
    celery_events: bool = False

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, url: str) -> str:
        if url.startswith(("redis://", "rediss://", "redis+socket://", "amqp://", "amqps://")):
            return url
        raise ValueError("it must start with redis://, rediss://, amqp:// or amqps://")

    @property
    def on_redis(self) -> bool:
        """Whether the broker is Valkey or Redis; else it is RabbitMQ."""
        return self.broker_url.startswith("redis")

    @property
    def wake_url(self) -> str | None:
        """The Valkey or Redis for wake-ups; none means that every waiter polls."""
        return self.redis_url or (self.broker_url if self.on_redis else None)
