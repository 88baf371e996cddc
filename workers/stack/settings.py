"""Settings for `tocsin up`: the configured servers and the data directory."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from models.settings import Settings


class StackSettings(Settings):
    """The servers to use instead of embedded ones, the data directory, and settings to pass to the processes."""

    database_url: str | None = Field(default=None, validation_alias="DATABASE_URL")
    broker_url: str | None = Field(default=None, validation_alias="BROKER_URL")
    redis_url: str | None = Field(default=None, validation_alias="REDIS_URL")
    data: Path = Path(".tocsin")
    secret: str | None = None
    public_url: str | None = None
    smtp_url: str | None = None
    webhook_allow: str = ""
    notify_window: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The configured URLs by variable name. A Redis broker also carries wake-ups unless ``REDIS_URL`` is set."""
        urls = {"DATABASE_URL": self.database_url, "BROKER_URL": self.broker_url, "REDIS_URL": self.redis_url}
        if self.broker_url and self.broker_url.startswith("redis"):
            urls["REDIS_URL"] = self.redis_url or self.broker_url.replace("redis+socket://", "unix://")
        return {name: url for name, url in urls.items() if url}
