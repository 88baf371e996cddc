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
from tocsin_client.errors import Failed, NotApplied, Refused, TimedOut, TocsinError, Unreachable
from tocsin_client.resources import Activity, Incident, Notification, Person
from tocsin_client.results import CommandRecord, CommandRecords, Decision, Event, Hold, Outcome, Preferences
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
    "Activity",
    "AsyncTocsin",
    "Command",
    "CommandRecord",
    "CommandRecords",
    "CreateAlertRule",
    "Decision",
    "DeleteAlertRule",
    "DeleteComment",
    "EditComment",
    "Event",
    "Failed",
    "Hold",
    "Incident",
    "InvalidWebhook",
    "MarkSeen",
    "MuteIncident",
    "NotApplied",
    "Notification",
    "ObserveMetric",
    "OpenIncident",
    "Outcome",
    "Person",
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
