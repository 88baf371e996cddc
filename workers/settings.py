"""Settings for the worker, the relay and the notifier."""

from __future__ import annotations

from tasks.settings import ProcessSettings


class WorkerSettings(ProcessSettings):
    """Settings for the worker, the relay and the notifier."""
