"""The thresholds of alert rules, and whom they tell: changed one by one, beside the body of the rule.

Another threshold is another rule as far as incidents are concerned: what the rule holds open ends. Who is told of it
may change without that.
"""

from __future__ import annotations

from collections.abc import Iterable

from models.alert_rules.alert_rule import Action, AlertRule, Trigger
from models.alert_rules.serializers import action_json, trigger_json
from models.refusals import ListRefusal, NotFound
from tasks.commands.triggers import (
    CreateAction,
    CreateTrigger,
    DeleteAction,
    DeleteTrigger,
    UpdateAction,
    UpdateTrigger,
)
from tasks.events import AlertRuleUpdated
from workers.batch.context import Answer, Work
from workers.domain.alert_rules import (
    action_of,
    amend,
    announce,
    redefine,
    require_thresholds,
    rule_at,
    saying_of,
    trigger_at,
    trigger_of,
)


def create_trigger(ask: CreateTrigger, work: Work) -> Answer:
    """Add a threshold."""
    rule = rule_at(ask.alert_rule, work)
    trigger = trigger_of(ask, None, saying_of(rule.definition), work)
    _replace(rule, [*rule.definition.triggers, trigger], work)
    return Answer(201, trigger_json(rule.id, rule.definition, trigger, work.world.rule_names))


def update_trigger(ask: UpdateTrigger, work: Work) -> Answer:
    """Move a threshold, call it otherwise, or let it tell others."""
    rule = rule_at(ask.alert_rule, work)
    standing = trigger_at(rule, ask.id)
    trigger = trigger_of(ask, standing, saying_of(rule.definition), work)
    _replace(rule, [*_others(rule, standing), trigger], work)
    return Answer(200, trigger_json(rule.id, rule.definition, trigger, work.world.rule_names))


def delete_trigger(ask: DeleteTrigger, work: Work) -> Answer:
    """Take a threshold away."""
    rule = rule_at(ask.alert_rule, work)
    _replace(rule, _others(rule, trigger_at(rule, ask.id)), work)
    return Answer(204)


def create_action(ask: CreateAction, work: Work) -> Answer:
    """Tell somebody else as well."""
    rule = rule_at(ask.alert_rule, work)
    trigger = trigger_at(rule, ask.trigger)
    action = action_of(ask.action, None, work)
    _tell(rule, trigger, [*trigger.actions, action], work)
    return Answer(201, action_json(trigger.id, action, work.world.rule_names))


def update_action(ask: UpdateAction, work: Work) -> Answer:
    """Tell somebody else instead."""
    rule = rule_at(ask.alert_rule, work)
    trigger = trigger_at(rule, ask.trigger)
    standing = _action_at(trigger, ask.id)
    action = action_of(ask.action, standing, work)
    _tell(rule, trigger, [*(each for each in trigger.actions if each.id != standing.id), action], work)
    return Answer(200, action_json(trigger.id, action, work.world.rule_names))


def delete_action(ask: DeleteAction, work: Work) -> Answer:
    """Tell somebody no more."""
    rule = rule_at(ask.alert_rule, work)
    trigger = trigger_at(rule, ask.trigger)
    standing = _action_at(trigger, ask.id)
    _tell(rule, trigger, (each for each in trigger.actions if each.id != standing.id), work)
    return Answer(204)


def _others(rule: AlertRule, trigger: Trigger) -> list[Trigger]:
    return [each for each in rule.definition.triggers if each.id != trigger.id]


def _replace(rule: AlertRule, triggers: list[Trigger], work: Work) -> None:
    """Give the rule these triggers.

    :raises Refusal: two have the same label, or a value would both alert and resolve.
    """
    if len({trigger.label for trigger in triggers}) < len(triggers):
        raise ListRefusal("This label is already in use for this alert rule")
    definition = rule.definition.with_triggers(triggers)
    require_thresholds(definition)
    redefine(rule, definition, work)
    announce(rule, work, AlertRuleUpdated)


def _tell(rule: AlertRule, trigger: Trigger, actions: Iterable[Action], work: Work) -> None:
    changed = trigger.model_copy(update={"actions": tuple(actions)})
    amend(rule, rule.definition.with_triggers([*_others(rule, trigger), changed]), work)
    announce(rule, work, AlertRuleUpdated)


def _action_at(trigger: Trigger, id_: int) -> Action:
    found = next((action for action in trigger.actions if action.id == id_), None)
    if found is None:
        raise NotFound
    return found
