"""Closed sets of values: statuses, roles, kinds, reasons. Standard library only.

Names and numbers are part of the wire contract. Where they come from another system, the docstring names it.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class IncidentStatus(IntEnum):
    """The status of an incident, with Sentry's numbers."""

    OPEN = 1
    CLOSED = 2
    WARNING = 10
    CRITICAL = 20

    @property
    def label(self) -> str:
        """The display name of the status."""
        return _STATUS_LABELS[self]

    @classmethod
    def from_severity(cls, severity: str | None) -> IncidentStatus:
        """Map an alert's ``severity`` label to a status; a missing or unknown severity maps to ``OPEN``."""
        return _SEVERITIES.get(severity or "", cls.OPEN)


_STATUS_LABELS: Final = {
    IncidentStatus.OPEN: "Open",
    IncidentStatus.CLOSED: "Resolved",
    IncidentStatus.WARNING: "Warning",
    IncidentStatus.CRITICAL: "Critical",
}
_SEVERITIES: Final = {"warning": IncidentStatus.WARNING, "critical": IncidentStatus.CRITICAL}


class StatusMethod(IntEnum):
    """What set an incident's status: a person, or its alert rule."""

    MANUAL = 1
    RULE_UPDATED = 2
    RULE_TRIGGERED = 3


class AlertState(StrEnum):
    """The state of a Prometheus alert, in Alertmanager's words."""

    FIRING = "firing"
    RESOLVED = "resolved"


class IncidentType(IntEnum):
    """What created an incident: a direct request (``DETECTED``) or an alert rule."""

    DETECTED = 0
    ALERT_TRIGGERED = 2


class ActivityType(IntEnum):
    """The kind of an entry in an incident's activity log."""

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
    """The role of an ops token; each role includes the ones before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class CallerKind(StrEnum):
    """The kind of a caller's credential; ``system`` is tocsin itself and has no token."""

    USER = "user"
    KEY = "key"
    SERVICE = "service"
    OPS = "ops"
    SYSTEM = "system"


class Feature(StrEnum):
    """A feature that an organization's plan may include."""

    INCIDENTS = "organizations:incidents"
    PERFORMANCE = "organizations:performance-view"
    GENERIC_METRICS = "organizations:mep-rollout-flag"


class CommandState(StrEnum):
    """The state of a command; every state but ``accepted`` is final, except that ops may requeue a ``dead`` command."""

    ACCEPTED = "accepted"
    APPLIED = "applied"
    REJECTED = "rejected"
    DEAD = "dead"
    DISCARDED = "discarded"


class Lane(StrEnum):
    """The Celery queue of a hint. It decides which worker process wakes up, and nothing else."""

    COMMANDS = "commands"
    BULK = "bulk"
    DELIVERIES = "deliveries"

    @property
    def task_name(self) -> str:
        """The name of the lane's Celery task."""
        return f"tocsin.{self.value}"


class SubscriptionReason(StrEnum):
    """Why a person is subscribed to an incident."""

    MENTION = "mention"
    TEAM_MENTION = "team_mention"
    COMMENTED = "commented"
    CLOSED = "closed"
    SUBSCRIBED = "subscribed"


class NotificationReason(StrEnum):
    """Why a person is notified, strongest first."""

    MENTION = "mention"
    TEAM_MENTION = "team_mention"
    SUBSCRIBED = "subscribed"

    @property
    def strength(self) -> int:
        """The rank of the reason: of several reasons to notify a person, the highest is used."""
        return -list(NotificationReason).index(self)


class Channel(StrEnum):
    """A way to notify a person."""

    INBOX = "inbox"


class DecisionOutcome(StrEnum):
    """The outcome of a notification decision, for one person on one channel."""

    DELIVERED = "delivered"
    PENDING = "pending"
    DEFERRED = "deferred"
    SUPPRESSED = "suppressed"
    FAILED = "failed"
