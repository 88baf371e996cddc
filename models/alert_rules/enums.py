"""Enums of alert rules; standard library only.

Numbers and names are Sentry's, except for tocsin's own channels.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class ThresholdType(IntEnum):
    """On which side of its threshold a value breaches it."""

    ABOVE = 0
    BELOW = 1


class QueryType(IntEnum):
    """The kind of data that a rule queries."""

    ERROR = 0
    PERFORMANCE = 1
    CRASH_RATE = 2


class Dataset(StrEnum):
    """The dataset that a rule queries; as in Sentry, error messages contain the names, everything else the values."""

    EVENTS = "events"
    TRANSACTIONS = "transactions"
    PERFORMANCEMETRICS = "generic_metrics"
    METRICS = "metrics"

    @property
    def query_type(self) -> QueryType:
        """The kind of data in the dataset."""
        return _QUERY_TYPES[self]


_QUERY_TYPES: Final = {
    Dataset.EVENTS: QueryType.ERROR,
    Dataset.TRANSACTIONS: QueryType.PERFORMANCE,
    Dataset.PERFORMANCEMETRICS: QueryType.PERFORMANCE,
    Dataset.METRICS: QueryType.CRASH_RATE,
}


class EventType(StrEnum):
    """The type of events that a rule counts."""

    ERROR = "error"
    DEFAULT = "default"
    TRANSACTION = "transaction"


EVENT_TYPES: Final[dict[QueryType, tuple[EventType, ...]]] = {
    QueryType.ERROR: (EventType.ERROR, EventType.DEFAULT),
    QueryType.PERFORMANCE: (EventType.TRANSACTION,),
    QueryType.CRASH_RATE: (),
}
"""The event types of each kind of data; the first is the default."""


class MonitorType(IntEnum):
    """Whether a rule is evaluated all the time or from an activation on."""

    CONTINUOUS = 0
    ACTIVATED = 1


class ActivationCondition(IntEnum):
    """What activates a rule."""

    RELEASE_CREATION = 0
    DEPLOY_CREATION = 1


class ActionType(StrEnum):
    """The channel of an action."""

    EMAIL = "email"
    WEBHOOK = "webhook"
    CHAT = "chat"


class TargetType(StrEnum):
    """What an action targets: an address of its channel, a user, or a team."""

    SPECIFIC = "specific"
    USER = "user"
    TEAM = "team"


TARGETS: Final[dict[ActionType, tuple[TargetType, ...]]] = {
    ActionType.EMAIL: (TargetType.USER, TargetType.TEAM),
    ActionType.WEBHOOK: (TargetType.SPECIFIC,),
    ActionType.CHAT: (TargetType.SPECIFIC,),
}
"""The target types that each channel supports."""

CRITICAL: Final = "critical"
WARNING: Final = "warning"
"""The labels of triggers."""
