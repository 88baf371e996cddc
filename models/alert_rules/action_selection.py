"""Which actions of a rule a change of status takes. No input, no output."""

from __future__ import annotations

from typing import NamedTuple

from models.alert_rules.alert_rule import Action, Definition
from models.alert_rules.enums import CRITICAL, WARNING
from models.enums import IncidentStatus
from models.notifications.delivery import DeliveryMethod


class SelectedAction(NamedTuple):
    """An action, and the label of the trigger that it belongs to."""

    label: str
    action: Action


class ActionSelection(NamedTuple):
    """Actions to take, and whether they tell of fire or of relief."""

    method: DeliveryMethod
    selected: tuple[SelectedAction, ...]


def all_actions(said: Definition) -> tuple[SelectedAction, ...]:
    """The actions of all triggers; who is named by several is called once, and by a warning rather than otherwise."""
    calls: dict[tuple[str, str, str], SelectedAction] = {}
    for trigger in sorted(said.triggers, key=lambda each: each.label != WARNING):
        for action in trigger.actions:
            calls.setdefault((action.type, action.target_type, action.target), SelectedAction(trigger.label, action))
    return tuple(calls.values())


def select_on_close(said: Definition) -> ActionSelection:
    """What a close by hand, or of a rule that is no more, takes: every action, whether or not its trigger fired."""
    return ActionSelection(DeliveryMethod.RESOLVE, all_actions(said))


def select_on_change(
    said: Definition, old: IncidentStatus, new: IncidentStatus, *, was_critical: bool
) -> ActionSelection:
    """What a change by the rule itself takes; those who are called for critical only hear of nothing less.

    ``was_critical`` says whether the critical trigger ever fired in this incident.
    """
    if new is IncidentStatus.CRITICAL:
        return ActionSelection(DeliveryMethod.FIRE, all_actions(said))
    if new is IncidentStatus.WARNING and old is not IncidentStatus.CRITICAL:
        return ActionSelection(DeliveryMethod.FIRE, _milder(said))
    heard_the_worst = was_critical or new is IncidentStatus.WARNING
    return ActionSelection(DeliveryMethod.RESOLVE, all_actions(said) if heard_the_worst else _milder(said))


def _milder(said: Definition) -> tuple[SelectedAction, ...]:
    return tuple(call for call in all_actions(said) if call.label != CRITICAL)
