"""Post commands to tocsin, wait for their outcomes, follow what happens.

:class:`Tocsin` and :class:`AsyncTocsin` have the same methods. Whatever they post carries an Idempotency-Key and is
repeated with it until somebody answers, so it has one effect however often the connection breaks.
"""

from tocsin_client.clients import AsyncTocsin, Tocsin
from tocsin_client.errors import Failed, Refused, TimedOut, TocsinError, Unreachable
from tocsin_client.orders import (
    DeleteComment,
    EditComment,
    MarkSeen,
    OpenIncident,
    Order,
    PlainOrder,
    PostComment,
    ReadNotifications,
    SetStatus,
    Subscribe,
    Unsubscribe,
)
from tocsin_client.results import Command, Event, Outcome
from tocsin_client.rule_orders import (
    Action,
    CreateAlertRule,
    DeleteAlertRule,
    ObserveMetric,
    SnoozeAlertRule,
    Trigger,
    UnsnoozeAlertRule,
    UpdateAlertRule,
)

__all__ = [
    "Action",
    "AsyncTocsin",
    "Command",
    "CreateAlertRule",
    "DeleteAlertRule",
    "DeleteComment",
    "EditComment",
    "Event",
    "Failed",
    "MarkSeen",
    "ObserveMetric",
    "OpenIncident",
    "Order",
    "Outcome",
    "PlainOrder",
    "PostComment",
    "ReadNotifications",
    "Refused",
    "SetStatus",
    "SnoozeAlertRule",
    "Subscribe",
    "TimedOut",
    "Tocsin",
    "TocsinError",
    "Trigger",
    "Unreachable",
    "UnsnoozeAlertRule",
    "Unsubscribe",
    "UpdateAlertRule",
]
