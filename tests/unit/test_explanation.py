"""Every rule that decides on a notification has its words in the explanation."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from models.enums import DecisionOutcome, NotificationReason
from models.notifications.explanation import RULE_CLAUSES, ExplainedDecision
from models.notifications.suppression import ALERT_ACTION, SNOOZED, SUPPRESSIONS

pytestmark = pytest.mark.unit


def a_decision(outcome: DecisionOutcome, rule: str, *, channel: str = "inbox") -> ExplainedDecision:
    return ExplainedDecision(1, UUID(int=1), channel, outcome, rule, "", datetime.now(UTC))


@pytest.mark.parametrize("rule", [*NotificationReason, *SUPPRESSIONS, ALERT_ACTION, SNOOZED])
def test_every_rule_of_the_notifier_and_of_rule_actions_has_its_words(rule: str) -> None:
    assert rule in RULE_CLAUSES


@pytest.mark.parametrize("outcome", DecisionOutcome)
def test_every_outcome_has_a_sentence(outcome: DecisionOutcome) -> None:
    sentence = a_decision(outcome, "mention").explanation

    assert "in the inbox" in sentence
    assert sentence.endswith(": the comment mentions this person.")


def test_an_unknown_rule_and_an_unknown_channel_are_named() -> None:
    decision = a_decision(DecisionOutcome.SUPPRESSED, "full_moon", channel="pigeon")

    assert decision.explanation == "Not notified through pigeon: the rule full_moon applies."
