"""Settings for the worker, the relay and the notifier."""

from __future__ import annotations

from pydantic import Field, field_validator

from models.operations.retention import DEFAULT_KEEP_DAYS
from models.secrets import parse_secrets
from models.settings import Settings
from tasks.settings import ProcessSettings


class RetentionSettings(Settings):
    """How many days finished work is kept. 0 keeps everything."""

    keep_days: int = Field(default=DEFAULT_KEEP_DAYS, ge=0, le=36_500)


class WorkerSettings(ProcessSettings, RetentionSettings):
    """Settings for the worker, the relay and the notifier.

    ``notify_window`` is in seconds. Without ``secret``, nothing is sent that is encrypted or signed with it.
    """

    notify_window: float = Field(default=10.0, ge=0, le=3600)
    secret: str | None = None
    public_url: str | None = None
    smtp_url: str | None = None
    mail_from: str | None = None
    webhook_allow: str = ""

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, setting: str | None) -> str | None:
        if setting is not None:
            parse_secrets(setting)
        return setting

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets in ``secret``, the current one first; empty if the setting is not set."""
        return parse_secrets(self.secret) if self.secret else ()
