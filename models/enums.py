"""Enums for statuses, roles, kinds and reasons. This module uses only the standard library.

Names and numbers are part of the wire contract. If an enum's come from another system, its docstring names that
system.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class IncidentStatus(IntEnum):
    """An incident's status, numbered as in Sentry."""

    OPEN = 1
    CLOSED = 2
    WARNING = 10
    CRITICAL = 20

    @property
    def label(self) -> str:
        """The status's display name."""
        return _STATUS_LABELS[self]


_STATUS_LABELS: Final = {
    IncidentStatus.OPEN: "Open",
    IncidentStatus.CLOSED: "Resolved",
    IncidentStatus.WARNING: "Warning",
    IncidentStatus.CRITICAL: "Critical",
}


class StatusMethod(IntEnum):
    """The origin of an incident's status: a person, a change to the alert rule, or an alert."""

    MANUAL = 1
    RULE_UPDATED = 2
    RULE_TRIGGERED = 3


class AlertState(StrEnum):
    """The state of a Prometheus alert, named as in Alertmanager."""

    FIRING = "firing"
    RESOLVED = "resolved"


class IncidentType(IntEnum):
    """The origin of an incident: a direct request (``DETECTED``) or an alert rule (``ALERT_TRIGGERED``)."""

    DETECTED = 0
    ALERT_TRIGGERED = 2


class ActivityType(IntEnum):
    """The kind of an entry in an incident's activity log."""

    CREATED = 1
    STATUS_CHANGE = 2
    COMMENT = 3
    DETECTED = 4


class ObjectStatus(StrEnum):
    """The status of a project or a team: whether it is in use."""

    ACTIVE = "active"
    INACTIVE = "inactive"


class Role(StrEnum):
    """A member's role in an organization."""

    MEMBER = "member"
    ADMIN = "admin"
    MANAGER = "manager"
    OWNER = "owner"


class OpsRole(StrEnum):
    """The role of an ops token. Each role includes the privileges of the roles listed before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class CallerKind(StrEnum):
    """The kind of a caller's credential. ``system`` is tocsin itself, which has no token."""

    USER = "user"
    KEY = "key"
    SERVICE = "service"
    OPS = "ops"
    SYSTEM = "system"


class Feature(StrEnum):
    """A feature that an organization's plan can include."""

    INCIDENTS = "organizations:incidents"
    PERFORMANCE = "organizations:performance-view"
    GENERIC_METRICS = "organizations:mep-rollout-flag"


class CommandState(StrEnum):
    """The state of a command. Every state except ``accepted`` is final."""

    ACCEPTED = "accepted"
    APPLIED = "applied"
    REJECTED = "rejected"
    DEAD = "dead"
    DISCARDED = "discarded"


class Lane(StrEnum):
    """The Celery queue on which a hint is sent. It determines only which worker process is woken up."""

    COMMANDS = "commands"
    BULK = "bulk"
    DELIVERIES = "deliveries"

    @property
    def task_name(self) -> str:
        """The name of the lane's Celery task."""
        return f"tocsin.{self.value}"


class SubscriptionReason(StrEnum):
    """The reason for a person's subscription to an incident."""

    MENTION = "mention"
    TEAM_MENTION = "team_mention"
    COMMENTED = "commented"
    CLOSED = "closed"
    SUBSCRIBED = "subscribed"


class NotificationReason(StrEnum):
    """The reason for notifying a person, strongest first."""

    MENTION = "mention"
    TEAM_MENTION = "team_mention"
    SUBSCRIBED = "subscribed"

    @property
    def strength(self) -> int:
        """The reason's strength. If there are several reasons to notify a person, the strongest one is used."""
        return -list(NotificationReason).index(self)


class WebhookStatus(StrEnum):
    """Whether events are sent to a webhook."""

    ACTIVE = "active"
    DISABLED = "disabled"


class DisabledReason(StrEnum):
    """Why a webhook is disabled: by a manager, after five days of failures, or because it answered 410 Gone."""

    MANUAL = "manual"
    FAILING = "failing"
    GONE = "gone"


class DestinationStatus(StrEnum):
    """Whether messages are sent to a chat destination."""

    ACTIVE = "active"
    DISABLED = "disabled"


class Channel(StrEnum):
    """A way to notify a person."""

    INBOX = "inbox"
    EMAIL = "email"
    WEBHOOK = "webhook"
    CHAT = "chat"


class DecisionOutcome(StrEnum):
    """The outcome of the decision whether to notify a person on a channel."""

    DELIVERED = "delivered"
    PENDING = "pending"
    DEFERRED = "deferred"
    SUPPRESSED = "suppressed"
    FAILED = "failed"
