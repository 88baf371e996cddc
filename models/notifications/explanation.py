"""Explanations: why a person was, or was not, notified of an activity, in one sentence per decision.

The gateway and `tocsin explain` share the sentences. A decision is either recorded, in ``notification_decisions``, or
derived for a person who was not in an activity's audience (:mod:`models.notifications.derivation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from models.enums import Channel, DecisionOutcome, NotificationReason
from models.notifications.chat_destination import (
    DESTINATION_DISABLED,
    DESTINATION_PAUSED,
    NO_DESTINATION,
    URL_REFUSED,
    URL_UNREADABLE,
)
from models.notifications.notification import decisions
from models.notifications.preferences import DIGEST, INSTANT, OFF, QUIET_HOURS, STORM
from models.notifications.suppression import (
    ALERT_ACTION,
    AUTHOR,
    DELETED,
    MUTED,
    NO_ACCESS,
    NO_ADDRESS,
    READ,
    SNOOZED,
    UNSUBSCRIBED,
)
from models.notifications.webhook import EVENT_DELETED, SECRET_UNREADABLE, WEBHOOK_DELETED, WEBHOOK_DISABLED

NO_AUTHOR: Final = "no_author"
NOT_PLANNED: Final = "not_planned"
NOT_SUBSCRIBED: Final = "not_subscribed"
"""``NO_AUTHOR``, ``NOT_PLANNED`` and ``NOT_SUBSCRIBED`` are the rules of decisions that are derived, not recorded."""


class ExplainedDecision(NamedTuple):
    """A decision on whether a person is notified of an activity. ``at`` is ``None`` if the decision is not recorded."""

    activity_id: int
    event_id: UUID
    channel: str
    outcome: DecisionOutcome
    rule: str
    detail: str
    at: datetime | None

    @property
    def explanation(self) -> str:
        """A sentence that states the outcome and its reason."""
        outcome = _OUTCOMES[self.outcome].format(_CHANNELS.get(self.channel, f"through {self.channel}"))
        return f"{outcome}: {RULE_CLAUSES.get(self.rule, f'the rule {self.rule} applies')}."


DECISION_COLUMNS: Final = tuple(decisions.c[name] for name in ExplainedDecision._fields)
"""The columns that :func:`decision_from_row` needs."""


def decision_from_row(row: Any) -> ExplainedDecision:
    """Build a recorded decision from a row with :data:`DECISION_COLUMNS`."""
    values = {name: getattr(row, name) for name in ExplainedDecision._fields}
    return ExplainedDecision(**values | {"outcome": DecisionOutcome(row.outcome)})


RULE_CLAUSES: Final[Mapping[str, str]] = {
    NotificationReason.MENTION: "the comment mentions this person",
    NotificationReason.TEAM_MENTION: "the comment mentions a team of this person",
    NotificationReason.SUBSCRIBED: "this person was subscribed to the incident",
    ALERT_ACTION: "an action of the alert rule names this person or a team of theirs",
    AUTHOR: "the comment or the change is this person's own",
    NO_ACCESS: "this person has no access to the incident, or had none when that was decided",
    MUTED: "this person had muted the incident",
    INSTANT: "this person's preferences ask for such messages at once",
    OFF: "this person's preferences have switched off such messages",
    DIGEST: "this person's preferences collect such messages in a digest",
    QUIET_HOURS: "it was this person's quiet hours",
    STORM: "this person had got so many messages within an hour that the others are merged into one",
    SNOOZED: "the alert rule was snoozed, by this person or for everyone",
    READ: "this person had read it in the inbox before it was to be sent",
    DELETED: "the comment or the incident was deleted before it was to be sent",
    UNSUBSCRIBED: "this person had unsubscribed from the incident before it was to be sent",
    NO_ADDRESS: "this person has no valid address there",
    WEBHOOK_DELETED: "the webhook was deleted",
    WEBHOOK_DISABLED: "the webhook was disabled",
    EVENT_DELETED: "the event was deleted before it could be sent",
    SECRET_UNREADABLE: "the webhook's secret was encrypted with a secret that TOCSIN_SECRET does not contain",
    NO_DESTINATION: "there is no such chat destination",
    DESTINATION_DISABLED: "the chat destination was disabled",
    DESTINATION_PAUSED: "the chat service asked for a pause",
    URL_UNREADABLE: "the chat destination's URL was encrypted with a secret that TOCSIN_SECRET does not contain",
    URL_REFUSED: "the chat destination's URL is not accepted any more",
    NO_AUTHOR: "no person made this change, so only the actions of its alert rule notify anyone of it",
    NOT_PLANNED: "no notifier has planned this event",
    NOT_SUBSCRIBED: "this person was neither mentioned nor subscribed to the incident when the event was planned",
}
"""What each rule says, as the second half of a sentence."""

_OUTCOMES: Final[Mapping[DecisionOutcome, str]] = {
    DecisionOutcome.DELIVERED: "Notified {}",
    DecisionOutcome.PENDING: "Not notified {} yet",
    DecisionOutcome.DEFERRED: "Not to be notified {} until later",
    DecisionOutcome.SUPPRESSED: "Not notified {}",
    DecisionOutcome.FAILED: "Not notified {} because every attempt failed",
}
_CHANNELS: Final[Mapping[str, str]] = {
    Channel.INBOX: "in the inbox",
    Channel.EMAIL: "by e-mail",
    Channel.WEBHOOK: "by a webhook",
    Channel.CHAT: "in chat",
}
