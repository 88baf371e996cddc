"""Every table, for alembic and for tests."""

from __future__ import annotations

from models import (
    activity,
    alert_rule,
    canary,
    command,
    delivery,
    directory,
    event,
    incident,
    listing,
    notification,
    subscription,
)
from models.base import METADATA

__all__ = [
    "METADATA",
    "activity",
    "alert_rule",
    "canary",
    "command",
    "delivery",
    "directory",
    "event",
    "incident",
    "listing",
    "notification",
    "subscription",
]
