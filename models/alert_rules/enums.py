"""The words of alert rules: what they watch, on which side they burn, whom they tell. Standard library only.

Numbers and names are Sentry's, but for the channels that are tocsin's own.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class ThresholdType(IntEnum):
    """On which side of the threshold it burns."""

    ABOVE = 0
    BELOW = 1


class QueryType(IntEnum):
    """What kind of data the query is about."""

    ERROR = 0
    PERFORMANCE = 1
    CRASH_RATE = 2


class Dataset(StrEnum):
    """Where a rule's data lies. Refusals name the members, as Sentry's did, and everything else their values."""

    EVENTS = "events"
    TRANSACTIONS = "transactions"
    PERFORMANCEMETRICS = "generic_metrics"
    METRICS = "metrics"

    @property
    def query_type(self) -> QueryType:
        """The kind of data that lies there."""
        return _QUERY_TYPES[self]


_QUERY_TYPES: Final = {
    Dataset.EVENTS: QueryType.ERROR,
    Dataset.TRANSACTIONS: QueryType.PERFORMANCE,
    Dataset.PERFORMANCEMETRICS: QueryType.PERFORMANCE,
    Dataset.METRICS: QueryType.CRASH_RATE,
}


class EventType(StrEnum):
    """What a rule counts."""

    ERROR = "error"
    DEFAULT = "default"
    TRANSACTION = "transaction"


EVENT_TYPES: Final[dict[QueryType, tuple[EventType, ...]]] = {
    QueryType.ERROR: (EventType.ERROR, EventType.DEFAULT),
    QueryType.PERFORMANCE: (EventType.TRANSACTION,),
    QueryType.CRASH_RATE: (),
}
"""What can be counted in each kind of data; the first is meant where nothing is said."""


class MonitorType(IntEnum):
    """When a rule watches."""

    CONTINUOUS = 0
    ACTIVATED = 1


class ActivationCondition(IntEnum):
    """What makes an activated rule watch."""

    RELEASE_CREATION = 0
    DEPLOY_CREATION = 1


class ActionType(StrEnum):
    """How an action reaches somebody."""

    EMAIL = "email"
    WEBHOOK = "webhook"
    CHAT = "chat"


class TargetType(StrEnum):
    """Whom an action reaches: an address of its channel, a person, or a team."""

    SPECIFIC = "specific"
    USER = "user"
    TEAM = "team"


TARGETS: Final[dict[ActionType, tuple[TargetType, ...]]] = {
    ActionType.EMAIL: (TargetType.USER, TargetType.TEAM),
    ActionType.WEBHOOK: (TargetType.SPECIFIC,),
    ActionType.CHAT: (TargetType.SPECIFIC,),
}
"""What each kind of action can be aimed at."""

CRITICAL: Final = "critical"
WARNING: Final = "warning"
