"""Pure functions that select an alert rule's actions when the status of its incident changes."""

from __future__ import annotations

from typing import NamedTuple

from models.alert_rules.alert_rule import Action, Definition
from models.alert_rules.enums import CRITICAL, WARNING
from models.enums import IncidentStatus
from models.notifications.delivery import DeliveryMethod


class SelectedAction(NamedTuple):
    """An action and the label of its trigger."""

    label: str
    action: Action


class ActionSelection(NamedTuple):
    """The actions to perform. ``method`` is ``FIRE`` if the incident became more severe, ``RESOLVE`` if less severe."""

    method: DeliveryMethod
    selected: tuple[SelectedAction, ...]


def all_actions(definition: Definition) -> tuple[SelectedAction, ...]:
    """Return the actions of all triggers without duplicates.

    If two triggers have the same action, the warning trigger's is returned.
    """
    actions: dict[tuple[str, str, str], SelectedAction] = {}
    for trigger in sorted(definition.triggers, key=lambda each: each.label != WARNING):
        for action in trigger.actions:
            key = (action.type, action.target_type, action.target)
            actions.setdefault(key, SelectedAction(trigger.label, action))
    return tuple(actions.values())


def select_on_close(definition: Definition) -> ActionSelection:
    """Select every action. Used when a person closes the incident, or when its rule is changed or deleted."""
    return ActionSelection(DeliveryMethod.RESOLVE, all_actions(definition))


def select_on_change(
    definition: Definition, old: IncidentStatus, new: IncidentStatus, *, was_critical: bool
) -> ActionSelection:
    """Select the actions for a status change that an observation caused.

    The critical trigger's actions are selected only if the incident is or was critical. ``was_critical`` says whether
    the critical trigger has ever fired during the incident.
    """
    if new is IncidentStatus.CRITICAL:
        return ActionSelection(DeliveryMethod.FIRE, all_actions(definition))
    if new is IncidentStatus.WARNING and old is not IncidentStatus.CRITICAL:
        return ActionSelection(DeliveryMethod.FIRE, _without_critical(definition))
    includes_critical = was_critical or new is IncidentStatus.WARNING
    return ActionSelection(
        DeliveryMethod.RESOLVE, all_actions(definition) if includes_critical else _without_critical(definition)
    )


def _without_critical(definition: Definition) -> tuple[SelectedAction, ...]:
    return tuple(selected for selected in all_actions(definition) if selected.label != CRITICAL)
