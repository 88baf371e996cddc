"""The selection of the rule's actions that a status change triggers."""

from __future__ import annotations

import pytest

from models.alert_rules.action_selection import all_actions, select_on_change, select_on_close
from models.alert_rules.enums import ActionType, TargetType
from models.enums import IncidentStatus
from models.notifications.delivery import DeliveryMethod
from tests.builders import a_definition, a_trigger, an_action

OPEN, CLOSED, WARNING, CRITICAL = IncidentStatus
FIRE, RESOLVE = DeliveryMethod.FIRE, DeliveryMethod.RESOLVE

DEFINITION = a_definition(
    a_trigger("critical", 100, an_action(11), an_action(12)),
    a_trigger("warning", 50, an_action(12), an_action(13)),
)


@pytest.mark.parametrize(
    ("old", "new", "was_critical", "expected"),
    [
        (OPEN, WARNING, False, (FIRE, ["12", "13"])),
        (OPEN, CRITICAL, True, (FIRE, ["11", "12", "13"])),
        (WARNING, CRITICAL, True, (FIRE, ["11", "12", "13"])),
        (CRITICAL, WARNING, True, (RESOLVE, ["11", "12", "13"])),
        (WARNING, CLOSED, False, (RESOLVE, ["12", "13"])),
        (WARNING, CLOSED, True, (RESOLVE, ["11", "12", "13"])),
        (CRITICAL, CLOSED, True, (RESOLVE, ["11", "12", "13"])),
    ],
)
def test_targets_of_the_critical_trigger_are_selected_only_if_the_incident_was_critical(
    old: IncidentStatus, new: IncidentStatus, was_critical: bool, expected: tuple[DeliveryMethod, list[str]]
) -> None:
    method, calls = select_on_change(DEFINITION, old, new, was_critical=was_critical)

    assert (method, sorted(call.action.target for call in calls)) == expected


def test_a_target_of_both_triggers_is_selected_once_for_the_warning_trigger() -> None:
    calls = {call.action.target: call.label for call in all_actions(DEFINITION)}

    assert calls == {"11": "critical", "12": "warning", "13": "warning"}
    assert len(all_actions(DEFINITION)) == 3


def test_actions_with_different_channels_or_target_types_stay_separate() -> None:
    definition = a_definition(
        a_trigger(
            "critical",
            100,
            an_action(11),
            an_action(11, target_type=TargetType.TEAM),
            an_action(11, action_type=ActionType.WEBHOOK, target_type=TargetType.SPECIFIC),
            an_action(11, action_type=ActionType.CHAT, target_type=TargetType.SPECIFIC),
        )
    )

    assert len(all_actions(definition)) == 4


def test_a_manual_close_triggers_every_action() -> None:
    method, calls = select_on_close(DEFINITION)

    assert (method, sorted(call.action.target for call in calls)) == (RESOLVE, ["11", "12", "13"])
