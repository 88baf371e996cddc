"""A person's preferences for messages, and the rules that decide when a message is sent.

The inbox is not a matter of preferences: whoever is mentioned has an inbox item. Preferences decide about the messages
outside tocsin, by e-mail and in chat, per reason and channel. The functions are pure; the planner, the preview of a
comment and the channels share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

from models.enums import Channel, DecisionOutcome, NotificationReason
from models.local_time import next_daily, next_hour, quiet_until
from models.notifications.suppression import ALERT_ACTION, MUTED, NO_ADDRESS


class Mode(StrEnum):
    """How a person wants to hear of something: not at all, at once, or in a digest."""

    OFF = "off"
    INSTANT = "instant"
    DIGEST = "digest"


class DigestInterval(StrEnum):
    """How often digests are sent."""

    HOUR = "hour"
    DAY = "day"


PERSONAL_CHANNELS: Final = (Channel.EMAIL, Channel.CHAT)
"""The channels that preferences are about."""

MESSAGE_REASONS: Final = (*(reason.value for reason in NotificationReason), ALERT_ACTION)
"""The reasons for a message that preferences tell apart. ``alert_action`` is an action of an alert rule."""

ALERT_MODES: Final = (Mode.OFF, Mode.INSTANT)
"""The modes for the actions of alert rules, which no digest contains."""


DEFAULT_MODES: Final[Mapping[Channel, Mode]] = {Channel.EMAIL: Mode.INSTANT, Channel.CHAT: Mode.OFF}
"""The mode of each channel, for every reason."""

STORM_BUDGET: Final = 20
"""How many messages a person gets at once on a channel within an hour. The others are merged into one."""

STORM_WINDOW: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Digest:
    """When digests are sent: every full hour in UTC, or every day at ``at`` in the person's time zone."""

    every: DigestInterval = DigestInterval.DAY
    at: time = time(9, 0)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """The hours in which a person gets no messages, in their time zone; ``end`` may be after midnight."""

    start: time
    end: time


@dataclass(frozen=True, slots=True)
class Preferences:
    """A person's preferences. ``modes`` holds what differs from :data:`DEFAULT_MODES`, by reason and channel."""

    modes: Mapping[tuple[str, str], Mode] = field(default_factory=dict)
    digest: Digest = Digest()
    quiet_hours: QuietHours | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any] | None) -> Preferences:
        """Build the preferences from a stored document, in which everything is optional."""
        document = document or {}
        digest, quiet = document.get("digest") or {}, document.get("quietHours")
        return cls(
            modes={
                (reason, channel): Mode(mode)
                for reason, channels in document.get("channels", {}).items()
                for channel, mode in channels.items()
            },
            digest=Digest(
                DigestInterval(digest.get("every", DigestInterval.DAY)), time.fromisoformat(digest.get("at", "09:00"))
            ),
            quiet_hours=None
            if quiet is None
            else QuietHours(time.fromisoformat(quiet["start"]), time.fromisoformat(quiet["end"])),
        )

    def mode(self, reason: str, channel: str) -> Mode:
        """Return how the person wants to hear, on this channel, of something that concerns them for this reason."""
        return self.modes.get((reason, channel)) or DEFAULT_MODES[Channel(channel)]


DEFAULT_PREFERENCES: Final = Preferences()


# --- rules -----------------------------------------------------------------------------------------------------------

INSTANT: Final = "instant"
OFF: Final = "off"
DIGEST: Final = "digest"
QUIET_HOURS: Final = "quiet_hours"
STORM: Final = "storm"
"""The rules by which preferences decide about a message, besides those in :mod:`models.notifications.suppression`."""


class Schedule(NamedTuple):
    """The decision when a message is sent: ``pending`` (at once), ``deferred`` (later) or ``suppressed`` (never).

    ``due_at`` is ``None`` if it is suppressed. If ``is_merged``, it is sent in one message with the person's others
    that are due on this channel.
    """

    outcome: DecisionOutcome
    rule: str
    due_at: datetime | None = None
    is_merged: bool = False


def schedule(
    preferences: Preferences,
    zone: str,
    reason: str,
    channel: str,
    *,
    earliest: datetime,
    is_critical: bool,
    is_muted: bool = False,
    sent_last_hour: int = 0,
) -> Schedule:
    """Decide when a message is sent that may be sent from ``earliest`` on.

    ``sent_last_hour`` is the number of messages that the person got, or will get, at once on this channel in the hour
    before. Messages about critical incidents are sent in quiet hours, too.
    """
    if is_muted:
        return Schedule(DecisionOutcome.SUPPRESSED, MUTED)
    mode = preferences.mode(reason, channel)
    if mode is Mode.OFF:
        return Schedule(DecisionOutcome.SUPPRESSED, OFF)
    planned = Schedule(DecisionOutcome.PENDING, INSTANT, earliest)
    if mode is Mode.DIGEST:
        planned = Schedule(DecisionOutcome.DEFERRED, DIGEST, next_digest(preferences.digest, zone, earliest), True)
    elif sent_last_hour >= STORM_BUDGET:
        planned = Schedule(DecisionOutcome.DEFERRED, STORM, next_hour(earliest), True)
    return planned if is_critical else _after_quiet_hours(planned, preferences, zone)


class Contact(NamedTuple):
    """What decides about messages to a person from an organization.

    These are the person's preferences and time zone, and the channels on which the organization has their address.
    """

    preferences: Preferences
    zone: str
    addresses: frozenset[Channel]

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels on which messages to the person are decided: e-mail, and chat if they have a destination."""
        return tuple(each for each in PERSONAL_CHANNELS if each is Channel.EMAIL or each in self.addresses)

    def schedule(
        self,
        reason: str,
        channel: Channel,
        *,
        earliest: datetime,
        is_critical: bool,
        is_muted: bool,
        sent_last_hour: int,
    ) -> Schedule:
        """Decide when a message is sent to the person, as :func:`schedule` does, if they have an address."""
        if channel not in self.addresses:
            return Schedule(DecisionOutcome.SUPPRESSED, NO_ADDRESS)
        return schedule(
            self.preferences,
            self.zone,
            reason,
            channel,
            earliest=earliest,
            is_critical=is_critical,
            is_muted=is_muted,
            sent_last_hour=sent_last_hour,
        )


def contact_from_row(row: Any) -> Contact:
    """Build a contact from a row with a person's ``email``, ``timezone``, ``has_chat`` and ``document``.

    ``document`` holds their preferences, and ``has_chat`` tells whether a chat destination of theirs is active in the
    organization from which the messages come.
    """
    preferences = DEFAULT_PREFERENCES if row.document is None else Preferences.from_document(row.document)
    has_address = {Channel.EMAIL: bool(row.email), Channel.CHAT: row.has_chat}
    return Contact(preferences, row.timezone, frozenset(channel for channel, has in has_address.items() if has))


def reconsider(
    preferences: Preferences,
    zone: str,
    reason: str,
    channel: str,
    *,
    now: datetime,
    is_critical: bool,
    is_muted: bool = False,
) -> Schedule:
    """Decide, when a message is about to be sent, whether the preferences still allow it now.

    Digests and storms were decided when the message was planned. Actions of alert rules are not planned with
    preferences, so this is where ``off`` and quiet hours apply to them.
    """
    if is_muted:
        return Schedule(DecisionOutcome.SUPPRESSED, MUTED)
    if preferences.mode(reason, channel) is Mode.OFF:
        return Schedule(DecisionOutcome.SUPPRESSED, OFF)
    planned = Schedule(DecisionOutcome.PENDING, INSTANT, now)
    return planned if is_critical else _after_quiet_hours(planned, preferences, zone)


def next_digest(digest: Digest, zone: str, after: datetime) -> datetime:
    """Return when the first digest after ``after`` is sent."""
    return next_hour(after) if digest.every is DigestInterval.HOUR else next_daily(after, digest.at, zone)


def _after_quiet_hours(planned: Schedule, preferences: Preferences, zone: str) -> Schedule:
    quiet = preferences.quiet_hours
    if quiet is None or planned.due_at is None:
        return planned
    ends = quiet_until(planned.due_at, quiet.start, quiet.end, zone)
    return planned if ends is None else Schedule(DecisionOutcome.DEFERRED, QUIET_HOURS, ends, True)
