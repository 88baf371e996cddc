"""When a message is sent: preferences, quiet hours, mutes, digests and storms."""

from __future__ import annotations

from datetime import UTC, datetime, time
from itertools import product
from typing import Any

import pytest

from models.enums import Channel, DecisionOutcome
from models.notifications.explanation import RULE_CLAUSES
from models.notifications.preferences import (
    DEFAULT_PREFERENCES,
    MESSAGE_REASONS,
    PERSONAL_CHANNELS,
    STORM_BUDGET,
    Mode,
    Preferences,
    QuietHours,
    Schedule,
    contact_from_row,
    reconsider,
    schedule,
)

NIGHT = datetime(2026, 7, 1, 21, 30, tzinfo=UTC)  # 23:30 in Berlin
NOON = datetime(2026, 7, 1, 10, 0, tzinfo=UTC)
MORNING = datetime(2026, 7, 2, 5, 0, tzinfo=UTC)
NINE = datetime(2026, 7, 2, 7, 0, tzinfo=UTC)
AT_NIGHT = {"start": "22:00", "end": "07:00"}

PENDING, DEFERRED, SUPPRESSED = DecisionOutcome.PENDING, DecisionOutcome.DEFERRED, DecisionOutcome.SUPPRESSED


def planned(
    document: dict[str, Any] | None = None, *, reason: str = "mention", channel: str = "email", **facts: Any
) -> Schedule:
    """Return the schedule of a message to a person in Berlin, by default about a mention at night, by e-mail."""
    defaults: dict[str, Any] = {"earliest": NIGHT, "is_critical": False}
    return schedule(Preferences.from_document(document), "Europe/Berlin", reason, channel, **defaults | facts)


def by_email(mode: str, **more: Any) -> dict[str, Any]:
    return {"channels": {"mention": {"email": mode}}, **more}


@pytest.mark.parametrize("reason", MESSAGE_REASONS)
def test_by_default_e_mail_is_instant_and_chat_is_off(reason: str) -> None:
    assert planned(None, reason=reason) == Schedule(PENDING, "instant", NIGHT)
    assert planned(None, reason=reason, channel="chat") == Schedule(SUPPRESSED, "off")


@pytest.mark.parametrize(
    ("document", "facts", "expected"),
    [
        (by_email("off"), {}, Schedule(SUPPRESSED, "off")),
        (by_email("off"), {"is_critical": True}, Schedule(SUPPRESSED, "off")),
        (by_email("digest"), {}, Schedule(DEFERRED, "digest", NINE, True)),
        (by_email("digest"), {"is_critical": True}, Schedule(DEFERRED, "digest", NINE, True)),
        (
            by_email("digest", digest={"every": "day", "at": "23:45"}),
            {},
            Schedule(DEFERRED, "digest", NIGHT.replace(minute=45), True),
        ),
        (
            by_email("digest", digest={"every": "hour"}),
            {},
            Schedule(DEFERRED, "digest", NIGHT.replace(hour=22, minute=0), True),
        ),
        ({"quietHours": AT_NIGHT}, {}, Schedule(DEFERRED, "quiet_hours", MORNING, True)),
        ({"quietHours": AT_NIGHT}, {"is_critical": True}, Schedule(PENDING, "instant", NIGHT)),
        ({"quietHours": AT_NIGHT}, {"earliest": NOON}, Schedule(PENDING, "instant", NOON)),
        # A digest that falls into quiet hours waits for their end.
        (
            by_email("digest", digest={"every": "hour"}, quietHours=AT_NIGHT),
            {},
            Schedule(DEFERRED, "quiet_hours", MORNING, True),
        ),
        (None, {"is_muted": True}, Schedule(SUPPRESSED, "muted")),
        (None, {"is_muted": True, "is_critical": True}, Schedule(SUPPRESSED, "muted")),
        (None, {"sent_last_hour": STORM_BUDGET - 1}, Schedule(PENDING, "instant", NIGHT)),
        (
            None,
            {"sent_last_hour": STORM_BUDGET},
            Schedule(DEFERRED, "storm", NIGHT.replace(hour=22, minute=0), True),
        ),
        (
            {"quietHours": AT_NIGHT},
            {"sent_last_hour": STORM_BUDGET},
            Schedule(DEFERRED, "quiet_hours", MORNING, True),
        ),
        # A digest is one message however many it contains.
        (by_email("digest"), {"sent_last_hour": STORM_BUDGET}, Schedule(DEFERRED, "digest", NINE, True)),
    ],
)
def test_the_time_of_a_message(document: dict[str, Any] | None, facts: dict[str, Any], expected: Schedule) -> None:
    assert planned(document, **facts) == expected


@pytest.mark.parametrize(
    ("reason", "channel", "mode", "is_quiet", "is_critical", "is_muted"),
    list(product(MESSAGE_REASONS, PERSONAL_CHANNELS, Mode, (False, True), (False, True), (False, True))),
)
def test_every_combination_has_one_outcome_with_an_explained_rule(
    reason: str, channel: Channel, mode: Mode, is_quiet: bool, is_critical: bool, is_muted: bool
) -> None:
    document = {"channels": {reason: {channel.value: mode.value}}, "quietHours": AT_NIGHT}

    found = planned(
        document,
        reason=reason,
        channel=channel,
        earliest=NIGHT if is_quiet else NOON,
        is_critical=is_critical,
        is_muted=is_muted,
    )

    assert found.rule in RULE_CLAUSES
    if is_muted or mode is Mode.OFF:
        assert found == Schedule(SUPPRESSED, "muted" if is_muted else "off")
    elif mode is Mode.DIGEST:
        assert (found.outcome, found.rule, found.is_merged) == (DEFERRED, "digest", True)
    elif is_quiet and not is_critical:
        assert (found.outcome, found.rule, found.is_merged) == (DEFERRED, "quiet_hours", True)
    else:
        assert (found.outcome, found.rule, found.is_merged) == (PENDING, "instant", False)
    assert (found.due_at is None) == (found.outcome is SUPPRESSED)


@pytest.mark.parametrize(
    ("document", "facts", "expected"),
    [
        (None, {}, Schedule(PENDING, "instant", NIGHT)),
        ({"channels": {"alert_action": {"email": "off"}}}, {}, Schedule(SUPPRESSED, "off")),
        ({"channels": {"mention": {"email": "off"}}}, {}, Schedule(PENDING, "instant", NIGHT)),
        ({"quietHours": AT_NIGHT}, {}, Schedule(DEFERRED, "quiet_hours", MORNING, True)),
        ({"quietHours": AT_NIGHT}, {"now": MORNING}, Schedule(PENDING, "instant", MORNING)),
        ({"quietHours": AT_NIGHT}, {"is_critical": True}, Schedule(PENDING, "instant", NIGHT)),
        (None, {"is_muted": True}, Schedule(SUPPRESSED, "muted")),
    ],
)
def test_an_alert_action_respects_off_mutes_and_quiet_hours_when_it_is_sent(
    document: dict[str, Any] | None, facts: dict[str, Any], expected: Schedule
) -> None:
    preferences = Preferences.from_document(document)
    given: dict[str, Any] = {"now": NIGHT, "is_critical": False} | facts

    assert reconsider(preferences, "Europe/Berlin", "alert_action", "email", **given) == expected


def test_a_digest_that_is_due_is_not_put_off_to_the_next_one() -> None:
    preferences = Preferences.from_document(by_email("digest"))

    found = reconsider(preferences, "Europe/Berlin", "mention", "email", now=NINE, is_critical=False)

    assert found == Schedule(PENDING, "instant", NINE)


def test_a_person_without_an_address_is_sent_nothing() -> None:
    class Row:
        email, timezone, has_chat, document = "", "UTC", False, None

    found = contact_from_row(Row).schedule(
        "mention", Channel.EMAIL, earliest=NOON, is_critical=False, is_muted=False, sent_last_hour=0
    )

    assert found == Schedule(SUPPRESSED, "no_address")


def test_a_stored_document_may_omit_everything() -> None:
    assert Preferences.from_document({}) == Preferences.from_document(None) == DEFAULT_PREFERENCES
    assert Preferences.from_document({"quietHours": AT_NIGHT}).quiet_hours == QuietHours(time(22), time(7))
