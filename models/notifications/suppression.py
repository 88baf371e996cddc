"""The rules that decide whether a person is notified, shared by the notifier and the gateway's comment preview."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from models.enums import DecisionOutcome, NotificationReason
from models.policy import Actor, OrganizationFacts, ProjectFacts, may_read


@dataclass(frozen=True, slots=True)
class Recipient:
    """A person who may be notified about an incident. A person with an inactive account has no role.

    ``is_muted`` tells whether the person has muted the incident.
    """

    person: Actor
    reason: NotificationReason
    is_author: bool
    organization: OrganizationFacts
    projects: tuple[ProjectFacts, ...]
    is_muted: bool = False


class NotificationDecision(NamedTuple):
    """A decision on notifying a person. ``rule`` names the suppression, or the reason for the notification."""

    outcome: DecisionOutcome
    rule: str


NO_ACCESS: Final = "no_access"
"""The name of the suppression for people without access to the incident. Such people are also unsubscribed."""

AUTHOR: Final = "author"
"""The name of the suppression for the activity's author."""

MUTED: Final = "muted"
"""The name of the suppression for people who have muted the incident. If mentioned, they get an inbox item anyway."""

ALERT_ACTION: Final = "alert_action"
SNOOZED: Final = "snoozed"
"""``ALERT_ACTION``, ``SNOOZED`` and ``NO_ACCESS`` are the rules that decide whether an action notifies a person."""

READ: Final = "read"
DELETED: Final = "deleted"
UNSUBSCRIBED: Final = "unsubscribed"
NO_ADDRESS: Final = "no_address"
"""``READ``, ``DELETED``, ``UNSUBSCRIBED``, ``NO_ADDRESS`` and ``NO_ACCESS`` are the rules by which a delivery that
is due is withheld."""


def _lacks_access(recipient: Recipient) -> bool:
    return not may_read(recipient.person, recipient.organization, recipient.projects)


def _is_author(recipient: Recipient) -> bool:
    return recipient.is_author


def _is_muted_subscriber(recipient: Recipient) -> bool:
    return recipient.is_muted and recipient.reason is NotificationReason.SUBSCRIBED


SUPPRESSIONS: Final[Mapping[str, Callable[[Recipient], bool]]] = {
    NO_ACCESS: _lacks_access,
    AUTHOR: _is_author,
    MUTED: _is_muted_subscriber,
}
"""The conditions under which a person is not notified, by name. The first one that applies is recorded."""


def decide_notification(recipient: Recipient) -> NotificationDecision:
    """Decide whether to notify a person, and name the rule that decides it."""
    for rule, applies in SUPPRESSIONS.items():
        if applies(recipient):
            return NotificationDecision(DecisionOutcome.SUPPRESSED, rule)
    return NotificationDecision(DecisionOutcome.DELIVERED, recipient.reason)
