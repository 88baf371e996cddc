"""A client for tocsin that posts commands, waits for their outcomes, and follows events.

:class:`Tocsin` blocks; :class:`AsyncTocsin` has the same methods as coroutines. Every post carries an
``Idempotency-Key`` and is retried with that key until a server responds, so it takes effect only once, however often
the connection breaks.
"""

from tocsin_client.clients import AsyncTocsin, Tocsin
from tocsin_client.commands import (
    Command,
    DeleteComment,
    EditComment,
    MarkSeen,
    MuteIncident,
    OpenIncident,
    PostComment,
    RawCommand,
    ReadNotifications,
    SetStatus,
    Subscribe,
    UnmuteIncident,
    Unsubscribe,
)
from tocsin_client.errors import Failed, Refused, TimedOut, TocsinError, Unreachable
from tocsin_client.results import CommandRecord, Decision, Event, Outcome, Preferences
from tocsin_client.rule_commands import (
    Action,
    CreateAlertRule,
    DeleteAlertRule,
    ObserveMetric,
    SnoozeAlertRule,
    Trigger,
    UnsnoozeAlertRule,
    UpdateAlertRule,
)
from tocsin_client.webhooks import InvalidWebhook, verify_webhook

__all__ = [
    "Action",
    "AsyncTocsin",
    "Command",
    "CommandRecord",
    "CreateAlertRule",
    "Decision",
    "DeleteAlertRule",
    "DeleteComment",
    "EditComment",
    "Event",
    "Failed",
    "InvalidWebhook",
    "MarkSeen",
    "MuteIncident",
    "ObserveMetric",
    "OpenIncident",
    "Outcome",
    "PostComment",
    "Preferences",
    "RawCommand",
    "ReadNotifications",
    "Refused",
    "SetStatus",
    "SnoozeAlertRule",
    "Subscribe",
    "TimedOut",
    "Tocsin",
    "TocsinError",
    "Trigger",
    "UnmuteIncident",
    "Unreachable",
    "UnsnoozeAlertRule",
    "Unsubscribe",
    "UpdateAlertRule",
    "verify_webhook",
]
