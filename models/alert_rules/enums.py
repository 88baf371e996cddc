"""Enums for alert rules. This module uses only the standard library.

Numbers and names are Sentry's, except for tocsin's own channels.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class ThresholdType(IntEnum):
    """Whether values above or below a threshold breach it."""

    ABOVE = 0
    BELOW = 1


class QueryType(IntEnum):
    """The kind of data that a rule queries."""

    ERROR = 0
    PERFORMANCE = 1
    CRASH_RATE = 2


class Dataset(StrEnum):
    """The dataset that a rule queries.

    As in Sentry, error messages contain the member's name. Everything else contains its value.
    """

    EVENTS = "events"
    TRANSACTIONS = "transactions"
    PERFORMANCEMETRICS = "generic_metrics"
    METRICS = "metrics"

    @property
    def query_type(self) -> QueryType:
        """The kind of data that the dataset contains."""
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
"""The event types for each kind of data, starting with the default."""


class MonitorType(IntEnum):
    """Whether a rule is evaluated continuously or only after an activation."""

    CONTINUOUS = 0
    ACTIVATED = 1


class ActivationCondition(IntEnum):
    """The event that activates a rule."""

    RELEASE_CREATION = 0
    DEPLOY_CREATION = 1


class ActionType(StrEnum):
    """The channel of an action."""

    EMAIL = "email"
    WEBHOOK = "webhook"
    CHAT = "chat"


class TargetType(StrEnum):
    """The kind of target that an action has: an address on its channel, a user, or a team."""

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
"""The labels that a trigger can have."""
