"""What workers, relay and notifier read from the environment."""

from __future__ import annotations

from typing import Literal

from models.settings import DatabaseSettings
from tasks.settings import BrokerSettings


class WorkerSettings(DatabaseSettings, BrokerSettings):
    """Where the tables and the queues are, and how much to say in the log."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
