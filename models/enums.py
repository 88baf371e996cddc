"""The words of the trade: statuses, roles, scopes, kinds. Standard library only.

Numbers and names here are wire contract; their sources are named where they are not ours.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any, Final

JSON = Any
"""What came in as JSON and has not been checked yet."""


class IncidentStatus(IntEnum):
    """How bad an incident is; the numbers are Sentry's."""

    OPEN = 1
    CLOSED = 2
    WARNING = 10
    CRITICAL = 20

    @property
    def label(self) -> str:
        """The word people read."""
        return _STATUS_LABELS[self]

    @classmethod
    def from_severity(cls, severity: str | None) -> IncidentStatus:
        """What an alert's label ``severity`` says; any other word than these two, and none, is open."""
        return _SEVERITIES.get(severity or "", cls.OPEN)


_STATUS_LABELS: Final = {
    IncidentStatus.OPEN: "Open",
    IncidentStatus.CLOSED: "Resolved",
    IncidentStatus.WARNING: "Warning",
    IncidentStatus.CRITICAL: "Critical",
}
_SEVERITIES: Final = {"warning": IncidentStatus.WARNING, "critical": IncidentStatus.CRITICAL}


class StatusMethod(IntEnum):
    """Who or what set the status."""

    MANUAL = 1
    RULE_UPDATED = 2
    RULE_TRIGGERED = 3


class AlertState(StrEnum):
    """Whether alerts of Prometheus fire; the words are Alertmanager's."""

    FIRING = "firing"
    RESOLVED = "resolved"


class IncidentType(IntEnum):
    """What found the incident."""

    DETECTED = 0
    ALERT_TRIGGERED = 2


class ActivityType(IntEnum):
    """What an activity records."""

    CREATED = 1
    STATUS_CHANGE = 2
    COMMENT = 3
    DETECTED = 4


class ObjectStatus(StrEnum):
    """Whether a project or a team is in use."""

    ACTIVE = "active"
    INACTIVE = "inactive"


class Role(StrEnum):
    """A member's role in an organization."""

    MEMBER = "member"
    ADMIN = "admin"
    MANAGER = "manager"
    OWNER = "owner"


class OpsRole(StrEnum):
    """What an operator's token may do; each includes the one before."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class CallerKind(StrEnum):
    """What kind of credential a caller shows; ``system`` is tocsin itself."""

    USER = "user"
    KEY = "key"
    SERVICE = "service"
    OPS = "ops"
    SYSTEM = "system"


class Feature(StrEnum):
    """What an organization's plan includes."""

    INCIDENTS = "organizations:incidents"
    PERFORMANCE = "organizations:performance-view"
    GENERIC_METRICS = "organizations:mep-rollout-flag"


class CommandState(StrEnum):
    """Where a command is in its life; all but ``accepted`` are final, and ops may bring ``dead`` back."""

    ACCEPTED = "accepted"
    APPLIED = "applied"
    REJECTED = "rejected"
    DEAD = "dead"
    DISCARDED = "discarded"


class Lane(StrEnum):
    """The Celery queue that a hint travels on: it chooses which worker wakes, nothing else."""

    COMMANDS = "commands"
    BULK = "bulk"
    DELIVERIES = "deliveries"

    @property
    def task_name(self) -> str:
        """The name of the lane's Celery task."""
        return f"tocsin.{self.value}"


class SubscriptionReason(StrEnum):
    """How a subscription arose."""

    MENTION = "mention"
    TEAM_MENTION = "team_mention"
    COMMENTED = "commented"
    CLOSED = "closed"
    SUBSCRIBED = "subscribed"


class NotificationReason(StrEnum):
    """Why a person is told, the strongest first."""

    MENTION = "mention"
    TEAM_MENTION = "team_mention"
    SUBSCRIBED = "subscribed"

    @property
    def strength(self) -> int:
        """Higher wins when a person is told for several reasons."""
        return -list(NotificationReason).index(self)


class Channel(StrEnum):
    """A way to reach a person."""

    INBOX = "inbox"


class DecisionOutcome(StrEnum):
    """What was decided for one person on one channel."""

    DELIVERED = "delivered"
    PENDING = "pending"
    DEFERRED = "deferred"
    SUPPRESSED = "suppressed"
    FAILED = "failed"


MAX_ID: Final = 2**63 - 1
"""The largest id a table holds; a larger number names nothing."""
