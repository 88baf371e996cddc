"""Settings for the worker, the relay and the notifier."""

from __future__ import annotations

from pydantic import Field

from tasks.settings import ProcessSettings, SecretSettings


class WorkerSettings(ProcessSettings, SecretSettings):
    """Settings for the worker, the relay and the notifier.

    ``notify_window`` is in seconds.
    """

    notify_window: float = Field(default=10.0, ge=0, le=3600)
    public_url: str | None = None
    smtp_url: str | None = None
    mail_from: str | None = None
