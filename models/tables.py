"""Import all modules that define tables, so that ``METADATA`` is complete for Alembic and for the tests."""

from __future__ import annotations

from models.alert_rules import alert_rule
from models.base import METADATA
from models.directory import tables
from models.incidents import activity, incident, list_projection, subscription
from models.messaging import attempts, canary, claims, command_ledger, hold, outbox
from models.notifications import chat_destination, delivery, notification, stored_preferences, tickets, webhook
from models.operations import tables as operations

__all__ = [
    "METADATA",
    "activity",
    "alert_rule",
    "attempts",
    "canary",
    "chat_destination",
    "claims",
    "command_ledger",
    "delivery",
    "hold",
    "incident",
    "list_projection",
    "notification",
    "operations",
    "outbox",
    "stored_preferences",
    "subscription",
    "tables",
    "tickets",
    "webhook",
]
