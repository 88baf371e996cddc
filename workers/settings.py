"""Settings of worker, relay and notifier."""

from __future__ import annotations

from tasks.settings import ProcessSettings


class WorkerSettings(ProcessSettings):
    """The settings of worker, relay and notifier."""
