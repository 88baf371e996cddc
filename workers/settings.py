"""Settings for the worker, the relay and the notifier."""

from __future__ import annotations

from pydantic import Field, field_validator

from models.secrets import parse_secrets
from tasks.settings import DEFAULT_NOTIFY_WINDOW, ProcessSettings


class WorkerSettings(ProcessSettings):
    """Settings for the worker, the relay and the notifier.

    ``notify_window`` is in seconds. Without ``secret``, nothing is sent that is encrypted or signed with it.
    """

    notify_window: float = Field(default=DEFAULT_NOTIFY_WINDOW, ge=0, le=3600)
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
